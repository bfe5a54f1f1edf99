"""Clips of a flat array as one padded batch with its velocity (Eq. 2), in one launch and one pass over the frames."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crrl.kernels.checks import FLOATS, require

BLOCK = 1024


def ragged_gather(
    frames: Tensor,
    offsets: Tensor,
    index: Tensor,
    max_frames: int,
    with_velocity: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clips of a flat array as one padded batch, as crrl.reference.motion.ragged_gather.

    Args:
        frames: [ΣT, C], float32, bfloat16 or float16, contiguous. offsets: int64 [n + 1].
        index: int64 [B], clips to take, each in 0..n − 1; this is not checked, as that would wait for the device.
        max_frames: T, at least the longest of these clips.
        dtype: of x and v; None: that of frames.

    Returns:
        x [B, T, C] padded with zeros; v, its velocity, subtracted in float32 and then cast, or None; lengths int64 [B].

    Raises:
        ValueError: a tensor has another shape, dtype or device.
    """
    dtype = frames.dtype if dtype is None else dtype
    _check(frames, offsets, index, dtype)
    x = torch.empty(len(index), max_frames, frames.shape[1], dtype=dtype, device=frames.device)
    v = torch.empty_like(x) if with_velocity else None
    lengths = torch.empty_like(index)
    row = max_frames * frames.shape[1]
    blocks = max(1, triton.cdiv(row, BLOCK))
    with torch.cuda.device_of(frames):  # type: ignore[no-untyped-call]
        _gather_kernel[(len(index) * blocks,)](
            frames, offsets, index, x, v, lengths, row, frames.shape[1], blocks, BLOCK
        )
    return x, v, lengths


def _check(frames: Tensor, offsets: Tensor, index: Tensor, dtype: torch.dtype) -> None:
    known = frames.dtype in FLOATS and dtype in FLOATS
    require(known, f"frames and dtype: expected float32, bfloat16 or float16, got {frames.dtype} and {dtype}")
    flat = frames.dim() == 2 and frames.is_contiguous()
    require(flat, f"frames: expected contiguous [frames, channels], got {list(frames.shape)}")
    for name, places in (("offsets", offsets), ("index", index)):
        flat = places.dtype == torch.int64 and places.dim() == 1 and places.is_contiguous()
        require(flat, f"{name}: expected contiguous int64 [n], got {places.dtype} {list(places.shape)}")
        require(places.device == frames.device, f"{name}: expected on {frames.device}, got {places.device}")


@triton.jit
def _gather_kernel(frames, offsets, index, x, v, lengths, row, channels, blocks, BLOCK: tl.constexpr):
    # A clip is contiguous in the array and in its row of the batch, so its elements need no index of frames.
    clip = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    taken = tl.load(index + clip)
    start = tl.load(offsets + taken)
    length = tl.load(offsets + taken + 1) - start
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    source = frames + start * channels + at
    end = tl.minimum(length * channels, row)
    inside = at < row
    tl.store(x + clip * row + at, tl.load(source, at < end, 0.0).to(x.dtype.element_ty), inside)
    if v is not None:
        moving = at < tl.where(length > 1, end, 0)
        # The last frame repeats the velocity of the one before it.
        last = at >= (length - 1) * channels
        before = tl.load(source - tl.where(last, channels, 0), moving, 0.0).to(tl.float32)
        after = tl.load(source + tl.where(last, 0, channels), moving, 0.0).to(tl.float32)
        tl.store(v + clip * row + at, (after - before).to(v.dtype.element_ty), inside)
    if block == 0:
        tl.store(lengths + clip, length)
