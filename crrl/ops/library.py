"""crrl::gru_layer and its backward as torch.library operators: schema, fake, autograd and autocast side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu_gru, cuda_gru, gru_call, precision
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

_LAYER = "Tensor x, Tensor? lengths, Tensor? h0, Tensor[] weights"
_FLAGS = "int frames, bool batch_first, bool reverse"

forward_op = torch.library.custom_op(
    "crrl::gru_layer",
    cpu_gru.forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_LAYER}, {_FLAGS}, bool keep) -> (Tensor, Tensor, Tensor)",
)
"""One GRU layer: y, h_n and what its backward needs (empty unless `keep`).

x: [B, T, I] when batch_first, else [T, B, I], any strides; or one frame a row, which is repeated. lengths: int64 [B] or
None. h0: [D, B, H] or None. weights: w_ih, w_hh and, unless the layer has none, b_ih, b_hh of each direction. frames:
T. reverse: the second direction runs backwards. Returns y [B, T, D·H] or [T, B, D·H], h_n [D, B, H], reserve.
"""

backward_op = torch.library.custom_op(
    "crrl::gru_layer_backward",
    cpu_gru.backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor dh_n, {_LAYER}, Tensor y, Tensor reserve, {_FLAGS}, bool needs_dx)"
    " -> (Tensor, Tensor, Tensor[])",
)
"""dx (empty unless needs_dx), dh0 (also where h0 is None) and the gradient of each of `weights`."""

pair_op = torch.library.custom_op(
    "crrl::gru_layer_pair",
    cuda_gru.forward_pair,
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor x, Tensor v, Tensor? lengths, Tensor[] weights, Tensor[] key_weights, bool batch_first,"
    " bool reverse, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
"""crrl::gru_layer of x with `weights`: y, h_n, reserve; and of v with `key_weights`, without gradient: y, h_n."""

forward_op.register_kernel("cuda")(cuda_gru.forward)
backward_op.register_kernel("cuda")(cuda_gru.backward)


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer by crrl::gru_layer; differentiable twice.

    Raises:
        ValueError: a tensor has another shape, dtype or device than its place takes, or a length is not in 1..T.
    """
    x, flat = _autocast(x), [_autocast(tensor) for tensor in _flat(weights)]
    h0 = None if h0 is None else _autocast(h0)
    keep = _needs_gradient(x, *flat, *([] if h0 is None else [h0]))
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    frames = x.shape[1] if frames is None else frames
    batch_first = _batch_first(x)
    if batch_first:
        y, h_n, _ = forward_op(x, lengths, h0, flat, frames, True, reverse, keep)
        return y, h_n
    y, h_n, _ = forward_op(x.transpose(0, 1), lengths, h0, flat, frames, False, reverse, keep)
    return y.transpose(0, 1), h_n


def fit_one_launch(x: Tensor, v: Tensor, weights: Sequence[Weights], key_weights: Sequence[Weights]) -> bool:
    """Whether one launch can serve both layers: they have the same sizes, dtype and device."""
    one, other = (
        (*of.shape[:2], len(each), each[0][1].shape[1], precision.compute_dtype(of), of.device)
        for of, each in ((x, weights), (v, key_weights))
    )
    return one == other


