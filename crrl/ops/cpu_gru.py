"""The GRU layer on the CPU: addresses of tensors handed to the C++ kernels of csrc/cpu/gru.hpp."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu
from crrl.ops.backends import Case
from crrl.ops.gru_call import Call, address, output_shape, readable

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
    dy, dh_n, y = readable(dy), dh_n.contiguous(), readable(y)
    dx = x.new_empty(x.shape) if needs_dx else x.new_empty(0)
    dh0 = x.new_empty(dh_n.shape)
    gradients = [torch.empty_like(weight, memory_format=torch.contiguous_format) for weight in weights]
    cpu.native.gru_backward(
        call.layer, call.frames(y), reserve.data_ptr(), call.frames(dy), dh_n.data_ptr(),
        call.frames(dx) if needs_dx else (0, 0, 0), dh0.data_ptr(), call.per_direction(gradients), *call.settings(),
    )  # fmt: skip
    return dx, dh0, gradients


def reserve_size(directions: int, batch: int, steps: int, hidden: int) -> int:
    """Elements that a forward pass keeps for its backward: four for each unit, units padded to 32."""
    return directions * batch * steps * 4 * ((hidden + 31) // 32 * 32)


def _isa(bf16: bool) -> str:
    """`isa`, where it has kernels for the dtype."""
    return isa if (isa in BF16_ISAS) == bf16 else ""


class _Call(Call):
    """A call as the C++ kernels take it."""

    kernel = "the C++ GRU"

    def __init__(self, x: Tensor, lengths: Tensor | None, *arguments: Any):
        super().__init__(x, lengths, *arguments)
        self.x = readable(x)
        self.lengths = None if lengths is None else lengths.to("cpu").contiguous()
        self.layer = cpu.native.GruLayer(
            self.batch, self.steps, x.shape[2], self.hidden, self.reverse, self.repeated, address(self.lengths),
            self.frames(self.x), address(self.h0), self.per_direction(self.weights),
        )  # fmt: skip

    def per_direction(self, tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The addresses of w_ih, w_hh, b_ih, b_hh (0: none) of each direction."""
        addresses = [tensor.data_ptr() for tensor in tensors]
        step = len(tensors) // self.directions
        return [(*addresses[i : i + step], *[0] * (4 - step)) for i in range(0, len(addresses), step)]

    def settings(self) -> tuple[bool, int, str]:
        """bf16, threads, isa."""
        bf16 = self.x.dtype == torch.bfloat16
        return bf16, torch.get_num_threads(), _isa(bf16)
