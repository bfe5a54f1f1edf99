"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from crrl.errors import CrrlError
from crrl.files import cache_folder, content_hash, explain_os_errors, read_json, write_file, write_folder, write_json

as_user = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")

Write = Callable[[Path], object]


@contextmanager
def full_disk(limit: int = 4096) -> Iterator[None]:
    """No file may grow past `limit` bytes within the block; Python ignores the signal, so that writes fail."""
    resource = pytest.importorskip("resource", reason="needs a POSIX system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def half_then(error: BaseException) -> Write:
    def write(path: Path) -> None:
        path.write_text("half")
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
    write_file(target, lambda path: path.write_text("new"))
    assert content(target.parent) == {"file": b"new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug")], ids=["interrupt", "bug"])
def test_an_error_while_writing_passes_through_and_the_old_content_stays(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_file(target, half_then(error))
    assert content(target.parent) == {"file": b"old"}


def test_a_full_disk_is_named_with_the_remedy_and_the_old_content_stays(target: Path) -> None:
    with full_disk(), pytest.raises(CrrlError, match=f"cannot write {target}: .*; free some disk space"):
        write_file(target, lambda path: path.write_bytes(bytes(1 << 20)))
    assert content(target.parent) == {"file": b"old"}


@pytest.mark.parametrize(
    ("parent", "problem"),
    [pytest.param("none", "No such file", id="missing"), pytest.param("file", "Not a directory", id="a file")],
)
def test_a_folder_that_is_none_is_one_error(target: Path, parent: str, problem: str) -> None:
    path = target.parent / parent / "new"
    with pytest.raises(CrrlError, match=f"cannot write {path}: {problem}"):
        write_file(path, lambda path: path.write_text("new"))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that may be read, not written."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@as_user
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_without_permission_the_remedy_is_to_get_it(locked: Path, write: Callable[[Path, Write], None]) -> None:
    with pytest.raises(CrrlError, match=f"cannot write {locked / 'new'}: .*give yourself permission there"):
        write(locked / "new", lambda path: path.write_text("new"))


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
    [b"", b'{"a": [1, 2', b'{"a": 1}}', b"\xff\xfe\xfa", b"[" * 100_000, b"1" * 5_000],
    ids=["empty", "cut short", "two ends", "binary", "nested deep", "a long number"],
)
def test_damaged_json_is_named_with_the_remedy(target: Path, text: bytes) -> None:
    target.write_bytes(text)
    with pytest.raises(CrrlError, match=f"{target} is not valid JSON .*restore it"):
        read_json(target)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=f"cannot read {tmp_path / 'none.json'}: No such file .*check the path"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("other", [["ab", "c"], ["a", "bc", ""], ["abc"], ["bc", "a"]])
def test_parts_of_a_hash_do_not_run_into_each_other(other: list[str]) -> None:
    assert content_hash(other) != content_hash(["a", "bc"])


def test_text_hashes_as_its_utf8_bytes() -> None:
    assert content_hash(["é"]) == content_hash(["é".encode()])


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_cache_is_in_the_home_folder_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRRL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "crrl"


def test_a_file_in_the_way_of_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CrrlError, match=r"file/run.*choose another path"),
        explain_os_errors(tmp_path / "file" / "run", "create"),
    ):
        (tmp_path / "file" / "run").mkdir(parents=True)
