"""InfoNCE, the momentum update and the optimizer step on the CPU, by csrc/cpu/infonce.hpp and step.hpp."""

from __future__ import annotations

import torch
from torch import Tensor

from crrl.ops import cpu, cpu_gru
from crrl.ops.backends import Case


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension can serve `case`, and why."""
    if cpu.missing:
        return False, cpu.missing
    if case.device != "cpu" or case.dtype != torch.float32:
        return False, f"the C++ kernel takes float32 on the CPU, not {case.dtype} on {case.device}"
    return True, f"one pass in C++ (crrl._cpu, {cpu_gru.forced() or cpu_gru.BEST[False]})"


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of Eq. 6, float32 [], and its gradient by q; the arguments of crrl::info_nce (crrl/ops/step.py).

    Raises:
        ValueError: a tensor is not of float32 on the CPU, or its shape does not fit.
    """
    return _info_nce(q, k, queue.contiguous(), temperature)


def info_nce_enqueue(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, entering: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`info_nce`, and `entering` (None: k) in place of the oldest keys of the queue, which must be contiguous.

    Raises:
        ValueError: as info_nce; or pointer is not one int64.
    """
    return _info_nce(q, k, queue, temperature, pointer, (k if entering is None else entering).contiguous())


def _info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    pointer: Tensor | None = None,
    entering: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    q = q.contiguous()
    loss, dq = q.new_empty(()), q.new_empty(q.shape)
    cpu.native.info_nce(
        q,
        k.contiguous(),
        queue,
        temperature,
        loss,
        dq,
        pointer,
        entering,
        torch.get_num_threads(),
        cpu_gru.forced(),
    )
    return loss, dq


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """crrl.reference.contrast.ema_update in C++.

    Raises:
        ValueError: a tensor is not contiguous float32 [N] on the CPU, or boundary is not in 0..N.
    """
    momenta = boundary, momentum_head, momentum_tail
    cpu.native.ema_update(keys, queries, *momenta, torch.get_num_threads(), cpu_gru.forced())


def flat_step(
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
    """crrl.reference.optim.flat_step in C++.

    Raises:
        ValueError: a tensor is not contiguous float32 [N] ([4] for rates) on the CPU, or boundary is not in 0..N.
    """
    cpu.native.flat_step(
        parameters, gradients, first, second, keys, rates, nesterov, weight_decay, beta2, eps, max_norm,
        boundary, momentum_head, momentum_tail, torch.get_num_threads(), cpu_gru.forced(),
    )  # fmt: skip
