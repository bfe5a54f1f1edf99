"""`disk`: training and preparing on disks that are too small, of all sizes: one line, and with room the same bits."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from tests.campaigns import guard
from tests.campaigns.commands import Command, build
from tests.campaigns.kill import in_peace, last_words

ROOM = 1 << 28
PAGE = 4096


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=["train", "prepare-ntu", "prepare-bvh"], help="these commands")
    parser.add_argument("--mounting", action="store_true", help="in a namespace that may mount, as the command sees to")


def main(options: Namespace) -> tuple[str, int]:
    """--count disks of each command, their sizes evenly from nothing to what it needs."""
    if not options.mounting and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0:
        again = ["unshare", "-rm", sys.executable, "-m", "tests.campaigns", *sys.argv[1:], "--mounting"]
        result = subprocess.run(again, stdout=subprocess.PIPE, text=True)
        *before, last = result.stdout.splitlines() or [""]
        print("\n".join(before))
        return last.removeprefix("disk: ").rpartition("; seed")[
            0
        ] or "the campaign itself has failed", result.returncode
    total: Counter[str] = Counter()
    how = "file systems" if options.mounting else "limits of a file's size, as nothing can be mounted here,"
    with guard.work_folder() as root:
        (root / "data").mkdir()
        commands = build(root / "data")
        for name in options.only:
            found = campaign(name, commands[name], root / name, options)
            print(f"  {name}: {dict(found)}", flush=True)
            total += found
    lost = total["faults"]
    said = f"{total['disks']} {how} too small, {total['full']} of them told in a line, {total['done']} commands then"
    return f"{said} done with the same bits, {lost} faults", lost


def campaign(name: str, command: Command, root: Path, options: Namespace) -> Counter[str]:
    counts: Counter[str] = Counter()
    disk = (Mounted if options.mounting else Limited)(root)
    needed, expected = _needed(disk, command)
    for number in range(options.count):
        disk.shrink(max(PAGE, needed * number // options.count))
        counts["disks"] += 1
        codes = [guard.wait(pid) for pid in disk.begin(command)]
        said = last_words(disk.place)
        problem = ""
        if set(codes) != {0}:
            counts["full"] += 1
            if codes != [2] or "Traceback" in said or "space" not in said:
                problem = f"exit codes {codes}: {said}"
        disk.grow()
        again = [guard.wait(pid) for pid in disk.begin(command)]
        if set(again) != {0} or command.result(disk.place) != expected:
            problem = f"with room again: exit codes {again}: {last_words(disk.place)}"
        counts["done"] += not problem
        if problem:
            counts["faults"] += 1
            print(f"fault: {name}, disk {number} of {options.count}: {problem}", file=sys.stderr, flush=True)
        disk.clear()
    return counts


def _needed(disk: Mounted | Limited, command: Command) -> tuple[int, dict[str, str]]:
    """How large the disk must be (the largest file, where files are limited), and what the command leaves."""
    disk.grow()
    if problem := in_peace(command, disk.place):
        raise RuntimeError(problem)
    expected, needed = command.result(disk.place), disk.used()
    disk.clear()
    return needed, expected


class Mounted:
    """A file system of its own for each attempt."""

    def __init__(self, root: Path):
        self.root, self.place = root / "disk", root / "disk" / "place"
        self.root.mkdir(parents=True)
        self._mounted = False

    def _mount(self, size: int) -> None:
        kind = ["-o", f"remount,size={size}"] if self._mounted else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        subprocess.run(["mount", *kind, str(self.root)], check=True)
        self._mounted = True

    def shrink(self, size: int) -> None:
        self._mount(size + PAGE)
        self.place.mkdir()

    def grow(self) -> None:
        self._mount(ROOM)

    def begin(self, command: Command) -> list[int]:
        output = self.root.with_name("output")  # its words are no part of what the disk holds
        output.unlink(missing_ok=True)
        output.touch()
        (self.root / "output").unlink(missing_ok=True)
        (self.root / "output").symlink_to(output)
        return command.begin(self.place)

    def used(self) -> int:
        state = os.statvfs(self.root)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def clear(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)
        self._mounted = False


class Limited:
    """A folder in which no file may be larger than the limit."""

    def __init__(self, root: Path):
        self.root, self.place = root / "disk", root / "disk" / "place"
        self._size = ROOM
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def shrink(self, size: int) -> None:
        self._size = size
        self.place.mkdir(parents=True)

    def grow(self) -> None:
        self._size = ROOM

    def begin(self, command: Command) -> list[int]:
        self.place.with_name("output").unlink(missing_ok=True)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, before[1]))
        try:
            return command.begin(self.place)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def used(self) -> int:
        return max(path.stat().st_size for path in self.place.rglob("*") if path.is_file())

    def clear(self) -> None:
        shutil.rmtree(self.root)
