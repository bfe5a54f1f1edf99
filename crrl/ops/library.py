"""crrl::gru_layer and its backward as torch.library operators: schema, fake, autograd and autocast side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cpu_gru, gru_call
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
    flat = [tensor for direction in weights for tensor in direction if tensor is not None]
    inputs = [x, *flat] if h0 is None else [x, h0, *flat]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    frames = x.shape[1] if frames is None else frames
    batch_first = x.is_contiguous() or not x.transpose(0, 1).is_contiguous()
    if batch_first:
        y, h_n, _ = forward_op(x, lengths, h0, flat, frames, True, reverse, keep)
        return y, h_n
    y, h_n, _ = forward_op(x.transpose(0, 1), lengths, h0, flat, frames, False, reverse, keep)
    return y.transpose(0, 1), h_n


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
    reserve = cpu_gru.reserve_size(directions, batch, frames, hidden) if keep else 0
    y = x.new_empty(gru_call.output_shape(x, weights, frames, batch_first))
    return y, x.new_empty(directions, batch, hidden), x.new_empty(reserve)


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
