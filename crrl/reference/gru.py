"""One GRU layer, one or both directions, over ragged rows: torch.nn.GRU's arithmetic spelled out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.reference.motion import reverse as reverse_rows
from crrl.reference.motion import valid_frames

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""(w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H]) of one direction; gate order r, z, n; biases may be None."""


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """A GRU layer with the semantics of torch.nn.GRU on a PackedSequence.

    Args:
        x: [B, T, I], padded rows; B and T at least 1. Or [B, 1, I] with `frames`: T times the same frame.
        lengths: int64 [B] on any device, each in 1..T; None: every frame is valid.
        weights: one entry per direction, forward first.
        h0: [D, B, H] initial states; None: zeros.
        reverse: the second direction runs backwards in time, from each row's own last frame; False: it runs forwards.
        frames: T; None: that of x.

    Returns:
        y [B, T, D·H], 0 at padded frames, and the final states h_n [D, B, H].

    Raises:
        ValueError: a length is not in 1..T.
    """
    batch, hidden = x.shape[0], weights[0][1].shape[1]
    if frames is not None:
        x = x.expand(-1, frames, -1)
    if lengths is not None:
        check_lengths(lengths, x.shape[1])
        lengths = lengths.to(x.device)
        x = torch.where(valid_frames(lengths, x.shape[1])[:, :, None], x, 0)  # NaN in padding must reach no gradient
    if h0 is None:
        h0 = x.new_zeros(len(weights), batch, hidden)
    outputs, finals = [], []
    for direction, weight in enumerate(weights):
        backward = reverse and direction == 1
        y, h_n = _one_direction(_reverse(x, lengths) if backward else x, lengths, weight, h0[direction])
        outputs.append(_reverse(y, lengths) if backward else y)
        finals.append(h_n)
    return torch.cat(outputs, dim=2), torch.stack(finals)


def check_lengths(lengths: Tensor, frames: int) -> None:
    """Raise ValueError unless each of `lengths` (int64 [B]) is in 1..frames; while compiling, nothing is checked."""
    if torch.compiler.is_compiling():
        return
    shortest, longest = (int(bound) for bound in lengths.aminmax())
    if not 1 <= shortest <= longest <= frames:
        raise ValueError(f"lengths must be in 1..{frames}, not {shortest}..{longest}")


def _reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x.flip(1) if lengths is None else reverse_rows(x, lengths)


def _one_direction(x: Tensor, lengths: Tensor | None, weights: Weights, h: Tensor) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh = weights
    valid = None if lengths is None else valid_frames(lengths, x.shape[1])
    outputs = []
    for t, x_t in enumerate(F.linear(x, w_ih, b_ih).unbind(1)):
        r_x, z_x, n_x = x_t.chunk(3, dim=1)
        r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, dim=1)
        r = torch.sigmoid(r_x + r_h)
        z = torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        h_next = (h - n) * z + n
        if valid is None:
            outputs.append(h_next)
            h = h_next
        else:
            here = valid[:, t, None]
            outputs.append(torch.where(here, h_next, 0))
            h = torch.where(here, h_next, h)
    return torch.stack(outputs, dim=1), h
