"""What the launchers require of tensors before they hand addresses to a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that the kernels read and write; they compute in float32."""


def require(holds: bool, message: str) -> None:
    """Raise ValueError with `message` unless `holds`."""
    if not holds:
        raise ValueError(message)


def require_flat(length: int, **buffers: Tensor | None) -> None:
    """Raise ValueError unless each buffer is float32, contiguous, of `length` elements and all are on one device."""
    given = {name: buffer for name, buffer in buffers.items() if buffer is not None}
    device = next(iter(given.values())).device
    for name, buffer in given.items():
        flat = buffer.dtype == torch.float32 and buffer.shape == (length,) and buffer.is_contiguous()
        require(flat, f"{name}: expected contiguous float32 [{length}], got {buffer.dtype} {list(buffer.shape)}")
        require(buffer.device == device, f"{name}: expected on {device}, got {buffer.device}")
