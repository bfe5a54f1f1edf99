"""The C++ extension's operators; where it was not built, the reason why it cannot serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crrl.ops import extension
from crrl.ops.backends import Case

ABI = 6
"""What crrl._cpu.abi must be: csrc/cpu/bindings.cpp raises it with every change of a signature."""

__all__ = ["keep_memory", "missing", "native", "ragged_gather", "supports"]

missing: str | None

if TYPE_CHECKING:
    from crrl import _cpu as native
else:
    native, missing = extension.load("crrl._cpu", ABI, "C++", "g++")


def keep_memory() -> None:
    """Have the C library keep for reuse what the process frees, so that no step begins with fresh pages; with glibc."""
    if missing is None:
        native.keep_memory()


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension's gather can serve `case`, and why."""
    if missing:
        return False, missing
    if case.device != "cpu" or case.dtype != torch.float32:
        return False, f"the C++ gather takes float32 on the CPU, not {case.dtype} on {case.device}"
    return True, "one pass in C++ (crrl._cpu)"


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """crrl.reference.motion.ragged_gather in C++, copy and velocity in one pass over the frames.

    Raises:
        IndexError: an index is out of range.
        ValueError: a length is; or the arguments are not frames [ΣT, C] without gradient, offsets and index int64, all
            on the CPU.
    """
    if frames.ndim != 2 or frames.requires_grad:
        raise ValueError(f"frames must be [frames, channels] without gradient, not {list(frames.shape)}")
    frames, offsets, index = frames.contiguous(), offsets.contiguous(), index.contiguous()
    x = frames.new_empty(len(index), max_frames, frames.shape[1])
    v = torch.empty_like(x) if with_velocity else None
    lengths = torch.empty_like(index)
    native.ragged_gather(frames, offsets, index, x, v, lengths)
    return x, v, lengths
