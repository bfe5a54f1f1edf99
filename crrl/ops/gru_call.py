"""What the kernels of crrl::gru_layer have in common: sizes, checks and the form in which they take tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

Frames = tuple[int, int, int]
"""A tensor [B, T, C] or [T, B, C]: its address, the elements from row to row and from frame to frame."""


def sizes(x: Tensor, weights: Sequence[Tensor], batch_first: bool) -> tuple[int, int, int]:
    """D, B, H of a call of crrl::gru_layer."""
    per_direction = 4 if len(weights) >= 4 and weights[2].ndim == 1 else 2
    return len(weights) // per_direction, x.shape[0 if batch_first else 1], weights[1].shape[1]


def output_shape(x: Tensor, weights: Sequence[Tensor], frames: int, batch_first: bool) -> tuple[int, int, int]:
    """The shape of y."""
    directions, batch, hidden = sizes(x, weights, batch_first)
    return (batch, frames, directions * hidden) if batch_first else (frames, batch, directions * hidden)


def readable(tensor: Tensor) -> Tensor:
    """The kernels take any strides between frames; the channels of one must lie side by side."""
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def address(tensor: Tensor | None) -> int:
    """0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


class Call:
    """The checked arguments of one call, which are those of crrl::gru_layer (crrl/ops/library.py).

    Holds the tensors, as the kernels see addresses only.

    Attributes:
        repeated: x has one frame, which stands for all of them.

    Raises:
        ValueError: a tensor has another shape, dtype or device than its place takes.
    """

    kernel: ClassVar[str]
    """Who complains about an argument."""

    def __init__(
        self,
        x: Tensor,
        lengths: Tensor | None,
        h0: Tensor | None,
        weights: Sequence[Tensor],
        frames: int,
        batch_first: bool,
        reverse: bool,
    ):
        self.x, self.batch_first, self.steps, self.reverse = x, batch_first, frames, reverse
        self.directions, self.batch, self.hidden = sizes(x, weights, batch_first)
        given = x.shape[1 if batch_first else 0]
        if given not in (1, frames):
            raise ValueError(f"x must have {frames} frames, or one that is repeated, not {given}")
        self.repeated = given < frames
        per_direction = len(weights) // self.directions
        gates = 3 * self.hidden
        shapes = [(gates, x.shape[2]), (gates, self.hidden), (gates,), (gates,)][:per_direction] * self.directions
        for tensor, shape in zip(weights, shapes, strict=True):
            self.check(tensor, shape)
        if h0 is not None:
            self.check(h0, (self.directions, self.batch, self.hidden))
        if lengths is not None and (lengths.shape != (self.batch,) or lengths.dtype != torch.int64):
            raise ValueError(f"lengths must be int64 [{self.batch}], not {lengths.dtype} {list(lengths.shape)}")
        self.weights = [tensor.contiguous() for tensor in weights]
        self.lengths = lengths
        self.h0 = None if h0 is None else h0.contiguous()

    def check(self, tensor: Tensor, shape: tuple[Any, ...]) -> None:
        """The kernels take pointers: what lies behind them must be what they expect."""
        x = self.x
        if tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{self.kernel} needs {x.dtype} of shape {list(shape)} on {x.device} here, "
                f"not {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}"
            )

    def frames(self, tensor: Tensor) -> Frames:
        """The address and strides of [B, T, C] or [T, B, C]; 0 from frame to frame where one is all."""
        row, frame = (0, 1) if self.batch_first else (1, 0)
        return tensor.data_ptr(), tensor.stride(row), tensor.stride(frame) if tensor.shape[frame] > 1 else 0
