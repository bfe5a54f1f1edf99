"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from crrl.errors import CrrlError
from crrl.files import (
    Busy,
    alone,
    cache_folder,
    check_kind,
    content_hash,
    explain_os_errors,
    kind_of,
    open_input,
    open_own,
    read_bytes,
    read_json,
    refuse_inputs,
    refuse_place,
    shown,
    work_folder,
    write_file,
    write_folder,
    write_json,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
as_user = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")

Write = Callable[[Path], object]


@contextlib.contextmanager
def full_disk(limit: int = 4096) -> Iterator[None]:
    """No file may grow past `limit` bytes within the block; Python ignores the signal, so that writes fail."""
    resource = pytest.importorskip("resource", reason="needs a POSIX system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def half_then(error: BaseException) -> Callable[[BinaryIO], object]:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return write


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file with old content, alone in its folder."""
    path = tmp_path / "file"
    path.write_text("old")
    return path


def test_a_write_replaces_the_file_and_leaves_nothing_else(target: Path) -> None:
    write_file(target, lambda file: file.write(b"new"))
    assert content(target.parent) == {"file": b"new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug")], ids=["interrupt", "bug"])
def test_an_error_while_writing_passes_through_and_the_old_content_stays(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_file(target, half_then(error))
    assert content(target.parent) == {"file": b"old"}


def test_a_full_disk_is_named_with_the_remedy_and_the_old_content_stays(target: Path) -> None:
    with full_disk(), pytest.raises(CrrlError, match=f"cannot write {target}: .*; free some disk space"):
        write_file(target, lambda file: file.write(bytes(1 << 20)))
    assert content(target.parent) == {"file": b"old"}


@pytest.mark.parametrize(
    ("parent", "problem"),
    [pytest.param("none", "No such file", id="missing"), pytest.param("file", "Not a directory", id="a file")],
)
def test_a_folder_that_is_none_is_one_error(target: Path, parent: str, problem: str) -> None:
    path = target.parent / parent / "new"
    with pytest.raises(CrrlError, match=f"cannot write {path}: {problem}"):
        write_file(path, lambda file: file.write(b"new"))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that may be read, not written."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@as_user
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_without_permission_the_remedy_is_to_get_it(locked: Path, write: Callable[[Path, Any], None]) -> None:
    with pytest.raises(CrrlError, match=f"cannot write {locked / 'new'}: .*give yourself permission there"):
        write(locked / "new", lambda _: None)


def write_two_files(folder: Path) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    write_folder(tmp_path / "cache" / "set", write_two_files)
    assert content(tmp_path / "cache" / "set") == {"a": b"a", "b": b"b"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["set"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CrrlError])
def test_an_interrupted_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write(folder: Path) -> None:
        write_two_files(folder)
        raise error

    with pytest.raises(error):
        write_folder(tmp_path / "set", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda folder: (folder / "a").write_bytes(bytes(1 << 20)), id="bytes"),
        pytest.param(lambda folder: np.save(folder / "a.npy", np.zeros(1 << 17)), id="np.save"),
    ],
)
def test_a_full_disk_while_writing_a_folder_leaves_nothing(tmp_path: Path, write: Write) -> None:
    with full_disk(), pytest.raises(CrrlError, match=f"cannot write {tmp_path / 'set'}: .*run the same command again"):
        write_folder(tmp_path / "set", write)
    assert list(tmp_path.iterdir()) == []


@on_linux
def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[str, bool] = {}
    fsync = os.fsync

    def note(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[re.sub(r"\.set\..*\.partial/whole", "temporary", str(path.relative_to(tmp_path)))] = (
            tmp_path / "set"
        ).exists()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_folder(tmp_path / "set", write_two_files)
    assert synced == {"temporary/a": False, "temporary/b": False, "temporary": False, ".": True}


def test_what_killed_writers_left_is_swept_and_no_more(tmp_path: Path) -> None:
    left, alive, fresh, other = (tmp_path / f".{name}.partial" for name in ("a.0", "b.1", "c.2", "d"))
    for folder in (left, alive, fresh):
        (folder / "whole").mkdir(parents=True)
        (folder / "whole" / "frames.npy").write_text("half")
    other.symlink_to(fresh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(alive, "is in use"))
        for folder in (left, alive):
            os.utime(folder, (0, 0))
        write_folder(tmp_path / "set", write_two_files)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, fresh.name, other.name, "set"}
    assert (fresh / "whole" / "frames.npy").exists()


def test_a_work_folder_is_one_processs_and_gone_at_the_end(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with work_folder(work, "is in use") as whole:
        (whole / "a").touch()
        with pytest.raises(Busy, match=f"^{work} is in use$"), work_folder(work, "is in use"):
            pass
        assert content(whole) == {"a": b""}
    assert not work.exists()
    (work / "whole").mkdir(parents=True)
    (work / "whole" / "of a killed process").touch()
    (work / "kept").touch()
    with work_folder(work, "is in use") as whole:
        assert content(whole) == {}
    assert content(work) == {"kept": b""}


def test_nothing_is_worked_on_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "own" / "whole").mkdir(parents=True)
    (tmp_path / "own" / "whole" / "a").touch()
    (tmp_path / "work").symlink_to("own")
    with pytest.raises(CrrlError, match=r"work is a symbolic link.*: remove it"), work_folder(tmp_path / "work", ""):
        pass
    (tmp_path / "work").unlink()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "whole").symlink_to(tmp_path / "own" / "whole")
    with pytest.raises(CrrlError, match=r"cannot write .*whole: File exists"), work_folder(tmp_path / "work", ""):
        pass
    assert content(tmp_path / "own" / "whole") == {"a": b""}


def live_on(started: Any) -> None:
    started.set()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    with alone(tmp_path, "is in use"):
        worker = fork.Process(target=live_on, args=(started,))
        worker.start()
        assert started.wait(60)
        with pytest.raises(Busy), alone(tmp_path, "is in use"):
            pass
    try:
        with alone(tmp_path, "is in use"):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def test_the_first_of_two_writers_of_a_folder_wins(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        write_folder(tmp_path / "set", write_two_files)
        (folder / "a").write_text("late")

    write_folder(tmp_path / "set", overtaken)
    assert content(tmp_path / "set") == {"a": b"a", "b": b"b"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"names": ["é", "b"], "rate": 0.1, "none": None}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"a": [1, 2',
        b'{"a": 1}}',
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b"1" * 5_000,
        b'{"a": \r1}',
        b'{"a": 1, "a": 2}',
    ],
    ids=["empty", "cut short", "two ends", "binary", "nested deep", "a long number", "a changed sign", "a name twice"],
)
def test_damaged_json_is_named_with_the_remedy(target: Path, text: bytes) -> None:
    target.write_bytes(text)
    with pytest.raises(CrrlError, match=f"{target} is not valid JSON .*restore it"):
        read_json(target)


KINDS = {
    "git-lfs": [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"],
    "git-annex": [b"/annex/objects/MD5E-s9--aa.pkl\n", b"../../.git/annex/objects/Xx/1F/SHA256E-s5/SHA256E-s5"],
    "html": [b"<!DOCTYPE html>\n", b"  \n<HTML lang=en>", b"\xef\xbb\xbf<html>", b"<head>", b"<!doctype HTML>"],
    "xml": [b'<?xml version="1.0"?>', b"<Error><Code>NoSuchKey", b"<!-- saved -->"],
    "answer": [b"404: Not Found", b"Not Found\n", b"Access Denied"],
    "gzip": [b"\x1f\x8b\x08", b"\x1f\x9d\x90"],
    "bzip2": [b"BZh91AY"],
    "xz": [b"\xfd7zXZ\x00\x00"],
    "zstd": [b"\x28\xb5\x2f\xfd\x04"],
    "7z": [b"7z\xbc\xaf\x27\x1c"],
    "rar": [b"Rar!\x1a\x07\x00"],
    "tar": [b"name".ljust(257, b"\x00") + b"ustar\x0000"],
    "zip": [b"PK\x03\x04\x14", b"PK\x05\x06" + bytes(18)],
    "npy": [b"\x93NUMPY\x01\x00"],
    "pickle": [b"\x80\x02]q", b"\x80\x05\x95"],
    "json": [b'{"a": 1}', b" \n[1, 2]", b"\xef\xbb\xbf{}"],
    "bvh": [b"HIERARCHY\nROOT Hips\n", b"\xef\xbb\xbfHierarchy\r\n"],
    "fbx": [b"Kaydara FBX Binary  \x00"],
    "safetensors": [
        length + b'\0\0\0\0\0\0{"__metadata__":' for length in (b"\x40\0", b"\x80\x03", b"\x1f\x8b", b"MZ", b"PK")
    ],
    "hdf5": [b"\x89HDF\r\n\x1a\n"],
    "mat": [b"MATLAB 5.0 MAT-file, Platform: PCWIN64"],
    "utf-16": ["1 2\n".encode("utf-16"), b"\xfe\xff\x00a\x00b"],
    "office": [b"\xd0\xcf\x11\xe0\xa1\xb1"],
    "pdf": [b"%PDF-1.7"],
    "image": [b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"GIF89a"],
    "video": [b"RIFF\x00\x00\x00\x00AVI LIST", b"\x00\x00\x00\x20ftypisom", b"\x1a\x45\xdf\xa3"],
    "sqlite": [b"SQLite format 3\x00"],
    "parquet": [b"PAR1\x15\x04"],
    "program": [b"\x7fELF\x02", b"MZ\x90\x00"],
}


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, heads in KINDS.items() for head in heads])
def test_kinds_are_told_by_their_first_bytes(tmp_path: Path, name: str, head: bytes) -> None:
    kind = kind_of(head + b"more" * 300)
    assert kind is not None or name == "answer"
    kind = kind_of(head)
    assert kind is not None
    assert kind.name == name
    (tmp_path / "a.x").write_bytes(head)
    message = re.escape(f"{tmp_path / 'a.x'} is {kind.words}, not a thing: {kind.remedy}")
    with pytest.raises(CrrlError, match=f"^{message}$"):
        open_input(tmp_path / "a.x", "a thing", "another")
    with open_input(tmp_path / "a.x", "a thing", name, only=True) as file:
        assert file.read() == head


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"103\r\n1\r\n72057594037931101 0 1",
        b"0.1 -0.2 0.3\n",
        b"-1,2\n",
        b"#!OML:ASF F:\\x.asf\n:FULLY-SPECIFIED",
        b"# AST/ASF file\n:version 1.10\n",
        b"file,label\na.npy,walk\n",
        b"Training videos: \n0002-L\n",
        b"6,1,4,2\n",
        b'302 samples of "NTU RGB+D" lack skeletons.\r\n',
        b"(lp0\nI1\na.",
        b"(dp0\nS'split'\np1\n",
        b"S001C002P005R002A008\n",
        b"notes,file,label\n",
        b"not found in any list: S001C001P001R001A001\n",
        "ünïcode".encode(),
    ],
)
def test_what_readers_read_is_of_no_other_kind(head: bytes) -> None:
    assert kind_of(head) is None
    check_kind(Path("a"), head, "a thing")


def test_a_file_that_must_be_of_a_kind_is_named_by_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"0.1,\x00\xff" * 99)
    with pytest.raises(
        CrrlError, match=r"a\.npy is not a \.npy array \(it begins with '0\.1,\?\?0\.1,.*'\): restore it"
    ):
        open_input(tmp_path / "a.npy", "a .npy array", "npy", only=True)


def test_what_a_message_repeats_can_be_printed() -> None:
    for text in ("a\nb\x1b[31m\ud800" * 99, b"a\nb\x1b[31m\xff" * 99):
        assert shown(text) == ("a?b?[31m?" * 3)[:24]
    assert shown("左腕 é") == "左腕 é"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("read", [read_bytes, read_json, lambda path: open_input(path, "a thing")])
def test_what_has_no_end_or_may_never_begin_is_no_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(
            CrrlError, match=f"{name} is not a regular file, but a pipe, a device or a socket: give a file"
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_can_be_no_name_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(CrrlError, match="cannot be a file's name"):
        read_bytes(Path(name))
    with pytest.raises(CrrlError, match=r"cannot read .*File name too long"):
        read_bytes(Path("x" * 5000))


def test_json_of_another_kind_is_named(target: Path) -> None:
    target.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CrrlError, match=f"{target} is a git-lfs pointer, not JSON: fetch the file that it stands for"):
        read_json(target)
    for encoding in ("utf-16", "utf-8-sig", "utf-8"):
        target.write_text('{"a":\r\n "é"}', encoding=encoding, newline="")
        assert read_json(target) == {"a": "é"}


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=f"cannot read {tmp_path / 'none.json'}: No such file .*check the path"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("other", [["ab", "c"], ["a", "bc", ""], ["abc"], ["bc", "a"]])
def test_parts_of_a_hash_do_not_run_into_each_other(other: list[str]) -> None:
    assert content_hash(other) != content_hash(["a", "bc"])


def test_text_hashes_as_its_utf8_bytes() -> None:
    assert content_hash(["é"]) == content_hash(["é".encode()])


def test_the_cache_is_where_the_environment_says_else_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRRL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CRRL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "crrl"


def test_a_file_in_the_way_of_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CrrlError, match=r"file/run.*choose another folder"),
        explain_os_errors(tmp_path / "file" / "run", "create"),
    ):
        (tmp_path / "file" / "run").mkdir(parents=True)


def test_a_second_process_in_a_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(run, "is in use: wait"))
        stack.enter_context(alone(run, "is in use", "another lock"))
        with pytest.raises(Busy, match=f"^{run} is in use: wait$"):
            stack.enter_context(alone(run, "is in use: wait"))
    with alone(run, "is in use"):
        pass


def test_those_that_share_a_lock_keep_out_the_one_that_does_not(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(alone(tmp_path, "is in use", shared=True))
        with pytest.raises(Busy):
            stack.enter_context(alone(tmp_path, "is in use"))


def test_a_killed_process_leaves_no_lock_once_those_that_it_handed_it_on_to_are_gone(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, subprocess\nfrom crrl.files import alone\n"
        f"with alone(pathlib.Path({str(tmp_path)!r}), 'is in use') as lock:\n"
        "    subprocess.Popen(['cat'], pass_fds=(lock,))\n"
        "    print('locked', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert holder.wait() == -9
        with pytest.raises(Busy), alone(tmp_path, "is in use"):
            pass
        holder.communicate()  # ends cat's input, and so cat, whose files the kernel closes one after the other
    assert any(is_free(tmp_path) or time.sleep(0.01) for _ in range(1000))


def is_free(folder: Path) -> bool:
    try:
        with alone(folder, "is in use"):
            return True
    except Busy:
        return False


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: socket.socket(socket.AF_UNIX).bind(str(path))],
    ids=["pipe", "link to a device", "socket"],
)
def test_no_file_takes_the_place_of_a_device(
    tmp_path: Path, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make(Path("out"))
    before = os.lstat("out")
    with pytest.raises(CrrlError, match=r"^out is a device, a pipe or a socket"):
        write_file(Path("out"), lambda file: file.write(b"new"))
    with pytest.raises(CrrlError, match=r"^out is a device, a pipe or a socket"):
        refuse_place(Path("out"))
    assert os.lstat("out").st_ino == before.st_ino
    assert os.listdir() == ["out"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_nothing_is_written_among_devices() -> None:
    for name in ("/proc/self/fd/1", "/dev/fd/1", "/proc/new"):
        with pytest.raises(
            CrrlError, match=f"^{name} is a device, .* or lies in /dev, /proc or /sys: give the name of a file"
        ):
            write_file(Path(name), lambda file: file.write(b"new"))


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_what_is_read_is_not_written(target: Path, link: Callable[[Path, Path], None] | None) -> None:
    other = target.with_name("other")
    if link:
        link(target, other)
    with pytest.raises(CrrlError, match=f"^--out .* would overwrite {target}, which is read: give another name"):
        refuse_inputs(other if link else target.parent / "." / "file", [target.with_name("none"), target])
    refuse_inputs(target.with_name("new"), [target.with_name("new"), target])


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("other"), os.mkfifo], ids=["symlink", "pipe"])
def test_nothing_is_written_through_what_is_not_ours(tmp_path: Path, make: Callable[[Path], object]) -> None:
    (tmp_path / "other").write_text("precious")
    make(tmp_path / "log")
    with pytest.raises(CrrlError, match=r"log is .*remove it"):
        os.close(open_own(tmp_path / "log", os.O_RDWR | os.O_TRUNC))
    assert (tmp_path / "other").read_text() == "precious"
