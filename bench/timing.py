"""Parity, then time: what is compared, when it counts as right, and how peers take turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.cases import Run

SETTLE_S = 0.02
"""Rest before each peer's turn. Threads of a pool (libgomp's: torch's and ours) go on spinning after a call, 4 to 8 ms
where measured, on the very cores that the next peer is timed on; nobody's calls should pay for another's."""
BURST_S = 0.03
"""A turn's calls: as many as fill this, at least one. Short calls come in series, as in use, with caches warm."""
LONG_S = 0.25
"""A call of this length is not warmed up before each turn: what a cold start costs is lost in it."""
FEWEST, MOST = 3, 25
"""Rounds, however much or little time there is."""


@dataclass(frozen=True)
class Contender:
    """Who is timed, and what its results are held to.

    Attributes:
        name: in the report; the first of a row's contenders is ours.
        run: one call.
        limit: the largest error allowed, of each result, as the norm of the difference over the norm of the truth.
        relative_to: a contender of the same row; the limit is then a multiple of that one's own error.
        least: the limit then is this at least.
    """

    name: str
    run: Run
    limit: float
    relative_to: str | None = None
    least: float = 0.0


def errors(got: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """Per result, the norm of the difference over the norm of what is expected, both taken in float64."""
    pairs = [(g.cpu().double(), e.cpu().double()) for g, e in zip(got, expected, strict=True)]
    return [float((g - e).norm() / e.norm().clamp_min(1e-30)) for g, e in pairs]


def wrong(contender: Contender, measured: dict[str, list[float]]) -> str | None:
    """What is wrong with a contender's results, given everybody's errors; None where they are right."""
    other = measured.get(contender.relative_to or "")
    for position, error in enumerate(measured[contender.name]):
        limit = contender.limit if other is None else max(contender.limit * other[position], contender.least)
        if not error <= limit:  # so written, NaN is wrong
            return f"{contender.name}: result {position} is off by {error:.1e} of its norm, allowed are {limit:.1e}"
    return None


def why(error: BaseException) -> str:
    """An exception in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def first_call(run: Run) -> tuple[Sequence[Tensor], float]:
    """A call's results, and the seconds that one takes: of a second call where a cold start would count.

    The results are copies: a call may give the memory that its next call writes.
    """
    start = time.perf_counter()
    results = run()
    taken = time.perf_counter() - start
    results = [result.clone() for result in results]
    return results, taken if taken >= LONG_S else seconds(run)


def rounds_within(share_s: float, call_s: Sequence[float]) -> int:
    """How many rounds fit into `share_s` when the peers' calls take `call_s`."""
    turn = sum(SETTLE_S + (call if call < LONG_S else 0) + max(call, BURST_S) for call in call_s)
    return min(max(int(share_s / turn), FEWEST), MOST)


def take_turn(run: Run, usual_s: float) -> list[float]:
    """One peer's turn of a round, its calls one by one in ms. usual_s: about what a call takes."""
    time.sleep(SETTLE_S)
    if usual_s < LONG_S:
        run()
    calls = [seconds(run)]
    while sum(calls) + usual_s < BURST_S:
        calls.append(seconds(run))
    return [1e3 * call for call in calls]
