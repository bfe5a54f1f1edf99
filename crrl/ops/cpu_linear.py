"""An epoch of the linear protocol on the CPU: addresses for csrc/cpu/linear.hpp."""

from __future__ import annotations

import torch
from torch import Tensor

from crrl.ops import cpu, cpu_step


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
    clips, width = features.shape
    weight, bias = parameters
    classes = len(bias)
    cpu_step.check("features", features, (clips, width))
    for name, pair in (("parameters", parameters), ("momenta", momenta)):
        cpu_step.check(f"the weights of {name}", pair[0], (classes, width))
        cpu_step.check(f"the biases of {name}", pair[1], (classes,))
    cpu_step.check("labels", labels, (clips,), torch.int64)
    cpu_step.check("order", order, (len(order),), torch.int64)
    cpu.native.linear_epoch(
        clips, width, classes, features.data_ptr(), labels.data_ptr(), order.data_ptr(), len(order), batch_size,
        weight.data_ptr(), bias.data_ptr(), momenta[0].data_ptr(), momenta[1].data_ptr(), rate, momentum,
        cpu_step.isa(),
    )  # fmt: skip
