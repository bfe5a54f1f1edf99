"""InfoNCE, the momentum update and the optimizer step on the CPU: addresses for csrc/cpu/infonce.hpp and step.hpp."""

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
    return True, f"one pass in C++ (crrl._cpu, {isa() or cpu.native.gru_isa(False)})"


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
    if pointer.dtype != torch.int64 or pointer.numel() != 1 or pointer.device.type != "cpu":
        raise ValueError(f"pointer must be one int64 on the CPU, not {_of(pointer)}")
    return _info_nce(q, k, queue, temperature, pointer, k if entering is None else entering)


def _info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    pointer: Tensor | None = None,
    entering: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if q.ndim != 2 or queue.ndim != 2:
        raise ValueError(f"q and queue must be [B, D] and [K, D], not {list(q.shape)} and {list(queue.shape)}")
    batch, features = q.shape
    q, k = q.contiguous(), k.contiguous()
    entering = q[:0] if entering is None else entering.contiguous()
    check("q", q, q.shape)
    check("k", k, q.shape)
    check("queue", queue, (len(queue), features))
    check("entering", entering, (len(entering), features))
    loss, dq = q.new_empty(()), q.new_empty(q.shape)
    cpu.native.info_nce(
        batch, features, len(queue), q.data_ptr(), k.data_ptr(), queue.data_ptr(), temperature, loss.data_ptr(),
        dq.data_ptr(), _address(pointer), entering.data_ptr(), len(entering),
        torch.get_num_threads(), isa(),
    )  # fmt: skip
    return loss, dq


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """crrl.reference.contrast.ema_update in C++.

    Raises:
        ValueError: a tensor is not contiguous float32 [N] on the CPU, or boundary is not in 0..N.
    """
    for name, tensor in (("keys", keys), ("queries", queries)):
        check(name, tensor, (keys.numel(),))
    cpu.native.ema_update(
        keys.numel(), keys.data_ptr(), queries.data_ptr(), boundary, momentum_head, momentum_tail,
        torch.get_num_threads(), isa(),
    )  # fmt: skip


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
    size = parameters.numel()
    named = {"parameters": parameters, "gradients": gradients, "first": first, "second": second, "keys": keys}
    for name, tensor in named.items():
        if tensor is not None:
            check(name, tensor, (size,))
    check("rates", rates, (4,))
    cpu.native.flat_step(
        size, parameters.data_ptr(), gradients.data_ptr(), first.data_ptr(), _address(second), _address(keys),
        rates.data_ptr(), nesterov, weight_decay, beta2, eps, max_norm,
        boundary, momentum_head, momentum_tail, torch.get_num_threads(), isa(),
    )  # fmt: skip


def isa() -> str:
    """The instruction set that the GRU is made to use, where it computes in float32."""
    return "" if cpu_gru.isa in cpu_gru.BF16_ISAS else cpu_gru.isa


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _of(tensor: Tensor) -> str:
    layout = "" if tensor.is_contiguous() else ", not contiguous,"
    return f"{tensor.dtype} {list(tensor.shape)}{layout} on {tensor.device}"


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """The kernels take pointers: what lies behind them must be what they expect.

    Raises:
        ValueError: it is not.
    """
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(f"{name} must be contiguous {kind} {list(shape)} on the CPU, not {_of(tensor)}")
