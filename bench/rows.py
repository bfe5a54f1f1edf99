"""What one benchmark found, the figures drawn from it, and the bars it was set up to pass."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.machine import peak_of

CRRL, TORCH = "crrl", "torch"
REPLAYED, EAGER, COMPILED = "crrl, graph replay", "crrl, eager", "torch.compile"
"""Who stands in the rows of several groups, on a CPU and on a GPU; whose name has crrl in it is ours."""


@dataclass(frozen=True)
class Bar:
    """What a contender is to reach.

    Attributes:
        contender: who.
        limit: the most times its floor that it may take, or the least times a peer's speed that it is to have.
        peer: the peer; None: the floor.
        absolute: the limit is the most microseconds that a call may take, whatever floors and peers.
    """

    contender: str
    limit: float
    peer: str | None = None
    absolute: bool = False

    def __str__(self) -> str:
        if self.absolute:
            return f"at most {self.figure(self.limit)}"
        if self.peer is None:
            return f"at most {self.limit:g}× bytes / copy bandwidth"
        return f"at least {self.limit:g}× as fast as {self.peer}"

    def figure(self, value: float) -> str:
        """What was reached, as it is written."""
        if not self.absolute:
            return f"{value:.2f}×"
        return f"{value / 1e6:.3g} s" if value >= 1e6 else f"{value:.0f} µs" if value >= 100 else f"{value:.3g} µs"


@dataclass
class Row:
    """One benchmark.

    Attributes:
        group: the table it stands in. title: its line there. rank: its place in the group.
        dtype: of ours, such as "fp32" or "bf16": on a CPU it says which peak the row is held against.
        flops: of one call; None where arithmetic is not what it is about.
        bytes: that a call must at least move, each input read once and each output written once; None likewise.
        bars: what it is to reach.
        predicted_us: microseconds of a call of ours, said before any card was seen.
        calls_ms: per contender, ours first, every timed call, or share of a series of calls, in ms.
        errors: per contender, the largest relative error.
        absent: who could not run it or was wrong, with reasons. refused: what was wrong with the results of ours.
        failed: why it could not be run to its end.
    """

    group: str
    title: str
    dtype: str = "fp32"
    flops: float | None = None
    bytes: float | None = None
    bars: tuple[Bar, ...] = ()
    predicted_us: float | None = None
    rank: int = 0
    calls_ms: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    failed: str | None = None

    @property
    def broken(self) -> bool:
        """Whether ours was wrong, or could not be timed."""
        return bool(self.failed or self.refused or any(CRRL in name for name in self.absent))

    def median_ms(self) -> dict[str, float]:
        return {name: statistics.median(calls) for name, calls in self.calls_ms.items()}

    def median_us(self) -> dict[str, float]:
        return {name: 1e3 * median for name, median in self.median_ms().items()}

    def ours(self) -> str:
        return next(iter(self.calls_ms))

    def best_peer(self) -> str | None:
        """The fastest of the others; None without one."""
        _, *others = self.median_ms().items()
        return min(others, key=lambda item: item[1])[0] if others else None

    def times_as_fast(self, peer: str | None) -> float | None:
        """The peer's median over ours: above 1 we are faster."""
        medians = self.median_ms()
        return medians[peer] / medians[self.ours()] if peer in medians else None

    def gflops(self, name: str) -> float | None:
        """Per second, at the median."""
        return None if self.flops is None else self.flops / self.median_ms()[name] / 1e6

    def percent_of_peak(self, name: str, peaks: dict[str, float]) -> float | None:
        """Of the peak of what this peer computes in: a "torch fp32" in a bf16 row is held against the fp32 peak."""
        peak, gflops = peak_of("fp32" if name.endswith("fp32") else self.dtype, peaks), self.gflops(name)
        return None if peak is None or gflops is None else 100 * gflops / peak[1]

    def floor_us(self, bandwidth: float | None) -> float | None:
        """Microseconds that the bytes take at `bandwidth` (bytes per second)."""
        return None if self.bytes is None or not bandwidth else 1e6 * self.bytes / bandwidth

    def reached(self, bar: Bar, bandwidth: float | None) -> float | None:
        """What the bar is about: times the floor or the peer's speed, or microseconds; None where it is not known."""
        medians, floor = self.median_us(), self.floor_us(bandwidth)
        if bar.contender not in medians:
            return None
        if bar.absolute:
            return medians[bar.contender]
        if bar.peer is None:
            return medians[bar.contender] / floor if floor else None
        return medians[bar.peer] / medians[bar.contender] if bar.peer in medians else None

    def holds(self, bar: Bar, bandwidth: float | None) -> bool | None:
        """Whether the bar is passed; None where that is not known."""
        reached = self.reached(bar, bandwidth)
        if reached is None:
            return None
        return reached <= bar.limit if bar.absolute or bar.peer is None else reached >= bar.limit

    def summary(self) -> str:
        """Ours in ms, then each other with its multiple of ours, then who is absent."""
        if self.failed or self.refused or not self.calls_ms:
            return f"{self.group}, {self.title}: {self.failed or self.refused or 'not timed'}"
        (ours, first), *others = self.median_ms().items()
        cells = [f"{ours} {first:.4g} ms", *(f"{name} {value:.4g} ({value / first:.2f}×)" for name, value in others)]
        return f"{self.group}, {self.title}: {' | '.join([*cells, *(f'no {name}' for name in self.absent)])}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        """The inverse of `as_json`."""
        return cls(**{**value, "bars": tuple(Bar(**bar) for bar in value["bars"])})


def to_beat(peer: str | None) -> tuple[Bar, ...]:
    """The bar of a row that was set up to beat this peer on a CPU."""
    return (Bar(CRRL, 1, peer),) if peer else ()


def spread(calls: Sequence[float], unit: str) -> dict[str, float]:
    """Median and quartiles of the calls, named as the report keeps them."""
    low, _, high = statistics.quantiles(calls, n=4) if len(calls) > 1 else [calls[0]] * 3
    return {f"median_{unit}": statistics.median(calls), f"quartile_1_{unit}": low, f"quartile_3_{unit}": high}


@dataclass
class Stage:
    """What became of one part of the check on a GPU.

    Attributes:
        name: of the stage. passed: whether it did; None: it was not run, for the reason in `detail`, and that is no
            failure. seconds: it took. detail: what it found, in a line. tail: the end of its output where it failed.
            said: output that the page keeps, however it ended.
    """

    name: str
    passed: bool | None
    seconds: float = 0.0
    detail: str = ""
    tail: str = field(default="", repr=False)
    said: str = field(default="", repr=False)

    @property
    def verdict(self) -> str:
        return "not run" if self.passed is None else "passed" if self.passed else "**failed**"
