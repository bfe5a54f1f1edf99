"""Changes of a file: each a function of the folder that holds it, or (`swap`) of its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path], object]


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, kept: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def edit(name: str, old: str, new: str) -> Change:
    """Replace the first `old`, which is there."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def swap(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Replace every `old`, which is there, by its `new`."""

    def change(text: str) -> str:
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text

    return change
