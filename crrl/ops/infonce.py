"""InfoNCE over a queue (Eq. 6), with or without the enqueue of the keys."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from crrl.ops import cpu, triton, trust
from crrl.ops.backends import Backend, Case, Operator, always, case_of
from crrl.reference import contrast


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a queue (Eq. 6), a scalar; q and k from autocast are widened to the dtype of a float32 queue.

    Args:
        q: [B, D] queries of any norm; only they get a gradient (from a kernel, once differentiable).
        k: [B, D] keys, L2-normalised. queue: [K, D] earlier keys, L2-normalised. temperature: τ.
    """
    dtype = torch.promote_types(q.dtype, queue.dtype)
    run = _INFO_NCE.pick(_case(q, queue))
    return cast(Tensor, run(q.to(dtype), k.to(dtype), queue, temperature))


def info_nce_enqueue(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float) -> Tensor:
    """`info_nce` by the backend chosen for it; after the loss, the same call puts the keys k into the queue.

    Args:
        q, k, temperature: as for info_nce; k replaces the oldest keys (of more than K keys, the last K enter). queue:
            as for info_nce, changed in place. pointer: int64 [], the index of the oldest key in the ring, advanced.
    """
    dtype = torch.promote_types(q.dtype, queue.dtype)
    reference = _INFO_NCE.served(_case(q, queue))[0] == "reference"
    run = contrast.info_nce_enqueue if reference else _enqueued
    return run(q.to(dtype), k.to(dtype), queue, pointer, temperature)


def _case(q: Tensor, queue: Tensor) -> Case:
    """The case by the dtype of the queue, the largest tensor, or by that of q if q is float64."""
    return case_of(q if q.dtype == torch.float64 else queue)


def _cpu(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of Eq. 6, float32 [], and its gradient with respect to q; in C++ (csrc/cpu/infonce.hpp).

    Raises:
        ValueError: a tensor is not float32 on the CPU, or its shape does not fit.
    """
    return _on_cpu(q, k, queue.contiguous(), temperature)


def _cpu_enqueue(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`_cpu`, after which k replaces the oldest keys of the queue, which must be contiguous.

    Raises:
        ValueError: as `_cpu`, or pointer is not one int64.
    """
    return _on_cpu(q, k, queue, temperature, pointer)


def _on_cpu(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float, pointer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    q, k = q.contiguous(), k.contiguous()
    loss, dq = q.new_empty(()), q.new_empty(q.shape)
    cpu.native.info_nce(q, k, queue, temperature, loss, dq, pointer, torch.get_num_threads(), cpu.forced())
    return loss, dq


def _triton(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    from crrl.kernels import infonce

    return infonce.info_nce(q, k, queue, temperature)


def _triton_enqueue(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    from crrl.kernels import infonce

    return infonce.info_nce(q, k, queue, temperature, pointer)


_LOSS = "-> (Tensor loss, Tensor dq)"

info_nce_op = torch.library.custom_op(
    "crrl::info_nce",
    _cpu,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor q, Tensor k, Tensor queue, float temperature) {_LOSS}",
)
"""Eq. 6: the loss, float32 [], and its gradient dq. q [B, D] has any norm; k [B, D], queue [K, D] are L2-normalised."""

info_nce_enqueue_op = torch.library.custom_op(
    "crrl::info_nce_enqueue",
    _cpu_enqueue,
    mutates_args=("queue", "pointer"),
    device_types="cpu",
    schema=f"(Tensor q, Tensor k, Tensor(a!) queue, Tensor(b!) pointer, float temperature) {_LOSS}",
)
"""crrl::info_nce, after which k replaces the oldest keys. pointer: int64 [], the index of the oldest key."""

info_nce_op.register_kernel("cuda")(_triton)
info_nce_enqueue_op.register_kernel("cuda")(_triton_enqueue)


def _differentiable(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The loss of crrl::info_nce, float32 [], differentiable in q, once."""
    return cast(Tensor, info_nce_op(q, k, queue, temperature)[0])


def _enqueued(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float) -> Tensor:
    """The loss of crrl::info_nce_enqueue, float32 [], differentiable in q, once."""
    loss, dq = info_nce_enqueue_op(q.detach(), k.detach(), queue, pointer, temperature)
    return cast(Tensor, _Gradient.apply(q, loss, dq))  # type: ignore[no-untyped-call]


class _Gradient(torch.autograd.Function):
    """`loss` with its known gradient dq. Not part of the operator, because that changes its arguments in place."""

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
@info_nce_enqueue_op.register_fake
def _loss_fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty((), dtype=torch.float32), q.new_empty(q.shape)


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


CHECKED = ((33, 64, 512), (33, 600, 512))
"""Rows, keys and channels of the self-check: the paper's queue, and one too long for a program a row."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""The largest error that the self-check accepts, in root mean squares, by the dtype of the queue and of dq."""


def _fault(dtype: torch.dtype, device: torch.device) -> str | None:
    """What is wrong with the Triton kernels for a queue of this dtype; None: nothing."""
    faults = (_fault_of(*sizes, dtype, device) for sizes in CHECKED)
    return next((fault for fault in faults if fault), None)


def _fault_of(batch: int, keys: int, channels: int, dtype: torch.dtype, device: torch.device) -> str | None:
    generator = torch.Generator("cpu").manual_seed(keys)
    q, k, queue = (torch.randn(n, channels, generator=generator, device="cpu") for n in (batch, batch, keys))
    q, k, queue = q.to(dtype), F.normalize(k).to(dtype), F.normalize(queue).to(dtype)
    with torch.enable_grad():
        leaf = q.double().requires_grad_()
        loss = contrast.info_nce(leaf, k.double(), queue.double(), 0.1)
        wanted = [loss.detach(), torch.autograd.grad(loss, leaf)[0]]
    places = [torch.tensor(keys - 2, device="cpu") for _ in range(2)]
    after = queue.clone()
    contrast.enqueue(after, places[0], k)
    own, place = queue.to(device), places[1].to(device)
    with torch.no_grad():
        made = [*_triton_enqueue(q.to(device), k.to(device), own, place, 0.1), own, place]
    names = ["the loss", "dq", "the queue", "its pointer"]
    faults = (
        trust.differs(f"{name} with {keys} keys", got, want, TOLERANCE[dtype])
        for name, got, want in zip(names, made, [*wanted, after, places[0]], strict=True)
    )
    return next((fault for fault in faults if fault), None)


_INFO_NCE = Operator(
    "info_nce",
    Backend("cpu", _differentiable, cpu.supports),
    Backend("triton", _differentiable, triton.checked("info_nce", _fault)),
    Backend("reference", contrast.info_nce, always),
    watched="reference",
)
