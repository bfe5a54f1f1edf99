"""The operators: one public function each, with its shapes, over the backends that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from crrl.ops import cpu, cpu_gru, library, torch_gru
from crrl.ops.backends import Backend, Case, Operator
from crrl.reference import contrast, gru, motion, optim
from crrl.reference.gru import Weights

AUTOCAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that autocast converts; it leaves float64 alone."""

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""The devices that may be asked for their autocast; torch raises for others, such as meta."""


def _always(case: Case) -> tuple[bool, str]:
    return True, "the plain PyTorch reference"


def _case(tensor: Tensor) -> Case:
    return Case(tensor.device.type, tensor.dtype)


_ragged_gather = Operator(
    "ragged_gather",
    Backend("cpu", cpu.ragged_gather, cpu.supports),
    Backend("reference", motion.ragged_gather, _always),
)
_gru_layer = Operator(
    "gru_layer",
    Backend("cpu", library.gru_layer, cpu_gru.supports),
    Backend("torch", torch_gru.gru_layer, torch_gru.supports),
    Backend("reference", gru.gru_layer, _always),
)
_GRU_BACKENDS = {backend.name: backend for backend in _gru_layer.backends}
_info_nce = Operator("info_nce", Backend("reference", contrast.info_nce, _always))


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clips of a flat array as one padded batch: x [B, T, C], their velocity (Eq. 2) or None, lengths int64 [B].

    Args:
        frames: [ΣT, C]. offsets: int64 [N + 1]. index: int64 [B], the clips. max_frames: T, at least the longest clip.
    """
    result = _ragged_gather(_case(frames), frames, offsets, index, max_frames, with_velocity)
    return cast("tuple[Tensor, Tensor | None, Tensor]", result)


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer, one or both directions, over ragged rows: y [B, T, D·H] (0 at padded frames), h_n [D, B, H].

    Under autocast a kernel of ours computes and returns the autocast dtype; torch's, on a CPU, that of the state.

    Args:
        x: [B, T, I], any strides, B and T at least 1. Or [B, 1, I] with `frames`: T times the same frame, whose
            product with W_ih a kernel of ours computes once.
        lengths: int64 [B] on any device, each in 1..T; None: every frame is valid.
        weights: (w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H]) per direction, forward first; biases may be None.
        h0: [D, B, H] or None for zeros.
        reverse: the second direction, if there is one, runs backwards in time from each row's own last frame; False:
            both run forwards (the stepwise form).
        frames: T; None: that of x.

    Raises:
        ValueError: a length is not in 1..T.
    """
    run = _GRU_BACKENDS[gru_backend(x)[0]].run
    return cast("tuple[Tensor, Tensor]", run(x, lengths, weights, h0, reverse, frames))


def gru_backend(x: Tensor) -> tuple[str, str]:
    """The name of the backend that serves a GRU layer on `x` (any shape) under the current policy, and why it does."""
    return _choose_gru(x.device.type, compute_dtype(x))


def _choose_gru(device: str, dtype: torch.dtype) -> tuple[str, str]:
    backend, reason = _gru_layer.choose(Case(device, dtype))
    if backend.name not in ("torch", "reference") and (above := _above_autograd()):
        return "torch", f"torch's own GRU: the kernel {backend.name!r} knows nothing of {above}"
    return backend.name, reason


def _above_autograd() -> str | None:
    """What, beside autograd, watches the operations now; a kernel known to autograd alone is opaque to it."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "torch.jit.trace"
    if torch._C._are_functorch_transforms_active():  # as torch.autograd.Function.apply asks
        return "the transforms of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation: its tangents would be lost"
    return None


# torch.compile cannot trace the questions to the extension; it asks once and keeps the answer.
torch.compiler.assume_constant_result(_choose_gru)  # type: ignore[no-untyped-call]


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for `x` and would convert it."""
    device = x.device.type
    return device in AUTOCAST_DEVICES and x.dtype in AUTOCAST_DTYPES and torch.is_autocast_enabled(device)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of `x` are computed: that of autocast where it applies, else its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x) else x.dtype


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a queue (Eq. 6), a scalar. q [B, D] any length; k [B, D], queue [K, D] L2-normalised."""
    return cast(Tensor, _info_nce(_case(q), q, k, queue, temperature))


def info_nce_enqueue(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float, entering: Tensor | None = None
) -> Tensor:
    """`info_nce`, and then `entering` ([N, D]; None: k) takes the places of the oldest keys of the queue."""
    return contrast.info_nce_enqueue(q, k, queue, pointer, temperature, entering)


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Momentum update (Eq. 5) of `keys` [N] in place: with one momentum before `boundary`, with another behind."""
    contrast.ema_update(keys, queries, boundary, momentum_head, momentum_tail)


def flat_step(*arguments: Any, **settings: Any) -> None:
    """crrl.reference.optim.flat_step."""
    optim.flat_step(*arguments, **settings)
