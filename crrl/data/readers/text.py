"""Shared by the readers of text formats: numbered lines, numbers in columns, errors with line numbers, remarks.

Anything that is not understood is an error with its line. What can be read but should be known (a last line without a
line break) is a remark: readers collect remarks, and `tell` turns each into one warning for all files of a data set.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crrl.errors import CrrlError
from crrl.files import read_bytes

LARGEST = float(np.finfo(np.float32).max)
FEW = 8
"""Rows that are parsed one by one: for more of them NumPy's parser, which is slow to start, is faster."""
MEND = "correct that line, or restore the file"
CUT_SHORT = "the file is cut short; restore it"
UNENDED = "without a line break at the end: the last number may have lost digits"
"""The remark on a file whose last line is complete but has no line break."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BREAK = re.compile(r"[\n\r\x85\u2028\u2029]|" + _UNPRINTABLE.pattern)


class Line(NamedTuple):
    """A line that is not blank: its number in the file, from 1, and its text without surrounding space."""

    number: int
    text: str


class Unended(Line):
    """The last line of a file, without a line break at its end."""


def line_error(path: Path, line: Line | int, problem: str, remedy: str = MEND) -> CrrlError:
    """The error for a line (or line number) of `path`; the caller raises it."""
    number = line if isinstance(line, int) else line.number
    return CrrlError(f"{path}, line {number}: {problem}: {remedy}")


def read_lines(path: Path, what: str = "text", *kinds: str) -> list[Line]:
    """The lines of a UTF-8 text file that are not blank.

    Lines end in LF or CR LF; in a file without any LF, in CR. A CR elsewhere is refused, as is any unprintable
        character
    except a tab: it may be a damaged sign or digit. The last line is `Unended` if it has no line break.

    Args:
        what: the expected kind of file, in words, and `kinds`, as for `crrl.files.open_input`.

    Raises:
        CrrlError: the file cannot be read, is empty, of another kind or in another encoding.
    """
    content = read_bytes(path, what, *kinds)
    try:
        text = content.decode("utf-8-sig").removesuffix("\x1a")  # the end-of-file mark of DOS
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise line_error(path, number, f"not UTF-8 ({error.reason})", "save it as UTF-8, or restore it") from error
    end = "\n" if "\n" in text else "\r"
    if odd := _UNPRINTABLE.search(text):
        raise _unprintable(path, text.count(end, 0, odd.start()) + 1, odd[0])
    lines = text.split(end)
    numbered: list[Line] = []
    for number, line in enumerate(lines, 1):
        if "\r" in (line := line.rstrip("\r")):
            raise _unprintable(path, number, "\r")
        if line := line.strip():
            numbered.append(Line(number, line))
    if not numbered:
        raise line_error(path, 1, "the file is empty", "restore it")
    if numbered[-1].number == len(lines):
        numbered[-1] = Unended(*numbered[-1])
    return numbered


def remarks_on(lines: Sequence[Line]) -> list[str]:
    """[UNENDED] if the last of these lines has no line break, else []; for readers that count what a row must hold."""
    return [UNENDED] if isinstance(lines[-1], Unended) else []


def _unprintable(path: Path, number: int, character: str) -> CrrlError:
    called = {"\r": "a carriage return inside of a line", "\0": "a zero byte"}
    return line_error(path, number, called.get(character, f"an unprintable character (0x{ord(character):02x})"))


def tell(remarks: Iterable[tuple[Path, str]]) -> None:
    """Give one warning for each remark: the first file it is about, and the number of the others."""
    files: dict[str, list[Path]] = {}
    for path, remark in remarks:
        files.setdefault(remark, []).append(path)
    for remark, (first, *others) in files.items():
        more = f" and {len(others)} more files are" if others else " is"
        warnings.warn(f"{first}{more} {remark}", stacklevel=2)


def numbers(path: Path, rows: Sequence[Line], columns: int, after: str = "") -> npt.NDArray[np.float64]:
    """Parse rows of `columns` decimal numbers, separated by space and finite in float32: float64 [len(rows), columns].

    Args:
        after: a prefix of each row, to skip; its case may differ.

    Raises:
        CrrlError: a row has another count, or a word that is not a finite number.
    """
    texts = [row.text[len(after) :] for row in rows]
    if len(texts) > FEW and columns and all(text.strip() for text in texts):
        try:
            values = np.loadtxt(texts, dtype=np.float64, comments=None, ndmin=2)
            if values.shape == (len(rows), columns) and (np.abs(values) <= LARGEST).all():
                return values
        except ValueError:
            pass
    found = [_row(path, row, text, columns) for row, text in zip(rows, texts, strict=True)]
    return np.array(found, np.float64).reshape(len(rows), columns)


def _row(path: Path, row: Line, text: str, columns: int) -> list[float]:
    if odd := _BREAK.search(text):
        raise _unprintable(path, row.number, odd[0])
    words = text.split()
    values = [float(word) if _NUMBER.fullmatch(word) else np.nan for word in words]
    for word, value in zip(words, values, strict=True):
        if not abs(value) <= LARGEST:
            hint = ", a comma where a point should be" if _NUMBER.fullmatch(word.replace(",", ".", 1)) else ""
            raise line_error(path, row, f"{word[:40]!r} is not a finite number{hint}")
    if len(words) < columns and isinstance(row, Unended):
        raise line_error(path, row, "the file stops in the middle of a line", CUT_SHORT)
    if len(words) != columns:
        raise line_error(path, row, f"{len(words)} numbers, not {columns}")
    return values
