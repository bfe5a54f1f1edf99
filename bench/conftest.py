"""The benchmarks' part of pytest: parity first, then peers in turns, and a report of the whole run.

Options: --minutes (what the run may take), --rounds (that many turns a row instead), --results (where the report of a
run that went through goes; only make bench writes it to bench/results).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import report, timing
from bench.machine import machine, peak_gflops
from bench.rows import Row
from bench.timing import Contender

SCRATCH = Path(__file__).parents[1] / "build" / "bench"
"""Where the report of a part of the rows goes, or of a run that was stopped or failed: beside no page that is kept."""


@dataclass
class Session:
    """What a run has found so far, and the time it has left for what is still to come."""

    deadline: float
    rounds: int
    rows_left: int = 0
    rows: list[Row] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)

    def rounds_for(self, call_s: Sequence[float]) -> int:
        """Rounds for a row whose peers take `call_s`: its equal share of the time left."""
        share = (self.deadline - time.perf_counter()) / max(self.rows_left, 1)
        return self.rounds or timing.rounds_within(share, call_s)

    def measure_peaks(self) -> None:
        """Keep each unit's best: a peak is a ceiling, and a neighbour's noise only lowers what is seen of it."""
        for unit, gflops in peak_gflops().items():
            self.peaks[unit] = max(gflops, self.peaks.get(unit, 0.0))


SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crrl bench")
    group.addoption("--minutes", type=float, default=6.0, help="about how long the whole run may take")
    group.addoption("--rounds", type=int, default=0, help="turns per row; 0: as many as the time allows")
    group.addoption("--results", type=Path, default=SCRATCH, help="folder of the report, if all rows went through")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # its table would show the turns, all peers together
    minutes, rounds = config.getoption("minutes"), config.getoption("rounds")
    config.stash[SESSION] = Session(time.perf_counter() + 60 * minutes, rounds)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[SESSION].rows_left = len(session.items)
    if session.items and not session.config.option.collectonly:
        session.config.stash[SESSION].measure_peaks()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    item.config.stash[SESSION].rows_left -= 1


@pytest.fixture
def compare(benchmark: Any, pytestconfig: pytest.Config) -> Callable[..., None]:
    """compare(row, contenders, expected): check everyone against `expected`, then time who is right, ours first."""
    session = pytestconfig.stash[SESSION]

    def run(row: Row, contenders: Sequence[Contender], expected: Sequence[Tensor]) -> None:
        session.rows.append(row)
        usual = judge(row, contenders, expected)
        calls: dict[str, list[float]] = {name: [] for name in usual}

        def one_round() -> None:
            for c in contenders:
                if c.name in usual:
                    calls[c.name] += timing.take_turn(c.run, usual[c.name])

        benchmark.pedantic(one_round, rounds=session.rounds_for(list(usual.values())))
        row.calls_ms = calls
        benchmark.extra_info["median_ms"] = row.median_ms()

    return run


def judge(row: Row, contenders: Sequence[Contender], expected: Sequence[Tensor]) -> dict[str, float]:
    """The seconds that a call of each contender takes, ours first, but for peers that are wrong: `row` says why.

    Raises:
        AssertionError: ours is wrong; `row` is refused.
    """
    measured, usual = {}, {}
    for c in contenders:
        results, usual[c.name] = timing.first_call(c.run)
        measured[c.name] = timing.errors(results, expected)
    row.errors = {name: max(errors) for name, errors in measured.items()}
    faults = {c.name: fault for c in contenders if (fault := timing.wrong(c, measured))}
    row.refused = faults.pop(contenders[0].name, None)
    assert row.refused is None, f"{row.refused}; nothing is timed"
    row.absent |= {name: f"wrong ({fault})" for name, fault in faults.items()}
    return {name: seconds for name, seconds in usual.items() if name not in faults}


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print a line for each row and write the report."""
    session = config.stash[SESSION]
    if not session.rows:
        return
    session.measure_peaks()  # again at the end: the machine may have been busier at the start
    terminalreporter.section("crrl: median ms (times ours)")
    for row in session.rows:
        terminalreporter.write_line(f"{row.group}, {row.title}: {row.refused or summary(row)}")
    folder = config.getoption("results") if exitstatus == 0 else SCRATCH
    report.write(folder, machine(), session.peaks, session.rows)
    terminalreporter.write_line(f"report: {folder}/cpu.md")


def summary(row: Row) -> str:
    """Ours, then each other with its multiple of ours, then who is absent."""
    if not row.calls_ms:
        return "not timed"
    (ours, best), *others = row.median_ms().items()
    cells = [f"{ours} {best:.2f}", *(f"{name} {value:.2f} ({value / best:.2f}x)" for name, value in others)]
    return " | ".join([*cells, *(f"no {name}" for name in row.absent)])
