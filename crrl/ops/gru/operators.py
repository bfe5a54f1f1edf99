"""A GRU layer, and two layers at once, over the backends that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from crrl.ops import precision
from crrl.ops.backends import Backend, Case, Operator, always
from crrl.ops.gru import check, cpu, framework, layer
from crrl.reference import gru
from crrl.reference.gru import Weights


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer, one or both directions, over ragged rows: y [B, T, D·H] (0 at padded frames), h_n [D, B, H].

    Under autocast a kernel of ours computes and returns the autocast dtype; torch's, on a CPU, that of the state.

    Args:
        x: [B, T, I], any strides, B and T at least 1. Or [B, 1, I] with `frames`: T times the same frame, whose
            product with W_ih a kernel of ours computes once.
        lengths: int64 [B] on any device, each in 1..T; None: every frame is valid.
        weights: (w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H]) per direction, forward first; biases may be None.
        h0: [D, B, H] or None for zeros.
        reverse: the second direction, if there is one, runs backwards in time from each row's own last frame; False:
            both run forwards (the stepwise form).
        frames: T; None: that of x.

    Raises:
        ValueError: a length is not in 1..T.
    """
    run = _LAYER.pick(_case(x, _hidden(weights)))
    return cast("tuple[Tensor, Tensor]", run(x, lengths, weights, h0, reverse, frames))


def gru_layer_pair(
    x: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    key_weights: Sequence[Weights],
    reverse: bool = True,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`gru_layer` of x [B, T, I] with `weights`, and without gradient of v [B, T, I'] with `key_weights`.

    On the backend "cuda" both are one launch; the two layers have the same D and H.

    Raises:
        ValueError: as gru_layer does.
    """
    served = [gru_backend(tensor, _hidden(each))[0] for tensor, each in ((x, weights), (v, key_weights))]
    if served == ["cuda", "cuda"] and layer.fit_one_launch(x, v, weights, key_weights):
        return layer.gru_layer_pair(x, v, lengths, weights, key_weights, reverse)
    with torch.no_grad():
        key = gru_layer(v, lengths, key_weights, None, reverse)
    return gru_layer(x, lengths, weights, None, reverse), key


def gru_backend(x: Tensor, hidden: int | None = None) -> tuple[str, str]:
    """The name of the backend that serves a GRU layer on `x` (any shape) under the current policy, and why it does.

    hidden: H; None: whatever it is.
    """
    return _LAYER.served(_case(x, hidden))


def _case(x: Tensor, hidden: int | None) -> Case:
    """Of a GPU, which one and H are asked for as well; elsewhere a compiler need not look at them."""
    if x.device.type != "cuda":
        return Case(x.device.type, precision.compute_dtype(x))
    return Case("cuda", precision.compute_dtype(x), x.device.index, hidden)


def _hidden(weights: Sequence[Weights]) -> int:
    return weights[0][1].shape[1]


_LAYER = Operator(
    "gru_layer",
    Backend("cpu", layer.gru_layer, cpu.supports),
    Backend("cuda", layer.gru_layer, check.supports),
    Backend("torch", framework.gru_layer, framework.supports),
    Backend("reference", gru.gru_layer, always),
    watched="torch",
)
