"""What is sealed is found damaged by any change; large files by a sample, and in full where that is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crrl.data import integrity
from crrl.data.integrity import Inputs, damage, seal
from crrl.errors import CrrlError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "b").touch()
    seal(tmp_path)
    return tmp_path


def change(path: Path, place: int, keep_time: bool) -> None:
    content, before = bytearray(path.read_bytes()), path.stat()
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns if keep_time else before.st_mtime_ns + 1))


def test_a_sealed_folder_is_whole_until_a_byte_changes(folder: Path) -> None:
    assert damage(folder, {"a", "b"}) == ""
    os.utime(folder / "a")
    assert damage(folder, {"a", "b"}) == ""
    change(folder / "a", 500, keep_time=True)
    assert damage(folder, {"a", "b"}) == f"{folder / 'a'} is no longer what was written"


@pytest.mark.parametrize("names", [{"a"}, {"a", "b", "c"}])
def test_a_seal_of_other_files_is_damaged(folder: Path, names: set[str]) -> None:
    assert damage(folder, names) == f"{folder / 'hashes.json'} is damaged"


def test_a_large_file_is_sampled_while_nobody_wrote_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LARGE": 1024, "BLOCK": 16, "BLOCKS": 3}.items():
        monkeypatch.setattr(integrity, name, value)
    seal_again = folder / "hashes.json"
    seal_again.unlink()
    seal(folder)
    for place in (0, 512, 1023):
        change(folder / "a", place, keep_time=True)
        assert damage(folder, {"a", "b"})
        change(folder / "a", place, keep_time=True)
        assert not damage(folder, {"a", "b"})
    change(folder / "a", 300, keep_time=True)
    assert not damage(folder, {"a", "b"})
    with monkeypatch.context() as patch:
        patch.setenv("CRRL_CHECK", "full")
        assert damage(folder, {"a", "b"})
    os.utime(folder / "a")
    assert damage(folder, {"a", "b"})


def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        try:
            raise PermissionError(13, "Permission denied")
        except PermissionError as error:
            raise CrrlError("cannot read") from error

    monkeypatch.setattr(integrity, "sha256", refuse)
    with pytest.raises(PermissionError):
        damage(folder, {"a", "b"})


def test_inputs_are_unchanged_until_somebody_writes(folder: Path) -> None:
    inputs = Inputs([folder / "a", folder / "b"], lambda path: str(path.stat().st_size))
    inputs.check()
    assert inputs.digests == {folder / "a": "1024", folder / "b": "0"}
    change(folder / "a", 0, keep_time=True)  # neither size nor time tells
    with pytest.raises(CrrlError, match=f"{folder / 'a'} changed while it was read: run the same command again"):
        inputs.check()
