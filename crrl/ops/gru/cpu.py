"""The GRU layer on the CPU by the C++ kernels of csrc/cpu/gru.hpp; their bindings check every argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    """y, h_n and, with `keep`, the reserve that `backward` needs; arguments are those of crrl::gru_layer (layer.py).

    Raises:
        ValueError: a tensor does not have the shape, dtype or device required, or a length is not in 1..T.
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


def infer(
    x: Tensor, hx: Tensor | None, weights: Sequence[Sequence[Tensor]], directions: int, batch_first: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """y of the last layer and h_n of all layers, without gradients; every frame of x is valid.

    Args:
        hx: [layers · D, B, H] or None. weights: those of crrl::gru_layer for each layer.

    Raises:
        ValueError, TypeError: as forward does; also for a tensor whose layout forward would change by a copy.
    """
    settings = (x.shape[1 if batch_first else 0], batch_first, reverse, *_settings(x))

    def run(layer: Sequence[Tensor], x: Tensor, h0: Tensor | None, y: Tensor, h_n: Tensor) -> None:
        cpu.native.gru_forward(x, None, h0, layer, y, h_n, None, directions, *settings)

    return _each_layer(run, x, hx, weights, weights[0][1].shape[1], directions, batch_first)


def pack(weights: Sequence[Sequence[Tensor]], directions: int) -> list[Any]:
    """The weights of each layer, packed for infer_packed.

    Raises:
        ValueError, TypeError: as infer does.
    """
    dtype = weights[0][0].dtype
    # float32 by vectors, not amx: few rows leave most of a tile empty, and its weights take half as much memory again
    isas = cpu.FLOAT_ISAS if dtype == torch.float32 else cpu.GRU_ISAS[True]
    isa = cpu.forced(isas) or (cpu.best_float() if dtype == torch.float32 else "")
    return [cpu.native.GruWeights(layer, directions, isa) for layer in weights]


def infer_packed(
    x: Tensor, hx: Tensor | None, layers: Sequence[Any], hidden: int, directions: int, batch_first: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """`infer` with the layers that `pack` made; `hidden` is H."""
    settings = batch_first, reverse, torch.get_num_threads()

    def run(layer: Any, x: Tensor, h0: Tensor | None, y: Tensor, h_n: Tensor) -> None:
        cpu.native.gru_stream(layer, x, h0, y, h_n, *settings)

    return _each_layer(run, x, hx, layers, hidden, directions, batch_first)


def _each_layer(
    run: Callable[..., None],
    x: Tensor,
    hx: Tensor | None,
    layers: Sequence[Any],
    hidden: int,
    directions: int,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """y of the last layer and h_n of all layers, by run(layer, x, h0, y, h_n) for each."""
    rows, columns, _ = x.shape
    states = len(layers) * directions, rows if batch_first else columns, hidden
    if hx is not None and hx.shape != states:
        raise ValueError(f"hx must be {list(states)}, not {list(hx.shape)}")
    h_n = x.new_empty(states)
    for number, layer in enumerate(layers):
        y = x.new_empty(rows, columns, directions * hidden)
        if len(layers) == 1:
            run(layer, x, hx, y, h_n)
        else:
            own = slice(number * directions, (number + 1) * directions)
            run(layer, x, None if hx is None else hx[own], y, h_n[own])
        x = y
    return x, h_n


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
    """Elements that a forward pass keeps for its backward: five for each unit, with units padded to 32."""
    return directions * batch * steps * 5 * ((hidden + 31) // 32 * 32)


def _layer(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """The arguments, laid out as the kernels read them."""
    if lengths is not None:
        lengths = lengths.to("cpu").contiguous()
    state = None if h0 is None else h0.contiguous()
    return readable(x), lengths, state, [weight.contiguous() for weight in weights]


def _settings(x: Tensor) -> tuple[int, str]:
    """The number of threads, and the forced instruction set (empty: the best)."""
    return torch.get_num_threads(), cpu.forced(cpu.GRU_ISAS[x.dtype == torch.bfloat16])
