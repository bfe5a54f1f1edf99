"""An epoch of the linear protocol on the CPU, by csrc/cpu/linear.hpp."""

from __future__ import annotations

from torch import Tensor

from crrl.ops import cpu, cpu_gru


def linear_epoch(
    features: Tensor,
    labels: Tensor,
    order: Tensor,
    batch_size: int,
    parameters: tuple[Tensor, Tensor],
    momenta: tuple[Tensor, Tensor],
    rate: float,
    momentum: float,
) -> None:
    """crrl.reference.linear.linear_epoch in C++.

    Raises:
        ValueError: a tensor is not contiguous on the CPU, or of another dtype or shape; a label or a clip is out of
            range. Nothing is changed then.
    """
    native, isa = cpu.native, cpu_gru.forced()
    native.linear_epoch(features, labels, order, batch_size, *parameters, *momenta, rate, momentum, isa)
