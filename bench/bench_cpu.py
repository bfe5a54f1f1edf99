"""Each row of a CPU as a benchmark; groups.py has them all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bench import groups
from bench.cases import Case
from bench.rows import Row
from bench.timing import Entry


def name(group: str, make: partial[Entry]) -> str:
    """Of a row, for -k: its group and what it is made of."""
    return "-".join([group, make.func.__name__, *map(_word, make.args)])


def _word(value: Any) -> str:
    if isinstance(value, bool):  # of a GRU
        return "forward + backward" if value else "forward"
    if isinstance(value, Case):
        return value.title
    return str(getattr(value, "__name__", value))


ROWS = [pytest.param(group, make, id=name(group, make)) for group, entries in groups.CPU.items() for make in entries()]


@pytest.mark.parametrize(("group", "make"), ROWS)
def test_row(group: str, make: partial[Entry], measure: Callable[[str, Callable[[], Entry]], Row]) -> None:
    row = measure(group, make)
    assert not row.broken, row.summary()
