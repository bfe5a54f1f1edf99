"""The GRU layer on the CPU, by the C++ kernels of csrc/cpu/gru.hpp, whose bindings check all that they are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crrl.ops import cpu
from crrl.ops.backends import Case
from crrl.ops.gru.call import output_shape, readable, sizes


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension's GRU can serve `case`, and why."""
    if cpu.missing:
        return False, cpu.missing
    if case.device != "cpu" or case.dtype not in (torch.float32, torch.bfloat16):
        return False, f"the C++ GRU takes float32 and bfloat16 on the CPU, not {case.dtype} on {case.device}"
    bf16 = case.dtype == torch.bfloat16
    if bf16 and cpu.isa in cpu.FLOAT_ISAS:
        return False, f"CRRL_ISA={cpu.isa} has no bfloat16"
    if bf16 and cpu.BEST[True] is None:
        return False, "this processor has no instructions for bfloat16 (AVX-512-BF16 or AMX)"
    return True, f"C++ kernels (crrl._cpu, {cpu.forced(cpu.GRU_ISAS[bf16]) or cpu.BEST[bf16]})"


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
    """y, h_n and, with `keep`, what `backward` needs; the arguments are those of crrl::gru_layer (layer.py).

    Raises:
        ValueError: a tensor has another shape, dtype or device than its place takes, or a length is not in 1..T.
    """
    directions, batch, hidden = sizes(x, weights, batch_first)
    y = x.new_empty(output_shape(x, weights, frames, batch_first))
    h_n = x.new_empty(directions, batch, hidden)
    reserve = x.new_empty(reserve_size(directions, batch, frames, hidden) if keep else 0)
    cpu.native.gru_forward(
        *_layer(x, lengths, h0, weights), y, h_n, reserve if keep else None,
        directions, frames, batch_first, reverse, *_settings(x),
    )  # fmt: skip
    return y, h_n, reserve


def backward(
    dy: Tensor,
    dh_n: Tensor,
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    reserve: Tensor,
    frames: int,
    batch_first: bool,
    reverse: bool,
    needs_dx: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """dx (empty unless needed), dh0 and the gradients of `weights`, from a forward pass that kept its `reserve`.

    Raises:
        ValueError: as forward does.
    """
    directions = sizes(x, weights, batch_first)[0]
    dx = x.new_empty(x.shape) if needs_dx else x.new_empty(0)
    dh0 = x.new_empty(dh_n.shape)
    gradients = [torch.empty_like(weight, memory_format=torch.contiguous_format) for weight in weights]
    cpu.native.gru_backward(
        *_layer(x, lengths, h0, weights), reserve, readable(dy), dh_n.contiguous(), dx if needs_dx else None, dh0,
        gradients, directions, frames, batch_first, reverse, *_settings(x),
    )  # fmt: skip
    return dx, dh0, gradients


def reserve_size(directions: int, batch: int, steps: int, hidden: int) -> int:
    """Elements that a forward pass keeps for its backward: five for each unit, units padded to 32."""
    return directions * batch * steps * 5 * ((hidden + 31) // 32 * 32)


def _layer(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """The same, laid out as the kernels read them."""
    if lengths is not None:
        lengths = lengths.to("cpu").contiguous()
    state = None if h0 is None else h0.contiguous()
    return readable(x), lengths, state, [weight.contiguous() for weight in weights]


def _settings(x: Tensor) -> tuple[int, str]:
    """threads, isa."""
    return torch.get_num_threads(), cpu.forced(cpu.GRU_ISAS[x.dtype == torch.bfloat16])
