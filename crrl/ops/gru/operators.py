"""A GRU layer, and two layers at once, with the choice of the backend that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from crrl.ops import cpu as cpu_kernels
from crrl.ops import precision
from crrl.ops.backends import Backend, Case, Operator, always, is_free, unobserved
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

    Under autocast our kernels compute and return the autocast dtype; on a CPU torch's return the dtype of the state.

    Args:
        x: [B, T, I], any strides, B and T at least 1. Or [B, 1, I] with `frames`: one frame repeated T times, whose
            product with W_ih our kernels compute once.
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


def infer(
    x: Tensor, hx: Tensor | None, weights: Sequence[Sequence[Tensor]], directions: int, batch_first: bool, reverse: bool
) -> tuple[Tensor, Tensor] | None:
    """All layers, directly by the CPU kernels; None if these do not serve, torch's GRU is faster, or a tensor does not
    fit. The caller makes sure that nothing observes the call (`unobserved`).

    Args:
        x: [B, T, I], or [T, B, I] unless batch_first. hx: [layers · D, B, H] or None.
        weights: for each layer w_ih, w_hh and, if there are biases, b_ih, b_hh of each direction; all of class Tensor
            or Parameter. directions: D.
        reverse: as in gru_layer.

    Returns:
        y [B, T, D·H] or [T, B, D·H], and h_n [layers · D, B, H].
    """
    if not (_is_plain(x, hx) and x.is_cpu and _able(x.dtype, cpu_kernels.isa, cpu_kernels.missing)):
        return None
    try:
        if _is_torchs(x, weights[0][1].shape[1], batch_first):
            return None
        return cpu.infer(x, hx, weights, directions, batch_first, reverse)
    except NOT_SERVED:
        return None


NOT_SERVED = (TypeError, ValueError, RuntimeError)
"""The errors by which the CPU kernels refuse a tensor that does not fit, and torch one that has no strides."""


class Packed(NamedTuple):
    """The weights of all layers, packed by the CPU kernels, and the layout of a batch; see `infer`."""

    layers: list[Any]
    hidden: int
    directions: int
    batch_first: bool
    reverse: bool


def takes_few(x: Any, batch_first: bool) -> bool:
    """Whether x has so few rows or frames that tile registers do not pay; `pack` packs no float32 for those."""
    if cpu_kernels.missing or type(x) is not Tensor or x.dim() != 3:
        return False
    rows, frames = cpu_kernels.native.gru_tiles_from
    return x.shape[0 if batch_first else 1] < rows or x.shape[0] * x.shape[1] < frames


def pack(weights: Sequence[Sequence[Tensor]], directions: int, batch_first: bool, reverse: bool) -> Packed | None:
    """A packed copy of `weights` for infer_packed; None if the CPU kernels do not serve them."""
    first = weights[0][0]
    if not _able(first.dtype, cpu_kernels.isa, cpu_kernels.missing):
        return None
    try:
        layers = cpu.pack(weights, directions)
    except (TypeError, ValueError):
        return None
    return Packed(layers, weights[0][1].shape[1], directions, batch_first, reverse)


def infer_packed(x: Tensor, hx: Tensor | None, packed: Packed) -> tuple[Tensor, Tensor] | None:
    """`infer` with packed weights; None also if something observes the call."""
    if not (_is_plain(x, hx) and unobserved()):
        return None
    try:
        return cpu.infer_packed(x, hx, *packed)
    except NOT_SERVED:
        return None


def _is_plain(x: Any, hx: Any) -> bool:
    """Whether x and hx are of class Tensor, autocast is off and the policy auto; the kernels check all else."""
    plain = type(x) is Tensor and (hx is None or type(hx) is Tensor)
    return plain and not torch.is_autocast_enabled("cpu") and is_free("gru_layer")


@lru_cache
def _able(dtype: torch.dtype, isa: str, missing: str | None) -> bool:
    """Whether the CPU kernels take this dtype; evaluated again if `isa` or `missing` changes."""
    return cpu.supports(Case("cpu", dtype))[0]


def gru_layer_pair(
    x: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    key_weights: Sequence[Weights],
    reverse: bool = True,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`gru_layer` of x [B, T, I] with `weights` and, without gradient, of v [B, T, I'] with `key_weights`.

    On the backend "cuda" one launch serves both, if they have the same B, T, D, H, dtype and device.

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
    """The name of the backend that serves a GRU layer on `x` (any shape) under the current policy, and the reason.

    hidden: H; None: any.
    """
    return _LAYER.served(_case(x, hidden))


def gru_module_backend(x: Tensor, hidden: int, batch_first: bool) -> tuple[str, str]:
    """`gru_backend` for all layers on x, [B, T, I], [T, B, I] or of another shape, with every frame valid."""
    if _is_torchs(x, hidden, batch_first) and is_free("gru_layer"):
        return "torch", "torch's own GRU, which is faster where there are one or two frames in a call"
    return gru_backend(x, hidden)


LARGE = 1 << 14
"""Rows times units from which torch's matrix product of one or two frames is faster than our kernel."""


def _is_torchs(x: Tensor, hidden: int, batch_first: bool) -> bool:
    """Whether torch's own GRU is faster on a CPU: for one or two frames of a large layer, which are mostly one matrix
    product, and for one frame with gradients, whose recording costs us more in Python than our kernel saves.
    """
    if torch.compiler.is_compiling() or x.dim() != 3:
        return False
    rows, frames, _ = x.shape if batch_first else (x.shape[1], x.shape[0], 0)
    if frames > 2 or x.device.type != "cpu" or precision.compute_dtype(x) != torch.float32:
        return False
    return rows * hidden >= LARGE or (frames == 1 and torch.is_grad_enabled())


def _case(x: Tensor, hidden: int | None) -> Case:
    """The case of x. The device number and H matter only on a GPU; elsewhere a compiler need not see them."""
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
