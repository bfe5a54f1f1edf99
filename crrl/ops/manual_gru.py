"""The GRU layer in PyTorch with a hand-written backward: ended rows drop out, each weight gradient is one product.

Autograd through a GRU adds a weight-sized gradient at every frame; here the frames' gate gradients are kept, and one
matrix product over all frames gives each weight's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.ops.backends import Case
from crrl.reference.gru import Weights


def supports(case: Case) -> tuple[bool, str]:
    """Whether this can serve `case`, and why."""
    if case.device != "cpu":
        return False, "a launch per frame and operation is slow on a GPU"
    if not torch.is_grad_enabled():
        return False, "nothing is differentiated here"
    return True, "hand-written backward, one product per weight gradient (without gradients: torch)"


def gru_layer(
    x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer; differentiable once."""
    batch, frames, _ = x.shape
    if h0 is None:
        h0 = x.new_zeros(len(weights), batch, weights[0][1].shape[1])
    order = torch.argsort(lengths, descending=True, stable=True)
    t = torch.arange(frames)[:, None]
    valid = t < lengths[order]
    active = valid.sum(1).tolist()
    times = (t.expand_as(valid), lengths[order] - 1 - t)
    outputs, finals = [], []
    for direction, (w_ih, w_hh, b_ih, b_hh) in enumerate(weights):
        packed = (order * frames + times[direction])[valid]
        gates = F.linear(x.flatten(0, 1)[packed], w_ih, b_ih)
        y, h_n = _Recurrence.apply(gates, h0[direction][order], w_hh, b_hh, active)  # type: ignore[no-untyped-call]
        outputs.append(y.new_zeros(batch * frames, y.shape[1]).index_copy(0, packed, y).unflatten(0, (batch, frames)))
        finals.append(torch.empty_like(h_n).index_copy(0, order, h_n))
    return torch.cat(outputs, dim=2), torch.stack(finals)


class _Recurrence(torch.autograd.Function):
    """The recurrent half of one direction over packed frames: all first frames, longest row first, then all second...

    gates [ΣT, 3H] is W_ih x + b_ih; active[t] rows have a frame t. Gives y [ΣT, H] and h_n [B, H].
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, h0: Tensor, w_hh: Tensor, b_hh: Tensor | None, active: list[int]
    ) -> tuple[Tensor, Tensor]:
        hidden = h0.shape[1]
        y, before, n_h = (gates.new_empty(len(gates), hidden) for _ in range(3))
        r_z, n = gates.new_empty(len(gates), 2 * hidden), torch.empty_like(y)
        bias = gates.new_zeros(3 * hidden) if b_hh is None else b_hh
        h, end = h0.clone(), 0
        for rows in active:
            now = slice(end, end := end + rows)
            before[now] = h[:rows]
            recurrent = torch.addmm(bias, h[:rows], w_hh.t())
            torch.add(gates[now, : 2 * hidden], recurrent[:, : 2 * hidden], out=r_z[now]).sigmoid_()
            n_h[now] = recurrent[:, 2 * hidden :]
            torch.addcmul(gates[now, 2 * hidden :], r_z[now, :hidden], n_h[now], out=n[now]).tanh_()
            y[now] = torch.lerp(n[now], h[:rows], r_z[now, hidden:])
            h[:rows] = y[now]
        ctx.save_for_backward(r_z, n, n_h, before, w_hh)
        ctx.active, ctx.has_bias = active, b_hh is not None
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this backward can be differentiated once: for second derivatives (create_graph=True) run under "
                "crrl.ops.use_backends('gru_layer=reference') or set CRRL_BACKEND=gru_layer=reference"
            )
        r_z, n, n_h, before, w_hh = ctx.saved_tensors
        hidden = n.shape[1]
        slopes = r_z * (1 - r_z)
        slopes[:, :hidden] *= n_h
        slopes[:, hidden:] *= before - n
        slope_n = (1 - r_z[:, hidden:]) * (1 - n * n)
        dgates, drecurrent = r_z.new_empty(len(n), 3 * hidden), r_z.new_empty(len(n), 3 * hidden)
        dh, start = dh_n.clone(), len(n)
        for rows in reversed(ctx.active):
            now = slice(start - rows, start)
            start -= rows
            dh_t = dh[:rows] + dy[now]
            d = dgates[now]
            dn = torch.mul(dh_t, slope_n[now], out=d[:, 2 * hidden :])
            torch.mul(dn, slopes[now, :hidden], out=d[:, :hidden])
            torch.mul(dh_t, slopes[now, hidden:], out=d[:, hidden : 2 * hidden])
            drecurrent[now, : 2 * hidden] = d[:, : 2 * hidden]
            torch.mul(dn, r_z[now, :hidden], out=drecurrent[now, 2 * hidden :])
            torch.addmm(dh_t.mul_(r_z[now, hidden:]), drecurrent[now], w_hh, out=dh[:rows])
        dbias = drecurrent.sum(0) if ctx.has_bias else None
        return dgates, dh, drecurrent.t() @ before, dbias, None
