"""The other operators of a training step as torch.library knows them: schema, fake and autograd side by side."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crrl.ops import cpu_step, triton

_LOSS = "-> (Tensor loss, Tensor dq)"
_MOMENTA = "int boundary, float momentum_head, float momentum_tail"

info_nce_op = torch.library.custom_op(
    "crrl::info_nce",
    cpu_step.info_nce,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor q, Tensor k, Tensor queue, float temperature) {_LOSS}",
)
"""Eq. 6: the loss, float32 [], and its gradient by q. q [B, D] any length; k [B, D], queue [K, D] L2-normalised."""

info_nce_enqueue_op = torch.library.custom_op(
    "crrl::info_nce_enqueue",
    cpu_step.info_nce_enqueue,
    mutates_args=("queue", "pointer"),
    device_types="cpu",
    schema=f"(Tensor q, Tensor k, Tensor(a!) queue, Tensor(b!) pointer, Tensor? entering, float temperature) {_LOSS}",
)
"""The same; then `entering` ([N, D], None: k) replaces the oldest keys. pointer: int64 [], where the oldest key is."""

ema_update_op = torch.library.custom_op(
    "crrl::ema_update",
    cpu_step.ema_update,
    mutates_args=("keys",),
    device_types="cpu",
    schema=f"(Tensor(a!) keys, Tensor queries, {_MOMENTA}) -> ()",
)
"""Eq. 5 on flat buffers [N], as crrl.reference.contrast.ema_update."""

flat_step_op = torch.library.custom_op(
    "crrl::flat_step",
    cpu_step.flat_step,
    mutates_args=("parameters", "first", "second", "keys"),
    device_types="cpu",
    schema="(Tensor(a!) parameters, Tensor gradients, Tensor(b!) first, Tensor(c!)? second, Tensor(d!)? keys,"
    f" Tensor rates, bool nesterov, float weight_decay, float beta2, float eps, float max_norm, {_MOMENTA}) -> ()",
)
"""One optimizer step on flat buffers [N], as crrl.reference.optim.flat_step."""

info_nce_op.register_kernel("cuda")(triton.info_nce)
info_nce_enqueue_op.register_kernel("cuda")(triton.info_nce_enqueue)
ema_update_op.register_kernel("cuda")(triton.ema_update)
flat_step_op.register_kernel("cuda")(triton.flat_step)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The loss of crrl::info_nce, float32 [], differentiable in q, once."""
    return cast(Tensor, info_nce_op(q, k, queue, temperature)[0])


def info_nce_enqueue(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float, entering: Tensor | None = None
) -> Tensor:
    """The loss of crrl::info_nce_enqueue, float32 [], differentiable in q, once."""
    loss, dq = info_nce_enqueue_op(q.detach(), k.detach(), queue, pointer, entering, temperature)
    return cast(Tensor, _Gradient.apply(q, loss, dq))  # type: ignore[no-untyped-call]


class _Gradient(torch.autograd.Function):
    """`loss`, whose gradient by q is known to be dq. Outside the operator, which changes its arguments in place."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, loss: Tensor, dq: Tensor) -> Tensor:
        ctx.save_for_backward(dq)
        return loss.view_as(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (dq,) = ctx.saved_tensors
        return dq * gradient.to(dq.dtype), None, None


@info_nce_op.register_fake
def _info_nce_fake(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return q.new_empty((), dtype=torch.float32), q.new_empty(q.shape)


@info_nce_enqueue_op.register_fake
def _info_nce_enqueue_fake(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, entering: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty((), dtype=torch.float32), q.new_empty(q.shape)


@ema_update_op.register_fake
@flat_step_op.register_fake
def _in_place(*args: Any) -> None:
    """Nothing is returned, and what is written has its shape already."""


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, dq = output
    ctx.mark_non_differentiable(dq)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dq)


@once_differentiable
def _backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    (dq,) = ctx.saved_tensors
    return None if gradient is None else dq * gradient.to(dq.dtype), None, None, None


info_nce_op.register_autograd(_backward, setup_context=_keep_gradient)
