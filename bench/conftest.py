"""`pytest bench/`: the rows of a CPU, a benchmark each, and the page of the whole run.

Parity first, then peers in turns. A part of the rows (`-k streaming`), or a run that was stopped or in which ours was
wrong, leaves its page in build/bench, beside no page that is kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.groups import run_row
from bench.machine import ROOT, machine, peak_gflops
from bench.report import Page
from bench.rows import Row
from bench.timing import Entry, Repeat, fill

SCRATCH = ROOT / "build" / "bench"


class Run:
    """What a run has found so far, and the time it has left for what is still to come.

    Args:
        minutes: what all of it may take. rounds: turns of a row; 0: as many as the time allows.
    """

    def __init__(self, minutes: float, rounds: int = 0):
        self.rounds, self.deadline, self.left = rounds, time.perf_counter() + 60 * minutes, 0
        self.rows: list[Row] = []
        self.peaks: dict[str, float] = {}

    def begin(self, rows: int) -> None:
        """So many rows are to be measured."""
        self.left = rows
        self._measure_peaks()

    def measure(self, group: str, make: Callable[[], Entry], repeat: Repeat) -> Row:
        """A row, within its equal share of the time left."""
        torch.manual_seed(len(self.rows))
        share = (self.deadline - time.perf_counter()) / max(self.left, 1)
        self.left -= 1
        timed = partial(fill, rounds=self.rounds, share_s=share, repeat=repeat)
        self.rows.append(run_row(group, make, timed))
        return self.rows[-1]

    def write(self, results: Path, went_through: bool) -> Path:
        """The page, in `results` or, of a run that did not go through, in SCRATCH; returns its folder."""
        self._measure_peaks()  # again at the end: the machine may have been busier at the start
        folder = results if went_through else SCRATCH
        Page("cpu", machine(), self.rows, self.peaks).write(folder)
        return folder

    def _measure_peaks(self) -> None:
        """Keep each unit's best: a peak is a ceiling, and a neighbour's noise only lowers what is seen of it."""
        for unit, gflops in peak_gflops().items():
            self.peaks[unit] = max(gflops, self.peaks.get(unit, 0.0))


RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crrl bench")
    group.addoption("--minutes", type=float, default=6.0, help="about how long the whole run may take")
    group.addoption("--rounds", type=int, default=0, help="turns per row; 0: as many as the time allows")
    group.addoption("--results", type=Path, default=SCRATCH, help="folder of the report, if all rows went through")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # its table would show the turns, all peers together
    config.stash[RUN] = Run(config.getoption("minutes"), config.getoption("rounds"))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:
        session.config.stash[RUN].begin(len(session.items))


@pytest.fixture
def measure(benchmark: Any, pytestconfig: pytest.Config) -> Iterator[Callable[[str, Callable[[], Entry]], Row]]:
    """measure(group, make): the row that `make` makes, its turns timed by pytest-benchmark too."""
    threads = torch.get_num_threads()

    def run(group: str, make: Callable[[], Entry]) -> Row:
        row = pytestconfig.stash[RUN].measure(group, make, lambda turn, rounds: benchmark.pedantic(turn, rounds=rounds))
        benchmark.extra_info["median_ms"] = row.median_ms()
        return row

    yield run
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print a line for each row and write the report."""
    run = config.stash[RUN]
    if not run.rows:
        return
    terminalreporter.section("crrl: median ms (times ours)")
    for row in run.rows:
        terminalreporter.write_line(row.summary())
    folder = run.write(config.getoption("results"), went_through=exitstatus == 0)
    terminalreporter.write_line(f"report: {folder}/cpu.md")
