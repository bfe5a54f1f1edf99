"""Clips of a flat array as one padded batch, with their velocities (Eq. 2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from crrl.ops import cpu, triton
from crrl.ops.backends import Backend, Operator, always, case_of
from crrl.reference import motion


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clips of a flat array as one padded batch: x [B, T, C], their velocity (Eq. 2) or None, lengths int64 [B].

    Args:
        frames: [ΣT, C]. offsets: int64 [N + 1]. index: int64 [B], the clips. max_frames: T, at least the longest clip.
    """
    run = _GATHER.pick(case_of(frames))
    return cast("tuple[Tensor, Tensor | None, Tensor]", run(frames, offsets, index, max_frames, with_velocity))


def _cpu(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """`ragged_gather` in C++, copy and velocity in one pass over the frames.

    Raises:
        IndexError: an index is out of range.
        ValueError: a length is out of range, frames are not [ΣT, C] without gradient, offsets or index are not int64,
            or a tensor is not on the CPU.
    """
    if frames.ndim != 2 or frames.requires_grad:
        raise ValueError(f"frames must be [frames, channels] without gradient, not {list(frames.shape)}")
    frames, offsets, index = frames.contiguous(), offsets.contiguous(), index.contiguous()
    x = frames.new_empty(len(index), max_frames, frames.shape[1])
    v = torch.empty_like(x) if with_velocity else None
    lengths = torch.empty_like(index)
    cpu.native.ragged_gather(frames, offsets, index, x, v, lengths)
    return x, v, lengths


def _triton(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    from crrl.kernels import motion

    return motion.ragged_gather(frames, offsets, index, max_frames, with_velocity)


LENGTHS, CHANNELS = (1, 40, 17), 63
"""Of the self-check's clips: one has a single frame, one is longer than a block."""


def _fault(dtype: torch.dtype, device: torch.device) -> str | None:
    """What is wrong with the Triton kernel, which copies, and subtracts in float32; None: nothing."""
    generator = torch.Generator("cpu").manual_seed(0)
    frames = torch.randn(sum(LENGTHS), CHANNELS, generator=generator, device="cpu").to(dtype)
    offsets, index = torch.tensor([0, *LENGTHS], device="cpu").cumsum(0), torch.tensor([2, 0, 1, 1], device="cpu")
    made = _triton(frames.to(device), offsets.to(device), index.to(device), max(LENGTHS) + 3, True)
    wanted = motion.ragged_gather(frames.float(), offsets, index, max(LENGTHS) + 3, True)
    faults = (
        None
        if got is not None and want is not None and torch.equal(got.cpu(), want.to(got.dtype))
        else f"{name} is wrong"
        for name, got, want in zip(("x", "the velocity", "a length"), made, wanted, strict=True)
    )
    return next((fault for fault in faults if fault), None)


_GATHER = Operator(
    "ragged_gather",
    Backend("cpu", _cpu, cpu.supports),
    Backend("triton", _triton, triton.checked("ragged_gather", _fault)),
    Backend("reference", motion.ragged_gather, always),
)
