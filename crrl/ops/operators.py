"""The operators: one public function each, with its shapes, over the backends that compute it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from crrl.ops import cpu, cpu_gru, torch_gru
from crrl.ops.backends import Backend, Case, Operator
from crrl.reference import contrast, gru, motion
from crrl.reference.gru import Weights


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
    Backend("cpu", cpu_gru.gru_layer, cpu_gru.supports),
    Backend("torch", torch_gru.gru_layer, torch_gru.supports),
    Backend("reference", gru.gru_layer, _always),
)
_info_nce = Operator("info_nce", Backend("reference", contrast.info_nce, _always))
_ema_update = Operator("ema_update", Backend("reference", contrast.ema_update, _always))


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
    x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One GRU layer, one or both directions, over ragged rows: y [B, T, D·H] (0 at padded frames), h_n [D, B, H].

    Args:
        x: [B, T, I]. lengths: int64 [B], each in 1..T. weights: (w_ih, w_hh, b_ih, b_hh) per direction, forward first.
        h0: [D, B, H] or None for zeros.
    """
    return cast("tuple[Tensor, Tensor]", _gru_layer(_case(x), x, lengths, weights, h0))


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a queue (Eq. 6), a scalar. q [B, D] any length; k [B, D], queue [K, D] L2-normalised."""
    return cast(Tensor, _info_nce(_case(q), q, k, queue, temperature))


def ema_update(keys: Iterable[Tensor], queries: Iterable[Tensor], momentum: float) -> None:
    """Momentum update (Eq. 5) of `keys` in place."""
    keys = list(keys)
    case = _case(keys[0]) if keys else Case("cpu", torch.float32)
    _ema_update(case, keys, queries, momentum)
