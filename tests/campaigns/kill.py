"""`kill`: commands killed and stopped at random moments, and given again until they are done, leave the same bits."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from tests.campaigns import guard
from tests.campaigns.commands import Command, build

MOST_ATTEMPTS = 400
"""Attempts after which a command that is killed again and again no longer comes to an end."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=[], help="these commands alone; all without it")


def main(options: Namespace) -> tuple[str, int]:
    """--count kills of each command, divided by what it costs."""
    rng = random.Random(options.seed)
    total: Counter[str] = Counter()
    with guard.work_folder() as root:
        (root / "data").mkdir()
        commands = build(root / "data")
        for name in options.only or commands:
            found = campaign(name, commands[name], root / name, max(1, options.count // commands[name].cost), rng)
            print(f"  {name}: {said(found)}", flush=True)
            total += found
    return said(total), total["faults"]


def said(counts: Counter[str]) -> str:
    return (
        f"{counts['kills']} SIGKILLs, {counts['stops']} times SIGSTOP and SIGCONT, {counts['done']} commands done, "
        f"{counts['done'] - counts['other']} with the same bits, {counts['faults']} faults"
    )


def campaign(name: str, command: Command, root: Path, kills: int, rng: random.Random) -> Counter[str]:
    counts: Counter[str] = Counter()
    root.mkdir()
    since = time.monotonic()
    if problem := in_peace(command, root / "peace" / "place"):
        print(f"fault: {name} in peace: {problem}", file=sys.stderr)
        return Counter(faults=1)
    seconds, expected = time.monotonic() - since, command.result(root / "peace" / "place")
    while counts["kills"] < kills:
        place = root / str(counts["done"]) / "place"
        problem = disturb(command, place, command.within * seconds, counts, rng)
        counts["done"] += 1
        found = {} if problem else command.result(place)
        if found != expected:
            counts["other"] += 1
            different = [each for each in {**found, **expected} if found.get(each) != expected.get(each)]
            print(f"fault: {name}: {problem or f'other {different}'}", file=sys.stderr, flush=True)
            counts["faults"] += 1
        if command.cost > 1:  # minutes each
            print(f"    {name}, so far: {said(counts)}", flush=True)
        if counts["faults"] > 20:
            break
    return counts


def in_peace(command: Command, place: Path) -> str:
    place.mkdir(parents=True)
    codes = [guard.wait(pid) for pid in command.begin(place)]
    return "" if set(codes) == {0} else f"exit codes {codes}, {last_words(place)}"


def last_words(place: Path) -> str:
    output = place.with_name("output")
    return repr(output.read_text(errors="replace")[-300:]) if output.exists() else ""


def disturb(command: Command, place: Path, seconds: float, counts: Counter[str], rng: random.Random) -> str:
    """Give the command until it is done, each time killed or stopped at a moment within `seconds`, or let be.

    Returns:
        What went wrong; "": nothing.
    """
    place.mkdir(parents=True)
    for attempt in range(MOST_ATTEMPTS):
        pids = command.begin(place)
        time.sleep(seconds * rng.random())
        kind, chosen = rng.choice(("kill", "kill", "group", "stop")), rng.sample(pids, rng.randint(1, len(pids)))
        if kind == "stop":
            counts["stops"] += sum(send(pid, signal.SIGSTOP) for pid in chosen)
            time.sleep(0.2 * rng.random())
            for pid in chosen:
                send(pid, signal.SIGCONT)
        for pid in chosen if kind != "stop" else ():
            for each in (*descendants(pid), pid) if kind == "group" else (pid,):
                send(each, signal.SIGKILL)
        codes = [guard.wait(pid) for pid in pids]
        counts["kills"] += codes.count(-signal.SIGKILL)
        if set(codes) == {0}:
            return ""
        killed = -signal.SIGKILL in codes
        if command.busy and not killed and command.busy in last_words(place):
            time.sleep(0.5)
            continue
        if command.made and not killed and attempt and command.made in last_words(place):
            return ""
        if None in codes or not killed or (len(codes) == 1 and codes[0] != -signal.SIGKILL):
            return f"exit codes {codes} after {kind}, {last_words(place)}"
    return "it never ends"


def send(pid: int, signum: int) -> bool:
    """Whether the process was still there to get the signal."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (*descendants(child), child)]
