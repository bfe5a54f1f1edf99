"""The GRU layer on the CPU: recurrence in C++, ended rows drop out, each weight gradient is one matrix product."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu
from crrl.ops.backends import Case
from crrl.reference.gru import Weights

isa = os.environ.get("CRRL_ISA", "")
"""The instruction set the kernels are made to use: avx512, avx2 or plain; empty: the best that this processor has."""


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension's GRU can serve `case`, and why."""
    if cpu.missing:
        return False, cpu.missing
    if case.device != "cpu" or case.dtype != torch.float32:
        return False, f"the C++ GRU takes float32 on the CPU, not {case.dtype} on {case.device}"
    return True, f"recurrence in C++ (crrl._cpu, {isa or cpu.native.gru_isa()})"


def gru_layer(
    x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer; differentiable once.

    Raises:
        ValueError: a tensor has another shape, dtype or device than its place takes, or a length is not in 1..T.
    """
    hidden = weights[0][1].shape[1]
    if h0 is None:
        h0 = x.new_zeros(len(weights), len(x), hidden)
    _check(x, h0, (len(weights), len(x), hidden))
    for w_ih, w_hh, b_ih, b_hh in weights:
        shapes = ((3 * hidden, x.shape[2]), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,))
        for tensor, shape in zip((w_ih, w_hh, b_ih, b_hh), shapes, strict=True):
            _check(x, tensor, shape)
    flat = [tensor for direction in weights for tensor in direction]
    packing = pack_rows(lengths, x.shape[1], len(weights))
    y, h_n = _Layer.apply(torch.is_grad_enabled(), packing, x, h0, *flat)  # type: ignore[no-untyped-call]
    return y, h_n


def _check(x: Tensor, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """The kernels take pointers: what lies behind them must be what they expect."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device):
        raise ValueError(
            f"the C++ GRU needs {x.dtype} of shape {list(shape)} on {x.device} here, "
            f"not {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}"
        )


@dataclass(frozen=True)
class Packing:
    """Ragged rows in the order the kernels take them: time-major, longest row first, no padding.

    Attributes:
        order: int64 [B], the rows by falling length.
        active: int64 [T], rows that have a frame t. starts: int64 [T], packed index of the first of them.
        index: per direction int64 [ΣT], where each packed frame lies in the flattened [B·T] frames.
    """

    order: Tensor
    active: Tensor
    starts: Tensor
    index: tuple[Tensor, ...]


def pack_rows(lengths: Tensor, frames: int, directions: int) -> Packing:
    """The packing of rows of these lengths (int64 [B], each in 1..frames) in a batch padded to `frames`."""
    order = torch.argsort(lengths, descending=True, stable=True)
    steps, shortest = int(lengths[order[0]]), int(lengths[order[-1]])
    if not 1 <= shortest <= steps <= frames:
        raise ValueError(f"lengths must be in 1..{frames}, not {shortest}..{steps}")
    t = torch.arange(steps)[:, None]
    valid = t < lengths[order]
    active = valid.sum(1)
    times = (t.expand_as(valid), lengths[order] - 1 - t)[:directions]
    index = tuple((order * frames + time)[valid] for time in times)
    return Packing(order, active, active.cumsum(0) - active, index)


class _Layer(torch.autograd.Function):
    """x [B, T, I], h0 [D, B, H] and four weights a direction to y [B, T, D·H] and h_n [D, B, H].

    `training`: a backward may follow, so keep what it needs.
    """

    @staticmethod
    def forward(
        ctx: Any, training: bool, packing: Packing, x: Tensor, h0: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        directions, batch, hidden = h0.shape
        count = len(packing.index[0])
        rows = x.flatten(0, 1)
        gates = x.new_empty(directions, count, 3 * hidden)
        for d, index in enumerate(packing.index):
            w_ih, b_ih = weights[4 * d], weights[4 * d + 2]
            assert w_ih is not None
            packed = rows.index_select(0, index)
            torch.addmm(x.new_zeros(()) if b_ih is None else b_ih, packed, w_ih.t(), out=gates[d])
        w_hh, b_hh = _stack(weights[1::4]), _stack([_or_zeros(b, gates) for b in weights[3::4]])
        y = x.new_empty(directions, count, hidden)
        widths = (hidden, 2 * hidden, hidden, hidden) if training else (0, 0, 0, 0)
        before, r_z, n, n_h = saved = [x.new_empty(directions, count, width) for width in widths]
        h = h0.index_select(1, packing.order)
        shape = _shape(packing, count, batch, hidden, directions)
        before_at, r_z_at, n_at, n_h_at = (tensor.data_ptr() if training else 0 for tensor in saved)
        cpu.native.gru_forward(
            shape, gates.data_ptr(), w_hh.data_ptr(), b_hh.data_ptr(), h.data_ptr(), y.data_ptr(),
            before_at, r_z_at, n_at, n_h_at, threads=torch.get_num_threads(), isa=isa,
        )  # fmt: skip
        output = x.new_zeros(len(rows), directions * hidden)
        for d, index in enumerate(packing.index):
            output[:, d * hidden : (d + 1) * hidden].index_copy_(0, index, y[d])
        ctx.save_for_backward(x, w_hh, before, r_z, n, n_h, *weights)
        ctx.packing = packing
        return output.view(*x.shape[:2], -1), torch.empty_like(h).index_copy_(1, packing.order, h)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this backward can be differentiated once: for second derivatives (create_graph=True) run under "
                "crrl.ops.use_backends('gru_layer=reference') or set CRRL_BACKEND=gru_layer=reference"
            )
        x, w_hh, before, r_z, n, n_h, *weights = ctx.saved_tensors
        packing: Packing = ctx.packing
        directions, count, hidden = n.shape
        rows, dy = x.flatten(0, 1), dy.flatten(0, 1)
        dy_packed = torch.stack(
            [dy[:, d * hidden : (d + 1) * hidden].index_select(0, index) for d, index in enumerate(packing.index)]
        )
        dh = dh_n.index_select(1, packing.order)
        dgates, drecurrent = (x.new_empty(directions, count, 3 * hidden) for _ in range(2))
        shape = _shape(packing, count, len(x), hidden, directions)
        cpu.native.gru_backward(
            shape, w_hh.data_ptr(), before.data_ptr(), r_z.data_ptr(), n.data_ptr(), n_h.data_ptr(),
            dy_packed.data_ptr(), dh.data_ptr(), dgates.data_ptr(), drecurrent.data_ptr(),
            threads=torch.get_num_threads(), isa=isa,
        )  # fmt: skip
        dx = torch.zeros_like(rows) if ctx.needs_input_grad[2] else None
        gradients: list[Tensor | None] = []
        for d, index in enumerate(packing.index):
            has_bias = weights[4 * d + 2] is not None
            packed = rows.index_select(0, index)
            gradients += [dgates[d].t() @ packed, drecurrent[d].t() @ before[d]]
            gradients += [dgates[d].sum(0), drecurrent[d].sum(0)] if has_bias else [None, None]
            if dx is not None:
                dx.index_add_(0, index, dgates[d] @ weights[4 * d])
        dh0 = torch.empty_like(dh).index_copy_(1, packing.order, dh)
        return None, None, None if dx is None else dx.view_as(x), dh0, *gradients


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors if tensor is not None])


def _or_zeros(bias: Tensor | None, gates: Tensor) -> Tensor:
    return gates.new_zeros(gates.shape[2]) if bias is None else bias


def _shape(packing: Packing, count: int, batch: int, hidden: int, directions: int) -> Any:
    return cpu.native.GruShape(
        packing.active.data_ptr(), packing.starts.data_ptr(), len(packing.active), count, batch, hidden, directions
    )
