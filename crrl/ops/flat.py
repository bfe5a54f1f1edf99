"""One optimizer step and the momentum update (Eq. 5), alone or within that step, on flat buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu, triton, trust
from crrl.ops.backends import Backend, Operator, always, case_of
from crrl.reference import contrast, optim

_MOMENTA = "int boundary, float momentum_head, float momentum_tail"


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Momentum update (Eq. 5) of `keys` [N] by `queries` [N] in place.

    Elements before `boundary` follow with momentum_head, the others with momentum_tail; at momentum 1 no bit changes.
    """
    run = _EMA.pick(case_of(keys))
    with torch.no_grad():
        run(keys, queries, boundary, momentum_head, momentum_tail)


def flat_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    keys: Tensor | None,
    rates: Tensor,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    eps: float = 1e-8,
    max_norm: float = 0.0,
    boundary: int = 0,
    momentum_head: float = 0.0,
    momentum_tail: float = 0.0,
) -> None:
    """One step of SGD or Adam on flat buffers [N] in place, with clipping before and the momentum update after it.

    The arguments are those of crrl.reference.optim.flat_step; the kernels take contiguous float32.
    """
    run = _STEP.pick(case_of(parameters))
    with torch.no_grad():
        run(
            parameters, gradients, first, second, keys, rates, nesterov=nesterov, weight_decay=weight_decay,
            beta2=beta2, eps=eps, max_norm=max_norm, boundary=boundary, momentum_head=momentum_head,
            momentum_tail=momentum_tail,
        )  # fmt: skip


def _cpu_ema(*arguments: Any) -> None:
    """`ema_update` in C++ (csrc/cpu/step.hpp).

    Raises:
        ValueError: a tensor is not contiguous float32 [N] on the CPU, or boundary is not in 0..N.
    """
    settings: tuple[Any, ...] = torch.get_num_threads(), cpu.forced()
    cpu.native.ema_update(*arguments, *settings)


def _cpu_step(*arguments: Any) -> None:
    """`flat_step` in C++ (csrc/cpu/step.hpp).

    Raises:
        ValueError: a tensor is not contiguous float32 [N] ([4] for rates) on the CPU, or boundary is not in 0..N.
    """
    settings: tuple[Any, ...] = torch.get_num_threads(), cpu.forced()
    cpu.native.flat_step(*arguments, *settings)


def _triton_ema(*arguments: Any) -> None:
    from crrl.kernels import ema

    ema.ema_update(*arguments)


def _triton_step(*arguments: Any) -> None:
    from crrl.kernels import optim

    optim.flat_step(*arguments)


ema_update_op = torch.library.custom_op(
    "crrl::ema_update",
    _cpu_ema,
    mutates_args=("keys",),
    device_types="cpu",
    schema=f"(Tensor(a!) keys, Tensor queries, {_MOMENTA}) -> ()",
)
"""Eq. 5 on flat buffers [N], as crrl.reference.contrast.ema_update."""

flat_step_op = torch.library.custom_op(
    "crrl::flat_step",
    _cpu_step,
    mutates_args=("parameters", "first", "second", "keys"),
    device_types="cpu",
    schema="(Tensor(a!) parameters, Tensor gradients, Tensor(b!) first, Tensor(c!)? second, Tensor(d!)? keys,"
    f" Tensor rates, bool nesterov, float weight_decay, float beta2, float eps, float max_norm, {_MOMENTA}) -> ()",
)
"""One optimizer step on flat buffers [N], as crrl.reference.optim.flat_step."""

ema_update_op.register_kernel("cuda")(_triton_ema)
flat_step_op.register_kernel("cuda")(_triton_step)


@ema_update_op.register_fake
@flat_step_op.register_fake
def _in_place(*args: Any) -> None:
    """The operators return nothing and write in place, so there is no shape to infer."""


SIZE, BOUNDARY = 2500, 1100
"""Of the self-check's buffers: several blocks, the last one not full."""

TOLERANCE = 1e-5
"""The largest error that the self-check accepts, in root mean squares: tens of roundings."""


def _buffers(device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters, gradients, two moments and keys, [SIZE] each and all positive: on `device`, and in float64."""
    drawn = torch.rand(5, SIZE, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return [*drawn.to(device).clone()], [*drawn.double()]


def _ema_fault(dtype: torch.dtype, device: torch.device) -> str | None:
    (keys, queries, *_), (wanted, exact, *_) = _buffers(device)
    _triton_ema(keys, queries, BOUNDARY, 0.9, 0.5)
    contrast.ema_update(wanted, exact, BOUNDARY, 0.9, 0.5)
    return trust.differs("keys", keys, wanted, TOLERANCE)


def _step_fault(dtype: torch.dtype, device: torch.device) -> str | None:
    faults = (_fault_of_step(adam, device) for adam in (False, True))
    return next((fault for fault in faults if fault), None)


def _fault_of_step(adam: bool, device: torch.device) -> str | None:
    """What is wrong with a clipped step of Adam, or of SGD with Nesterov momentum, and its keys; None: nothing."""
    made, wanted = _buffers(device)
    rates = torch.tensor([0.1, 0.9, 0.4, 0.3], device="cpu")
    settings: dict[str, Any] = {"nesterov": not adam, "weight_decay": 0.02, "beta2": 0.99, "eps": 1e-6, "max_norm": 0.5}
    settings |= {"boundary": BOUNDARY, "momentum_head": 0.9, "momentum_tail": 0.5}
    _triton_step(*_arguments(made, adam), rates.to(device), *settings.values())
    optim.flat_step(*_arguments(wanted, adam), rates.double(), **settings)
    names = ("parameters", "gradients", "the first moment", "the second moment", "keys")
    faults = (
        trust.differs(f"{name} of {'Adam' if adam else 'SGD'}", got, want, TOLERANCE)
        for name, got, want in zip(names, made, wanted, strict=True)
    )
    return next((fault for fault in faults if fault), None)


def _arguments(buffers: list[Tensor], adam: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    parameters, gradients, first, second, keys = buffers
    return parameters, gradients, first, second if adam else None, keys


_FLOAT = (torch.float32,)

_EMA = Operator(
    "ema_update",
    Backend("cpu", ema_update_op, cpu.supports),
    Backend("triton", ema_update_op, triton.checked("ema_update", _ema_fault, _FLOAT)),
    Backend("reference", contrast.ema_update, always),
    watched="reference",
)
_STEP = Operator(
    "flat_step",
    Backend("cpu", flat_step_op, cpu.supports),
    Backend("triton", flat_step_op, triton.checked("flat_step", _step_fault, _FLOAT)),
    Backend("reference", optim.flat_step, always),
    watched="reference",
)
