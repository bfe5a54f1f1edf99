"""Parity, then time, on a GPU: series of calls with a wait for the device before and after, peers in turns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.cases import Run
from bench.gpu_rows import GpuRow
from bench.timing import Contender, errors, why, wrong

ROUNDS = 15
SERIES_S = 0.02
"""A turn's calls fill this: what a series costs at its ends, some ten microseconds, is then lost in it."""
MOST_CALLS = 4000
WARM_S = 0.2
"""Calls before a contender is timed: kernels are compiled and clocks are up by then."""
WARM_UPS = 3
"""Calls before a capture: libraries are set up by then."""


@dataclass(frozen=True)
class GpuContender(Contender):
    """A Contender of which one run may stand for several calls.

    Attributes:
        results: what is compared, where a run alone does not give it: those of one call from a known start.
        calls: how many calls one run is.
    """

    results: Run | None = None
    calls: int = 1


@dataclass(frozen=True)
class Entry:
    """A row and how to fill it: expected() gives the right results, builds make its contenders, ours first.

    A contender whose limit is relative to one that could not be built has an absolute limit instead: `least`.
    rounds: turns of each contender.
    """

    row: GpuRow
    builds: dict[str, Callable[[], GpuContender]]
    expected: Run
    rounds: int = ROUNDS


def synchronize() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def series_s(run: Callable[[], object], runs: int) -> float:
    """Seconds of one of `runs` runs in a row. The host runs ahead of the device as in use: its time counts where the
    device has to wait for it, and only there."""
    synchronize()
    start = time.perf_counter()
    for _ in range(runs):
        run()
    synchronize()
    return (time.perf_counter() - start) / runs


def runs_within(run_s: float) -> int:
    """How many runs make a series."""
    return min(max(int(SERIES_S / max(run_s, 1e-9)), 1), MOST_CALLS)


def warmed_s(run: Callable[[], object]) -> float:
    """Run for WARM_S at least; seconds of a run."""
    start, taken = time.perf_counter(), series_s(run, 1)
    while time.perf_counter() - start < WARM_S:
        taken = series_s(run, runs_within(taken))
    return taken


def in_turn(runs: Sequence[Run]) -> Run:
    """One of the runs at each call, each with data of its own, so that a cache does not keep them."""
    turns = itertools.cycle(runs)
    return lambda: next(turns)()


@contextmanager
def _aside() -> Iterator[None]:
    """On a stream of its own, as capture asks of what is run before it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def replayed(runs: Sequence[Run]) -> Run:
    """The runs one after the other as one CUDA graph: replays it, and gives what the first of them returned."""
    with _aside():
        for _ in range(WARM_UPS):
            for run in runs:
                run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run() for run in runs]

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return results[0]

    return replay


def fill(entry: Entry, rounds: int | None = None) -> GpuRow:
    """Check every contender against what is expected, then time in turns those that are right. Raises nothing."""
    row = entry.row
    try:
        ready = _right(entry, [tensor.detach().clone() for tensor in entry.expected()])
        calls: dict[str, list[float]] = {contender.name: [] for contender in ready}
        usual = {contender.name: warmed_s(contender.run) for contender in ready}
        for _ in range(rounds or entry.rounds):
            for contender in ready:
                contender.run()
                taken = series_s(contender.run, runs_within(usual[contender.name]))
                calls[contender.name].append(1e3 * taken / contender.calls)
        row.calls_ms = calls
    except Exception as error:
        row.failed = why(error)
    return row


def _right(entry: Entry, expected: Sequence[Tensor]) -> list[GpuContender]:
    """The contenders that can be built and are right; the row says of the others why they are not timed."""
    row, built, measured = entry.row, [], {}
    for name, build in entry.builds.items():
        try:
            contender = build()
            measured[name] = errors((contender.results or contender.run)(), expected)
        except Exception as error:
            row.absent[name] = why(error)
            continue
        row.errors[name] = max(measured[name])
        built.append(contender)
    complaints = {contender.name: _complaint(contender, measured) for contender in built}
    row.refused = "; ".join(filter(None, complaints.values())) or None
    return [contender for contender in built if complaints[contender.name] is None]


def _complaint(contender: GpuContender, measured: dict[str, list[float]]) -> str | None:
    if contender.relative_to is not None and contender.relative_to not in measured:
        contender = replace(contender, relative_to=None, limit=contender.least)
    return wrong(contender, measured)
