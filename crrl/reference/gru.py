"""One GRU layer, both directions, over ragged rows: torch.nn.GRU's arithmetic spelled out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.reference.motion import reverse, valid_frames

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""(w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H]) of one direction; gate order r, z, n; biases may be None."""


def gru_layer(
    x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A GRU layer with the semantics of torch.nn.GRU on a PackedSequence.

    Args:
        x: [B, T, I], padded rows.
        lengths: int64 [B], each in 1..T; the reverse direction starts at each row's own last frame.
        weights: one entry per direction, forward first.
        h0: [D, B, H] initial states, zeros when None.

    Returns:
        y [B, T, D·H], 0 at padded frames, and the final states h_n [D, B, H].
    """
    batch, hidden = x.shape[0], weights[0][1].shape[1]
    if h0 is None:
        h0 = x.new_zeros(len(weights), batch, hidden)
    outputs, finals = [], []
    for direction, weight in enumerate(weights):
        backward = direction == 1
        y, h_n = _one_direction(reverse(x, lengths) if backward else x, lengths, weight, h0[direction])
        outputs.append(reverse(y, lengths) if backward else y)
        finals.append(h_n)
    return torch.cat(outputs, dim=2), torch.stack(finals)


def _one_direction(x: Tensor, lengths: Tensor, weights: Weights, h: Tensor) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh = weights
    projected = F.linear(x, w_ih, b_ih).unbind(1)
    outputs = []
    for x_t, valid in zip(projected, valid_frames(lengths, x.shape[1]).unbind(1), strict=True):
        r_x, z_x, n_x = x_t.chunk(3, dim=1)
        r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, dim=1)
        r = torch.sigmoid(r_x + r_h)
        z = torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        h_next = (h - n) * z + n
        outputs.append(torch.where(valid[:, None], h_next, 0))
        h = torch.where(valid[:, None], h_next, h)
    return torch.stack(outputs, dim=1), h
