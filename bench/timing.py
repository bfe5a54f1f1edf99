"""Parity, then time: what is compared, when it counts as right, and how peers take turns.

On a CPU calls are timed one by one. On a GPU series of calls are, with a wait for the device before and after.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.cases import Run
from bench.rows import Row

SETTLE_S = 0.02
"""Rest before each peer's turn. Threads of a pool (libgomp's: torch's and ours) go on spinning after a call, 4 to 8 ms
where measured, on the very cores that the next peer is timed on; nobody's calls should pay for another's."""
BURST_S = 0.03
"""A turn's calls: as many as fill this, at least one. Short calls come in series, as in use, with caches warm."""
LONG_S = 0.25
"""A call of this length is not warmed up before each turn: what a cold start costs is lost in it."""
FEWEST, MOST = 3, 25
"""Rounds, however much or little time there is."""

SERIES = 15
"""Series of calls of a contender on a GPU."""
SERIES_S = 0.02
"""The calls of a series fill this: what it costs at its ends, some ten microseconds, is then lost in it."""
MOST_CALLS = 4000
WARM_S = 0.2
"""Calls before a contender is timed by series: kernels are compiled and clocks are up by then."""
WARM_UPS = 3
"""Calls before a capture: libraries are set up by then."""


class Absent(Exception):
    """A peer that cannot run a case; the message says why."""


@dataclass(frozen=True)
class Contender:
    """Who is timed, and what the results are held to.

    Attributes:
        run: one call, or several.
        limit: the largest error allowed, of each result, as the norm of the difference over the norm of the truth.
        relative_to: a contender of the same row; the limit is then a multiple of that one's own error.
        least: the limit then is this at least, and where that contender is absent, this.
        results: what is compared, where a run alone does not give it: those of one call from a known start.
        calls: how many calls one run is.
    """

    run: Run
    limit: float
    relative_to: str | None = None
    least: float = 0.0
    results: Run | None = None
    calls: int = 1


@dataclass(frozen=True)
class Entry:
    """A row and how to fill it.

    Attributes:
        builds: make its contenders, ours first. expected: gives the right results.
        series: so many series of calls of each contender; 0: single calls, as many as there is time for.
    """

    row: Row
    builds: Mapping[str, Callable[[], Contender]]
    expected: Run
    series: int = 0


def made(limit: float, make: Callable[[], Run], **settings: Any) -> Callable[[], Contender]:
    """Makes a contender of the call that `make` makes."""
    return lambda: Contender(make(), limit, **settings)


def errors(got: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """Per result, the norm of the difference over the norm of what is expected, both taken in float64."""
    pairs = [(g.detach().cpu().double(), e.cpu().double()) for g, e in zip(got, expected, strict=True)]
    return [float((g - e).norm() / e.norm().clamp_min(1e-30)) for g, e in pairs]


def wrong(name: str, contender: Contender, measured: dict[str, list[float]]) -> str | None:
    """What is wrong with a contender's results, given everybody's errors; None where they are right."""
    for position, error in enumerate(measured[name]):
        limit = contender.limit
        if contender.relative_to is not None:
            other = measured.get(contender.relative_to)
            limit = max(limit * other[position], contender.least) if other else contender.least
        if not error <= limit:  # so written, NaN is wrong
            return f"{name}: result {position} is off by {error:.1e} of its norm, allowed are {limit:.1e}"
    return None


def why(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, Absent):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


Repeat = Callable[[Callable[[], None], int], object]
"""repeat(turn, rounds) calls turn() so many times."""


def again(turn: Callable[[], None], rounds: int) -> None:
    for _ in range(rounds):
        turn()


def fill(entry: Entry, rounds: int = 0, share_s: float = 0.0, repeat: Repeat = again) -> Row:
    """Check every contender against what is expected, then time in turns those that are right. Raises nothing.

    rounds: turns of each contender, instead of what the entry or the time gives. share_s: seconds for single calls.
    repeat: does the turns.
    """
    row, take_turn = entry.row, _take_series if entry.series else _take_single_calls
    try:
        ready = _right(entry)
        usual = {
            name: warmed_s(c.run) if entry.series else _usual_s(c, first_s) for name, (c, first_s) in ready.items()
        }
        calls: dict[str, list[float]] = {name: [] for name in ready}

        def turn() -> None:
            for name, (contender, _first_s) in ready.items():
                calls[name] += take_turn(contender, usual[name])

        repeat(turn, rounds or entry.series or rounds_within(share_s, usual.values()))
        row.calls_ms = calls
    except Exception as error:
        row.failed = why(error)
    return row


def _right(entry: Entry) -> dict[str, tuple[Contender, float]]:
    """The contenders that can be built and are right, each with the seconds of its first call.

    The row says of the others why they are not timed.
    """
    expected = [tensor.detach().clone() for tensor in entry.expected()]
    row, built, measured = entry.row, {}, {}
    for name, build in entry.builds.items():
        try:
            contender = build()
            start = time.perf_counter()
            results = (contender.results or contender.run)()
            built[name] = contender, time.perf_counter() - start
            measured[name] = errors(results, expected)
            row.errors[name] = max(measured[name])
        except Exception as error:
            built.pop(name, None)
            row.absent[name] = why(error)
    faults = {name: fault for name, (c, _) in built.items() if (fault := wrong(name, c, measured))}
    row.refused = faults.get(next(iter(entry.builds)))
    row.absent |= {name: f"wrong ({fault})" for name, fault in faults.items() if fault != row.refused}
    return {name: one for name, one in built.items() if name not in faults}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _usual_s(contender: Contender, first_s: float) -> float:
    """About what a call takes: a second one where a cold start would count."""
    return first_s if first_s >= LONG_S else seconds(contender.run)


def rounds_within(share_s: float, call_s: Iterable[float]) -> int:
    """How many rounds fit into `share_s` when the peers' single calls take `call_s`."""
    turns = sum(SETTLE_S + (call if call < LONG_S else 0) + max(call, BURST_S) for call in call_s)
    return min(max(int(share_s / max(turns, 1e-9)), FEWEST), MOST)


def _take_single_calls(contender: Contender, usual_s: float) -> list[float]:
    """A turn's calls one by one, in ms."""
    time.sleep(SETTLE_S)
    if usual_s < LONG_S:
        contender.run()
    calls = [seconds(contender.run)]
    while sum(calls) + usual_s < BURST_S:
        calls.append(seconds(contender.run))
    return [1e3 * call for call in calls]


def _take_series(contender: Contender, usual_s: float) -> list[float]:
    """A turn's series: ms of one of its calls."""
    contender.run()
    return [1e3 * series_s(contender.run, runs_within(usual_s)) / contender.calls]


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
