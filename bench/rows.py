"""What one benchmark found, and the figures drawn from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.machine import peak_of


def spread(calls: Sequence[float], unit: str) -> dict[str, float]:
    """Median and quartiles of the calls, named as the report keeps them."""
    low, _, high = statistics.quantiles(calls, n=4) if len(calls) > 1 else [calls[0]] * 3
    return {f"median_{unit}": statistics.median(calls), f"quartile_1_{unit}": low, f"quartile_3_{unit}": high}


@dataclass
class Row:
    """One benchmark.

    Attributes:
        group: the table it stands in. title: its line there. rank: its place in the group.
        dtype: of ours, "fp32" or "bf16": it says which peak the row is held against.
        flops: of one call; None where arithmetic is not what it is about.
        bar: the peer that the row was set up to beat; None: no one in particular.
        calls_ms: per peer, ours first, every timed call in ms. errors: per peer, the largest relative error.
        absent: the peers that could not run it, with reasons. refused: what was wrong with the results; not timed then.
    """

    group: str
    title: str
    dtype: str = "fp32"
    flops: float | None = None
    bar: str | None = None
    rank: int = 0
    calls_ms: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: str | None = None

    def median_ms(self) -> dict[str, float]:
        return {name: statistics.median(calls) for name, calls in self.calls_ms.items()}

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
