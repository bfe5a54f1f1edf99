"""What one benchmark on a GPU found, the least time its bytes take, and the bars it was set up to pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.rows import Row

REPLAYED, EAGER, COMPILED = "crrl, graph replay", "crrl, eager", "torch.compile"
"""Who stands in the rows of several groups; the first two are ours."""


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
class GpuRow(Row):
    """A Row whose calls are shares of a series of calls.

    Attributes:
        bytes: that a call must at least move, each input read once and each output written once; None: not what it is
            about.
        bars: what it is to reach.
        predicted_us: microseconds of a call of ours, said before any card was seen.
        failed: why it could not be run to its end.
    """

    bytes: float | None = None
    bars: tuple[Bar, ...] = ()
    predicted_us: float | None = None
    failed: str | None = None

    def floor_us(self, bandwidth: float | None) -> float | None:
        """Microseconds that the bytes take at `bandwidth` (bytes per second)."""
        return None if self.bytes is None or not bandwidth else 1e6 * self.bytes / bandwidth

    def median_us(self) -> dict[str, float]:
        return {name: 1e3 * median for name, median in self.median_ms().items()}

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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GpuRow:
        """The inverse of `as_json`."""
        return cls(**{**value, "bars": tuple(Bar(**bar) for bar in value["bars"])})


@dataclass
class Stage:
    """What became of one part of the check.

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
