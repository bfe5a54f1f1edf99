"""Progress bars: one that moves on a terminal, and where stderr is none, as in a log file, a line now and then."""

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
    """Passes what a bar writes on to stderr, as lines."""

    def write(self, text: str) -> int:
        if line := text.strip():
            with suppress(OSError):  # a log on a full disk ends no work
                print(line, file=sys.stderr)
        return len(text)


def bar(total: int, what: str, unit: str, every: float = 30, **options: Any) -> tqdm:
    """A bar over `total` units on stderr; where that is no terminal, a line every so many seconds.

    Args:
        options: of tqdm.
    """
    if not sys.stderr.isatty():
        options = {"file": Lines(), "bar_format": LINE, "mininterval": every, "maxinterval": every, **options}
    return tqdm(total=total, desc=what, unit=unit, **{"mininterval": 0.2, **options})


def counted(items: Iterable[Item], total: int, what: str, unit: str, **options: Any) -> Iterator[Item]:
    """The items, `total` of them, with a `bar` that moves on as each of them has been used."""
    with bar(total, what, unit, **options) as done:
        for item in items:
            yield item
            done.update()
