"""Progress on stderr: a bar on a terminal; elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINE = "{desc}: {percentage:3.0f}%, {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Lines(io.TextIOBase):
    """Writes a bar's output as lines, to what is stderr when it is made."""

    def __init__(self) -> None:
        self._stderr = sys.stderr

    def write(self, text: str) -> int:
        if line := text.strip():
            with suppress(OSError):  # a full disk under a log must not end the work
                print(line, file=self._stderr)
        return len(text)


def bar(total: int, what: str, unit: str, every: float = 30, **options: Any) -> tqdm:
    """A bar over `total` units on stderr; if that is no terminal, a line every `every` seconds.

    Args:
        options: options of tqdm.
    """
    if not sys.stderr.isatty():
        lines = {"file": Lines(), "bar_format": LINE, "position": 0}  # else it moves the cursor past other runs' bars
        options = {**lines, "mininterval": every, "maxinterval": every, **options}
    return tqdm(total=total, desc=what, unit=unit, **{"mininterval": 0.2, **options})


def counted(items: Iterable[Item], total: int, what: str, unit: str, **options: Any) -> Iterator[Item]:
    """Yield the `total` items under a `bar` that advances after each of them has been used."""
    with bar(total, what, unit, **options) as done:
        for item in items:
            yield item
            done.update()
