"""Two GRUs of the same sizes run together, layer by layer: on a GPU one launch per layer serves both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.nn.gru import GRU, row_lengths
from crrl.ops.gru import operators

if TYPE_CHECKING:
    from crrl.nn.gru import Lengths


def run_together(
    gru: GRU, x: Tensor, key_gru: GRU, v: Tensor, lengths: Lengths | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What `gru(x, lengths=lengths)` returns and, without gradient, what `key_gru(v, lengths=lengths)` returns.

    If the backend "cuda" serves both and they have the same sizes, one launch serves a layer of both, and dropout draws
    for the key GRU's layer before the other's. Otherwise there are two calls, the key GRU's first. With two layers,
    both ways draw random numbers in the same order.

    Args:
        gru: with batch_first. x: [B, T, I]. key_gru: with batch_first. v: [B, T, I']. lengths: B integers, as
            GRU.forward takes them, or None.

    Returns:
        (y [B, T, D·H], h_n [layers · D, B, H]) of `gru`, then those of `key_gru`.

    Raises:
        ValueError, RuntimeError, CrrlError: as GRU.forward does.
    """
    rows = row_lengths(lengths)
    if _in_step(gru, x, key_gru, v, rows):
        return _layer_by_layer(gru, x, key_gru, v, rows)
    with torch.no_grad():
        key = key_gru(v, lengths=rows)
    return gru(x, lengths=rows), key


def _in_step(gru: GRU, x: Tensor, key_gru: GRU, v: Tensor, lengths: Tensor | None) -> bool:
    """Whether the backend "cuda" serves both, and their arguments and layers have the same sizes."""
    if not (gru.backend(x)[0] == key_gru.backend(v)[0] == "cuda" and gru.batch_first and x.dim() == v.dim() == 3):
        return False
    if lengths is not None and lengths.shape != x.shape[:1]:
        return False
    alike = all(
        getattr(gru, name) == getattr(key_gru, name)
        for name in ("num_layers", "hidden_size", "bidirectional", "batch_first", "reverse")
    )
    fit = gru._fits(x, None, gru._weights()) and key_gru._fits(v, None, key_gru._weights())
    return alike and fit and x.shape[:2] == v.shape[:2]


def _layer_by_layer(
    gru: GRU, x: Tensor, key_gru: GRU, v: Tensor, lengths: Tensor | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    finals, key_finals = [], []
    for layer, (weights, key_weights) in enumerate(zip(gru._weights(), key_gru._weights(), strict=True)):
        if layer:
            v = F.dropout(v, key_gru.dropout, key_gru.training)
            x = F.dropout(x, gru.dropout, gru.training)
        (x, h_n), (v, key_h_n) = operators.gru_layer_pair(x, v, lengths, weights, key_weights, gru.reverse)
        finals.append(h_n)
        key_finals.append(key_h_n)
    return (x, torch.cat(finals)), (v, torch.cat(key_finals))
