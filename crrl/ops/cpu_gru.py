"""The GRU layer on the CPU: addresses of tensors handed to the C++ kernels of csrc/cpu/gru.hpp."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu
from crrl.ops.backends import Case

isa = os.environ.get("CRRL_ISA", "")
"""The instruction set the kernels are made to use; empty: the best that this processor has for the dtype."""

BF16_ISAS = ("amx", "avx512_bf16")
"""Instruction sets that multiply bfloat16; the others (avx512, avx2, plain) compute in float32."""


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension's GRU can serve `case`, and why."""
    if cpu.missing:
        return False, cpu.missing
    if case.device != "cpu" or case.dtype not in (torch.float32, torch.bfloat16):
        return False, f"the C++ GRU takes float32 and bfloat16 on the CPU, not {case.dtype} on {case.device}"
    bf16 = case.dtype == torch.bfloat16
    if bf16 and isa and isa not in BF16_ISAS:
        return False, f"CRRL_ISA={isa} has no bfloat16"
    if bf16 and cpu.native.gru_isa(True) is None:
        return False, "this processor has no instructions for bfloat16 (AVX-512-BF16 or AMX)"
    return True, f"C++ kernels (crrl._cpu, {_isa(bf16) or cpu.native.gru_isa(bf16)})"


def forward(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    frames: int,
    batch_first: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and, with `keep`, what `backward` needs; the arguments are those of crrl::gru_layer (crrl/ops/library.py).

    Raises:
        ValueError: a tensor has another shape, dtype or device than its place takes, or a length is not in 1..T.
    """
    call = _Call(x, lengths, h0, weights, frames, batch_first, reverse)
    y = x.new_empty(output_shape(x, weights, frames, batch_first))
    h_n = x.new_empty(call.directions, call.batch, call.hidden)
    reserve = x.new_empty(reserve_size(call.directions, call.batch, call.steps, call.hidden) if keep else 0)
    cpu.native.gru_forward(
        call.layer, call.frames(y), h_n.data_ptr(), reserve.data_ptr() if keep else 0, *call.settings()
    )
    return y, h_n, reserve


def backward(
    dy: Tensor,
    dh_n: Tensor,
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    y: Tensor,
    reserve: Tensor,
    frames: int,
    batch_first: bool,
    reverse: bool,
    needs_dx: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """dx (empty unless needed), dh0 and the gradients of `weights`."""
    call = _Call(x, lengths, h0, weights, frames, batch_first, reverse)
    dy, dh_n, y = _readable(dy), dh_n.contiguous(), _readable(y)
    dx = x.new_empty(x.shape) if needs_dx else x.new_empty(0)
    dh0 = x.new_empty(dh_n.shape)
    gradients = [torch.empty_like(weight, memory_format=torch.contiguous_format) for weight in weights]
    cpu.native.gru_backward(
        call.layer, call.frames(y), reserve.data_ptr(), call.frames(dy), dh_n.data_ptr(),
        call.frames(dx) if needs_dx else (0, 0, 0), dh0.data_ptr(), call.per_direction(gradients), *call.settings(),
    )  # fmt: skip
    return dx, dh0, gradients


def sizes(x: Tensor, weights: Sequence[Tensor], batch_first: bool) -> tuple[int, int, int]:
    """D, B, H of a call of crrl::gru_layer."""
    per_direction = 4 if len(weights) >= 4 and weights[2].ndim == 1 else 2
    return len(weights) // per_direction, x.shape[0 if batch_first else 1], weights[1].shape[1]


def output_shape(x: Tensor, weights: Sequence[Tensor], frames: int, batch_first: bool) -> tuple[int, int, int]:
    """The shape of y."""
    directions, batch, hidden = sizes(x, weights, batch_first)
    return (batch, frames, directions * hidden) if batch_first else (frames, batch, directions * hidden)


def reserve_size(directions: int, batch: int, steps: int, hidden: int) -> int:
    """Elements that a forward pass keeps for its backward: four for each unit, units padded to 32."""
    return directions * batch * steps * 4 * ((hidden + 31) // 32 * 32)


def _isa(bf16: bool) -> str:
    """`isa`, where it has kernels for the dtype."""
    return isa if (isa in BF16_ISAS) == bf16 else ""


class _Call:
    """The checked arguments of one call. Holds the tensors, as the kernels see addresses only."""

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
        self.x, self.batch_first, self.steps = _readable(x), batch_first, frames
        self.directions, self.batch, self.hidden = sizes(x, weights, batch_first)
        given = x.shape[1 if batch_first else 0]
        if given not in (1, frames):
            raise ValueError(f"x must have {frames} frames, or one that is repeated, not {given}")
        per_direction = len(weights) // self.directions
        gates = 3 * self.hidden
        shapes = [(gates, x.shape[2]), (gates, self.hidden), (gates,), (gates,)][:per_direction] * self.directions
        for tensor, shape in zip(weights, shapes, strict=True):
            _check(x, tensor, shape)
        if h0 is not None:
            _check(x, h0, (self.directions, self.batch, self.hidden))
        if lengths is not None and (lengths.shape != (self.batch,) or lengths.dtype != torch.int64):
            raise ValueError(f"lengths must be int64 [{self.batch}], not {lengths.dtype} {list(lengths.shape)}")
        self.weights = [tensor.contiguous() for tensor in weights]
        self.lengths = None if lengths is None else lengths.to("cpu").contiguous()
        self.h0 = None if h0 is None else h0.contiguous()
        self.layer = cpu.native.GruLayer(
            self.batch, self.steps, x.shape[2], self.hidden, reverse, given < frames, _address(self.lengths),
            self.frames(self.x), _address(self.h0), self.per_direction(self.weights),
        )  # fmt: skip

    def frames(self, tensor: Tensor) -> tuple[int, int, int]:
        """Address, stride from row to row and from frame to frame of [B, T, C] or [T, B, C]; 0 where one is all."""
        row, frame = (0, 1) if self.batch_first else (1, 0)
        return tensor.data_ptr(), tensor.stride(row), tensor.stride(frame) if tensor.shape[frame] > 1 else 0

    def per_direction(self, tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The addresses of w_ih, w_hh, b_ih, b_hh (0: none) of each direction."""
        addresses = [tensor.data_ptr() for tensor in tensors]
        step = len(tensors) // self.directions
        return [(*addresses[i : i + step], *[0] * (4 - step)) for i in range(0, len(addresses), step)]

    def settings(self) -> tuple[bool, int, str]:
        """bf16, threads, isa."""
        bf16 = self.x.dtype == torch.bfloat16
        return bf16, torch.get_num_threads(), _isa(bf16)


def _readable(x: Tensor) -> Tensor:
    """The kernels take any strides between frames; the channels of one must lie side by side."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _check(x: Tensor, tensor: Tensor, shape: tuple[Any, ...]) -> None:
    """The kernels take pointers: what lies behind them must be what they expect."""
    if tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device:
        raise ValueError(
            f"the C++ GRU needs {x.dtype} of shape {list(shape)} on {x.device} here, "
            f"not {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}"
        )
