"""What the readers of text formats share: lines with their numbers, numbers in columns, errors that name the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crrl.errors import CrrlError
from crrl.files import read_bytes

LARGEST = float(np.finfo(np.float32).max)
RESTORE = "the file is damaged or cut short; restore it"


class Line(NamedTuple):
    """One line that is not blank: its number in the file, from 1, and its text without space around it."""

    number: int
    text: str


def line_error(path: Path, line: Line | int, problem: str, remedy: str = RESTORE) -> CrrlError:
    """The error for `path` at a line (or line number); the caller raises it."""
    number = line if isinstance(line, int) else line.number
    return CrrlError(f"{path}, line {number}: {problem}: {remedy}")


def read_lines(path: Path, *, whole: bool = True) -> list[Line]:
    """The lines of a text file in UTF-8 (ASCII, that is, in most formats) that are not blank; CR LF ends lines as well.

    Args:
        whole: insist on the line break at the end, without which the last number may have lost digits.

    Raises:
        CrrlError: the file cannot be read, is empty, is in another encoding, or stops in the middle of a line.
    """
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise line_error(path, content.count(b"\n", 0, error.start) + 1, f"not UTF-8 ({error.reason})") from error
    lines = text.split("\n")
    if whole and lines[-1].strip():
        remedy = "restore it or, if it is complete, end that line with a line break"
        raise line_error(path, len(lines), "the file stops in the middle of a line", remedy)
    numbered = [Line(number, stripped) for number, line in enumerate(lines, 1) if (stripped := line.strip())]
    if not numbered:
        raise line_error(path, 1, "the file is empty")
    return numbered


def numbers(path: Path, rows: Sequence[Line], columns: int, after: str = "") -> npt.NDArray[np.float64]:
    """Rows of `columns` decimal numbers apart by space, finite in float32 too, float64 [len(rows), columns].

    Args:
        after: what each row starts with, before its numbers.

    Raises:
        CrrlError: a row has another count, or a word in it is no finite number.
    """
    texts = [row.text[len(after) :] for row in rows]
    if texts and columns and all(text.strip() for text in texts):
        try:
            values = np.loadtxt(texts, dtype=np.float64, comments=None, ndmin=2)
            if values.shape == (len(rows), columns) and (np.abs(values) <= LARGEST).all():
                return values
        except ValueError:
            pass
    for row, text in zip(rows, texts, strict=True):
        _check_row(path, row, text.split(), columns)
    return np.zeros((len(rows), columns))  # of rows without numbers: the others have raised


def _check_row(path: Path, row: Line, words: list[str], columns: int) -> None:
    for word in words:
        try:
            finite = bool((np.abs(np.loadtxt([word], comments=None)) <= LARGEST).all())
        except ValueError:
            finite = False
        if not finite:
            raise line_error(path, row, f"{word[:40]!r} is no finite number")
    if len(words) != columns:
        raise line_error(path, row, f"{len(words)} numbers, not {columns}")