def gru_layer_pair(
    x: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    key_weights: Sequence[Weights],
    reverse: bool = True,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`gru_layer` of x [B, T, I], and without gradient of v [B, T, I'], by crrl::gru_layer_pair.

    Raises:
        ValueError: as gru_layer does, or the layers differ in B, T, D or H.
    """
    x, flat = _autocast(x), [_autocast(tensor) for tensor in _flat(weights)]
    v, key_flat = _autocast(v.detach()), [_autocast(tensor.detach()) for tensor in _flat(key_weights)]
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    keep = _needs_gradient(x, *flat)
    if _batch_first(x):
        y, h_n, _, key_y, key_h_n = pair_op(x, v, lengths, flat, key_flat, True, reverse, keep)
        return (y, h_n), (key_y, key_h_n)
    turned = x.transpose(0, 1), v.transpose(0, 1)
    y, h_n, _, key_y, key_h_n = pair_op(*turned, lengths, flat, key_flat, False, reverse, keep)
    return (y.transpose(0, 1), h_n), (key_y.transpose(0, 1), key_h_n)


def _flat(weights: Sequence[Weights]) -> list[Tensor]:
    return [tensor for direction in weights for tensor in direction if tensor is not None]


def _autocast(tensor: Tensor) -> Tensor:
    """The tensor in autocast's dtype on a GPU, where that may be either of two; on a CPU the operator itself casts."""
    return tensor.to(precision.compute_dtype(tensor)) if tensor.device.type == "cuda" else tensor


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _batch_first(x: Tensor) -> bool:
    """Whether x [B, T, I] is best taken as it is; else as [T, B, I]."""
    return x.is_contiguous() or not x.transpose(0, 1).is_contiguous()


@forward_op.register_fake
def _forward_fake(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    frames: int,
    batch_first: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    directions, batch, hidden = gru_call.sizes(x, weights, batch_first)
    of_device = cuda_gru if x.device.type == "cuda" else cpu_gru
    reserve = of_device.reserve_size(directions, batch, frames, hidden) if keep else 0
    y = x.new_empty(gru_call.output_shape(x, weights, frames, batch_first))
    return y, x.new_empty(directions, batch, hidden), x.new_empty(reserve)


@pair_op.register_fake
def _pair_fake(
    x: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    key_weights: Sequence[Tensor],
    batch_first: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    frames = x.shape[1 if batch_first else 0]
    y, h_n, reserve = _forward_fake(x, lengths, None, weights, frames, batch_first, reverse, keep)
    return y, h_n, reserve, torch.empty_like(y), torch.empty_like(h_n)


@backward_op.register_fake
def _backward_fake(
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
    dx = x.new_empty(x.shape if needs_dx else 0)
    return dx, x.new_empty(dh_n.shape), [weight.new_empty(weight.shape) for weight in weights]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, lengths, h0, weights, *ctx.flags, _ = inputs
    y, _, reserve = output
    ctx.mark_non_differentiable(reserve)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, lengths, h0, y, reserve, *weights)


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dreserve: Tensor | None) -> tuple[Any, ...]:
    x, lengths, h0, y, reserve, *weights = ctx.saved_tensors
    frames, batch_first, reverse = ctx.flags
    if dy is None:
        dy = torch.zeros_like(y)
    if dh_n is None:
        directions, batch, hidden = gru_call.sizes(x, weights, batch_first)
        dh_n = x.new_zeros(directions, batch, hidden)
    needs_dx = ctx.needs_input_grad[0]
    flags = frames, batch_first, reverse, needs_dx
    dx, dh0, gradients = backward_op(dy, dh_n, x, lengths, h0, weights, y, reserve, *flags)
    return dx if needs_dx else None, None, None if h0 is None else dh0, gradients, None, None, None, None


forward_op.register_autograd(_backward, setup_context=_keep_for_backward)


def _keep_pair_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, lengths, weights, key_weights, batch_first, reverse, _ = inputs
    y, _, reserve, key_y, key_h_n = output
    ctx.flags, ctx.keys = (x.shape[1 if batch_first else 0], batch_first, reverse), len(key_weights)
    ctx.mark_non_differentiable(reserve, key_y, key_h_n)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, lengths, None, y, reserve, *weights)


def _pair_backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, *others: None) -> tuple[Any, ...]:
    dx, _, _, gradients, *_ = _backward(ctx, dy, dh_n, None)
    return dx, None, None, gradients, [None] * ctx.keys, None, None, None


pair_op.register_autograd(_pair_backward, setup_context=_keep_pair_for_backward)


def _keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, dh_n, x, lengths, h0, weights, _, _, *ctx.flags = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, dh_n, x, lengths, h0, *weights)


def _double_backward(ctx: Any, *doubles: Any) -> tuple[Any, ...]:
    """The gradient of the backward, through the reference, which is differentiable any number of times."""
    dy, dh_n, x, lengths, h0, *weights = ctx.saved_tensors
    frames, batch_first, reverse, needs_dx = ctx.flags
    with torch.enable_grad():
        leaves = [_leaf(tensor) for tensor in (dy, dh_n, x, *weights, *([] if h0 is None else [h0]))]
        count = 3 + len(weights)
        state = leaves[count] if h0 is not None else None
        outputs = _reference(leaves[2], lengths, state, leaves[3:count], frames, batch_first, reverse)
        firsts = torch.autograd.grad(outputs, leaves[2:], leaves[:2], create_graph=True)
        ddx, ddh0, ddweights = doubles
        wanted = [ddx if needs_dx else None, *(ddweights or [None] * len(weights)), *([] if h0 is None else [ddh0])]
        pairs = [(first, double) for first, double in zip(firsts, wanted, strict=True) if double is not None]
    seconds = torch.autograd.grad(
        [first for first, _ in pairs], leaves, [double for _, double in pairs],
        create_graph=torch.is_grad_enabled(), allow_unused=True,
    )  # fmt: skip
    return (
        *seconds[:3], None, None if h0 is None else seconds[count], list(seconds[3:count]),
        None, None, None, None, None, None,
    )  # fmt: skip


def _leaf(tensor: Tensor) -> Tensor:
    """The tensor as an input of a graph of its own: dy may depend on x through the caller's."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def _reference(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    frames: int,
    batch_first: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    directions = gru_call.sizes(x, weights, batch_first)[0]
    step = len(weights) // directions
    per_direction: list[Weights] = [
        (weights[i], weights[i + 1], *(weights[i + 2 : i + 4] if step == 4 else (None, None)))
        for i in range(0, len(weights), step)
    ]
    rows = x if batch_first else x.transpose(0, 1)
    y, h_n = reference.gru_layer(rows, lengths, per_direction, h0, reverse, frames)
    return y if batch_first else y.transpose(0, 1), h_n


backward_op.register_autograd(_double_backward, setup_context=_keep_for_double_backward)

torch.library.register_autocast("crrl::gru_layer", "cpu", torch.bfloat16)
