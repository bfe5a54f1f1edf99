"""An epoch of the linear protocol."""

from __future__ import annotations

from torch import Tensor

from crrl.ops import cpu
from crrl.ops.backends import Backend, Operator, always, case_of
from crrl.reference import linear


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
    """An epoch of softmax regression by SGD with Nesterov momentum; `parameters` and `momenta` change in place.

    The arguments are those of crrl.reference.linear.linear_epoch; the kernel takes contiguous tensors.
    """
    run = _EPOCH.pick(case_of(features))
    run(features, labels, order, batch_size, parameters, momenta, rate, momentum)


def _cpu(
    features: Tensor,
    labels: Tensor,
    order: Tensor,
    batch_size: int,
    parameters: tuple[Tensor, Tensor],
    momenta: tuple[Tensor, Tensor],
    rate: float,
    momentum: float,
) -> None:
    """`linear_epoch` in C++ (csrc/cpu/linear.hpp).

    Raises:
        ValueError: a tensor is not contiguous, not on the CPU, or has another dtype or shape; or a label or a clip is
            out of range. Then nothing is changed.
    """
    native, isa = cpu.native, cpu.forced()
    native.linear_epoch(features, labels, order, batch_size, *parameters, *momenta, rate, momentum, isa)


_EPOCH = Operator(
    "linear_epoch",
    Backend("cpu", _cpu, cpu.supports),
    Backend("reference", linear.linear_epoch, always),
)
