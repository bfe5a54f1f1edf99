"""The momentum update of the key encoder and its MLP (Eq. 5) as one launch over flat buffers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crrl.kernels.checks import require_flat

BLOCK = 1024


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Eq. 5, θ_k ← m·θ_k + (1 − m)·θ_q, in place.

    Args:
        keys: float32 [N], contiguous; written. queries: float32 [N], contiguous.
        boundary: elements [0, boundary) follow with momentum_head (the encoder), the rest with momentum_tail (the MLP).

    Raises:
        ValueError: a buffer has another shape, dtype or device.
    """
    require_flat(keys.numel(), keys=keys, queries=queries)
    momenta = (boundary, momentum_head, 1 - momentum_head, momentum_tail, 1 - momentum_tail)
    grid = (triton.cdiv(keys.numel(), BLOCK),)
    with torch.cuda.device_of(keys):  # type: ignore[no-untyped-call]
        _ema_kernel[grid](keys, queries, keys.numel(), *momenta, BLOCK)


@triton.jit
def follow(key, query, index, boundary, head, head_rest, tail, tail_rest):
    """Eq. 5 for the elements `index` of a flat buffer; the rests are 1 − m, rounded once from double precision."""
    in_head = index < boundary
    return tl.where(in_head, head, tail) * key + tl.where(in_head, head_rest, tail_rest) * query


@triton.jit
def _ema_kernel(keys, queries, size, boundary, head, head_rest, tail, tail_rest, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    key, query = tl.load(keys + index, inside), tl.load(queries + index, inside)
    tl.store(keys + index, follow(key, query, index, boundary, head, head_rest, tail, tail_rest), inside)
