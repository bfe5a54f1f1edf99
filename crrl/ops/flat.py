"""On flat buffers: one step of an optimizer, and the momentum update (Eq. 5), alone and within that step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu, triton
from crrl.ops.backends import Backend, Operator, always, case_of
from crrl.reference import contrast, optim

_MOMENTA = "int boundary, float momentum_head, float momentum_tail"


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Momentum update (Eq. 5) of `keys` [N] by `queries` [N] in place.

    Elements before `boundary` follow with momentum_head, the others with momentum_tail; at 1 no bit of them changes.
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
    """One step of SGD or Adam on flat buffers [N] in place, clipping before it and the momentum update after it.

    The arguments are those of crrl.reference.optim.flat_step; the kernels want them contiguous and in float32.
    """
    run = _STEP.pick(case_of(parameters))
    with torch.no_grad():
        run(
            parameters, gradients, first, second, keys, rates, nesterov=nesterov, weight_decay=weight_decay,
            beta2=beta2, eps=eps, max_norm=max_norm, boundary=boundary, momentum_head=momentum_head,
            momentum_tail=momentum_tail,
        )  # fmt: skip


def _cpu_ema(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """`ema_update` in C++ (csrc/cpu/step.hpp).

    Raises:
        ValueError: a tensor is not contiguous float32 [N] on the CPU, or boundary is not in 0..N.
    """
    momenta = boundary, momentum_head, momentum_tail
    cpu.native.ema_update(keys, queries, *momenta, torch.get_num_threads(), cpu.forced())


def _cpu_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    keys: Tensor | None,
    rates: Tensor,
    nesterov: bool,
    weight_decay: float,
    beta2: float,
    eps: float,
    max_norm: float,
    boundary: int,
    momentum_head: float,
    momentum_tail: float,
) -> None:
    """`flat_step` in C++ (csrc/cpu/step.hpp).

    Raises:
        ValueError: a tensor is not contiguous float32 [N] ([4] for rates) on the CPU, or boundary is not in 0..N.
    """
    cpu.native.flat_step(
        parameters, gradients, first, second, keys, rates, nesterov, weight_decay, beta2, eps, max_norm,
        boundary, momentum_head, momentum_tail, torch.get_num_threads(), cpu.forced(),
    )  # fmt: skip


def _triton_ema(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    from crrl.kernels import ema

    ema.ema_update(keys, queries, boundary, momentum_head, momentum_tail)


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
    """Nothing is returned, and what is written has its shape already."""


_EMA = Operator(
    "ema_update",
    Backend("cpu", ema_update_op, cpu.supports),
    Backend("triton", ema_update_op, triton.supports_flat),
    Backend("reference", contrast.ema_update, always),
    watched="reference",
)
_STEP = Operator(
    "flat_step",
    Backend("cpu", flat_step_op, cpu.supports),
    Backend("triton", flat_step_op, triton.supports_flat),
    Backend("reference", optim.flat_step, always),
    watched="reference",
)
