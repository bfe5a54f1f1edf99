"""crrl::gru_layer and its backward as torch.library operators: schema, fake, autograd, vmap, autocast side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from crrl.ops import extension, precision
from crrl.ops.backends import autograd_alone, probe
from crrl.ops.gru import call, cpu, cuda, flops
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

_LAYER = "Tensor x, Tensor? lengths, Tensor? h0, Tensor[] weights"
_FLAGS = "SymInt frames, bool batch_first, bool reverse"

# Not torch.library.custom_op, which checks every call again and imports the compiler in the first one.
_LIBRARY = torch.library.Library("crrl", "FRAGMENT")  # type: ignore[no-untyped-call]


def _define(name: str, schema: str, **kernels: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define crrl::name with a kernel for each device type."""
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    for device, kernel in kernels.items():
        _LIBRARY.impl(name, extension.opaque(kernel), device.upper())  # type: ignore[no-untyped-call]
    operator = getattr(torch.ops.crrl, name).default
    assert isinstance(operator, torch._ops.OpOverload)
    return operator


forward_op = _define(
    "gru_layer",
    f"({_LAYER}, {_FLAGS}, bool keep) -> (Tensor, Tensor, Tensor)",
    cpu=cpu.forward,
    cuda=cuda.forward,
)
"""One GRU layer: y, h_n and the reserve that its backward needs (empty unless `keep`).

x: [B, T, I] if batch_first, else [T, B, I], any strides; or one frame a row, which is repeated. lengths: int64 [B] or
None. h0: [D, B, H] or None. weights: w_ih, w_hh and, if the layer has biases, b_ih, b_hh of each direction. frames: T.
reverse: the second direction runs backwards. Returns y [B, T, D·H] or [T, B, D·H], h_n [D, B, H], reserve.
"""

backward_op = _define(
    "gru_layer_backward",
    f"(Tensor dy, Tensor dh_n, {_LAYER}, Tensor reserve, {_FLAGS}, bool needs_dx) -> (Tensor, Tensor, Tensor[])",
    cpu=cpu.backward,
    cuda=cuda.backward,
)
"""dx (empty unless needs_dx), dh0 (even if h0 is None) and the gradient of each of `weights`."""

pair_op = _define(
    "gru_layer_pair",
    "(Tensor x, Tensor v, Tensor? lengths, Tensor[] weights, Tensor[] key_weights, bool batch_first, bool reverse,"
    " bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cuda=cuda.forward_pair,
)
"""crrl::gru_layer of x with `weights`: y, h_n, reserve; then of v with `key_weights`, without gradient: y, h_n."""


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer, computed by crrl::gru_layer; twice differentiable.

    Raises:
        ValueError: a tensor does not have the shape, dtype or device required, or a length is not in 1..T.
    """
    x, flat = _autocast(x), [_autocast(tensor) for tensor in _flat(weights)]
    h0 = None if h0 is None else _autocast(h0)
    keep = _needs_gradient(x, *flat, *([] if h0 is None else [h0]))
    if lengths is not None and not lengths.is_floating_point():
        lengths = lengths.to(torch.int64)
    frames = x.shape[1] if frames is None else frames
    batch_first = _batch_first(x)
    rows = x if batch_first else x.transpose(0, 1)
    if keep and autograd_alone() and _is_plain(x, *flat, *([] if h0 is None else [h0])):
        y, h_n = _Recorded.apply(  # type: ignore[no-untyped-call]
            rows, lengths, h0, frames, batch_first, reverse, *flat
        )
    else:
        y, h_n, _ = forward_op(rows, lengths, h0, flat, frames, batch_first, reverse, keep)
    return y if batch_first else y.transpose(0, 1), h_n


def fit_one_launch(x: Tensor, v: Tensor, weights: Sequence[Weights], key_weights: Sequence[Weights]) -> bool:
    """Whether one launch can serve both layers, which then have the same B, T, D, H, dtype and device."""
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
    """`gru_layer` of x [B, T, I] and, without gradient, of v [B, T, I'], by crrl::gru_layer_pair.

    Raises:
        ValueError: as gru_layer does, or the layers differ in B, T, D or H.
    """
    x, flat = _autocast(x), [_autocast(tensor) for tensor in _flat(weights)]
    v, key_flat = _autocast(v.detach()), [_autocast(tensor.detach()) for tensor in _flat(key_weights)]
    if lengths is not None and not lengths.is_floating_point():
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
    """The tensor in autocast's dtype on a GPU, where that may be one of two; on a CPU the operator itself casts."""
    return tensor.to(precision.compute_dtype(tensor)) if tensor.device.type == "cuda" else tensor


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _batch_first(x: Tensor) -> bool:
    """Whether to take x [B, T, I] as it is; else it is better taken as [T, B, I]."""
    return x.is_contiguous() or not x.transpose(0, 1).is_contiguous()


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
    directions, batch, hidden = call.sizes(x, weights, batch_first)
    if any(tensor.device != x.device for tensor in (*weights, *([] if h0 is None else [h0]))):
        raise ValueError(f"x is on {x.device}, a weight or h0 is not")
    of_device = cuda if x.device.type == "cuda" else cpu
    reserve = of_device.reserve_size(directions, batch, frames, hidden) if keep else 0
    y = x.new_empty(call.output_shape(x, weights, frames, batch_first))
    return y, x.new_empty(directions, batch, hidden), x.new_empty(reserve)


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


def _backward_fake(
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
    dx = x.new_empty(x.shape if needs_dx else 0)
    return dx, x.new_empty(dh_n.shape), [weight.new_empty(weight.shape) for weight in weights]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, lengths, h0, weights, *ctx.flags, ctx.kept = inputs
    reserve = output[2]
    ctx.mark_non_differentiable(reserve)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, lengths, h0, reserve, *weights)


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dreserve: Tensor | None) -> tuple[Any, ...]:
    x, lengths, h0, reserve, *weights = ctx.saved_tensors
    if not ctx.kept:  # the forward pass is from a graph recorded without gradients
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            reserve = forward_op(x, lengths, h0, weights, *ctx.flags, True)[2]
    return _gradients(backward_op, ctx, dy, dh_n, reserve)


def _gradients(
    run: Callable[..., Any], ctx: Any, dy: Tensor | None, dh_n: Tensor | None, reserve: Tensor
) -> tuple[Any, ...]:
    """The gradients of crrl::gru_layer's arguments, by `run`: its backward, or a function that computes the same."""
    x, lengths, h0, _, *weights = ctx.saved_tensors
    frames, batch_first, reverse = ctx.flags
    if dy is None:
        dy = x.new_zeros(call.output_shape(x, weights, frames, batch_first))
    if dh_n is None:
        dh_n = x.new_zeros(call.sizes(x, weights, batch_first))
    needs_dx = ctx.needs_input_grad[0]
    flags = frames, batch_first, reverse, needs_dx
    dx, dh0, gradients = run(dy, dh_n, x, lengths, h0, weights, reserve, *flags)
    return dx if needs_dx else None, None, None if h0 is None else dh0, gradients, None, None, None, None


class _Recorded(torch.autograd.Function):
    """crrl::gru_layer on a CPU if only autograd observes it, with less overhead than the operator."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lengths: Tensor | None,
        h0: Tensor | None,
        frames: int,
        batch_first: bool,
        reverse: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, h_n, reserve = cpu.forward(x, lengths, h0, weights, frames, batch_first, reverse, True)
        ctx.flags = frames, batch_first, reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, lengths, h0, reserve, *weights)
        return y, h_n

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Any, ...]:
        given = [gradient for gradient in (dy, dh_n) if gradient is not None]
        alone = autograd_alone() and _is_plain(*given) and not any(map(_is_batched, given))
        run = backward_op if torch.is_grad_enabled() or not alone else cpu.backward
        dx, _, dh0, gradients, *_ = _gradients(run, ctx, dy, dh_n, ctx.saved_tensors[3])
        return dx, None, dh0, None, None, None, *gradients


_is_batched = probe("_functorch.is_legacy_batchedtensor")


def _is_plain(*tensors: Tensor) -> bool:
    """Whether all are of class Tensor or Parameter, on a CPU, with autocast off."""
    kinds = (Tensor, torch.nn.Parameter)
    return all(type(tensor) in kinds and tensor.device.type == "cpu" for tensor in tensors) and not any(
        map(precision.autocasts, tensors[:1])
    )


def _keep_pair_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, lengths, weights, key_weights, batch_first, reverse, ctx.kept = inputs
    _, _, reserve, key_y, key_h_n = output
    ctx.flags, ctx.keys = (x.shape[1 if batch_first else 0], batch_first, reverse), len(key_weights)
    ctx.mark_non_differentiable(reserve, key_y, key_h_n)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, lengths, None, reserve, *weights)


def _pair_backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, *others: None) -> tuple[Any, ...]:
    dx, _, _, gradients, *_ = _backward(ctx, dy, dh_n, None)
    return dx, None, None, gradients, [None] * ctx.keys, None, None, None


def _keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, dh_n, x, lengths, h0, weights, _, *ctx.flags = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, dh_n, x, lengths, h0, *weights)


def _double_backward(ctx: Any, *doubles: Any) -> tuple[Any, ...]:
    """The gradient of the backward, through the reference, which is differentiable any number of times."""
    dy, dh_n, x, lengths, h0, *weights = ctx.saved_tensors
    *flags, needs_dx = ctx.flags
    with torch.enable_grad():
        cotangents = [_leaf(dy), _leaf(dh_n)]
        leaves, firsts = _differentiated(cotangents, True, (x, lengths, h0, weights), flags)
        ddx, ddh0, ddweights = doubles
        wanted = [ddx if needs_dx else None, *(ddweights or [None] * len(weights)), *([] if h0 is None else [ddh0])]
        pairs = [(first, double) for first, double in zip(firsts, wanted, strict=True) if double is not None]
    seconds = torch.autograd.grad(
        [first for first, _ in pairs], [*cotangents, *leaves], [double for _, double in pairs],
        create_graph=torch.is_grad_enabled(), allow_unused=True,
    )  # fmt: skip
    count = 3 + len(weights)
    return (
        *seconds[:3], None, None if h0 is None else seconds[count], list(seconds[3:count]),
        None, None, None, None, None,
    )  # fmt: skip


def _differentiated(
    cotangents: Sequence[Tensor], create_graph: bool, tensors: Sequence[Any], flags: Sequence[Any]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """x, the weights and h0 (if there is one) as leaves, and the gradients of all of these, by the reference.

    tensors: x, lengths, h0, weights. flags: frames, batch_first, reverse.
    """
    x, lengths, h0, weights = tensors
    leaves = [_leaf(tensor) for tensor in (x, *weights, *([] if h0 is None else [h0]))]
    count = 1 + len(weights)
    state = leaves[count] if h0 is not None else None
    outputs = _reference(leaves[0], lengths, state, leaves[1:count], *flags)
    return leaves, torch.autograd.grad(outputs, leaves, cotangents, create_graph=create_graph)


def _leaf(tensor: Tensor) -> Tensor:
    """The tensor as an input of a separate graph: in the caller's graph dy may depend on x."""
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
    directions = call.sizes(x, weights, batch_first)[0]
    step = len(weights) // directions
    per_direction: list[Weights] = [
        (weights[i], weights[i + 1], *(weights[i + 2 : i + 4] if step == 4 else (None, None)))
        for i in range(0, len(weights), step)
    ]
    rows = x if batch_first else x.transpose(0, 1)
    y, h_n = reference.gru_layer(rows, lengths, per_direction, h0, reverse, frames)
    return y if batch_first else y.transpose(0, 1), h_n


def _one_by_one(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The torch.func.vmap rule of an operator: one call for each element of the batch."""

    def rule(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _stacked([operator(*_element(arguments, dims, index)) for index in range(info.batch_size)])

    return rule


def _element(arguments: Sequence[Any], dims: Sequence[Any], index: int) -> list[Any]:
    """The arguments, with element `index` taken of each that has a batch dimension."""
    return [
        argument if dim is None
        else _element(argument, dim, index) if isinstance(argument, (list, tuple))
        else argument.select(dim, index)
        for argument, dim in zip(arguments, dims, strict=True)
    ]  # fmt: skip


def _stacked(calls: Sequence[Any]) -> tuple[Any, Any]:
    """The results of several calls in the structure of one, stacked along dimension 0, and their batch dimensions."""
    if isinstance(calls[0], Tensor):
        return torch.stack(tuple(calls)), 0
    results, dims = zip(*(_stacked(part) for part in zip(*calls, strict=True)), strict=True)
    kind = type(calls[0])
    return kind(results), kind(dims)


def _batched_backward(
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
    """crrl::gru_layer_backward for torch.autograd.grad(is_grads_batched=True), in operations that torch can batch."""
    if h0 is None:
        h0 = x.new_zeros(dh_n.shape)
    create_graph, flags = torch.is_grad_enabled(), (frames, batch_first, reverse)
    with torch.enable_grad():
        _, gradients = _differentiated((dy, dh_n), create_graph, (x, lengths, h0, weights), flags)
    dx, *dweights, dh0 = gradients
    return dx if needs_dx else x.new_empty(0), dh0, dweights


for _name, _operator, _fake, _gradient, _keep in (
    ("crrl::gru_layer", forward_op, _forward_fake, _backward, _keep_for_backward),
    ("crrl::gru_layer_backward", backward_op, _backward_fake, _double_backward, _keep_for_double_backward),
    ("crrl::gru_layer_pair", pair_op, _pair_fake, _pair_backward, _keep_pair_for_backward),
):
    torch.library.register_fake(_name, _fake, lib=_LIBRARY)
    torch.library.register_autograd(_name, _gradient, setup_context=_keep, lib=_LIBRARY)
    torch.library.register_vmap(_name, _one_by_one(_operator), lib=_LIBRARY)

with suppress(RuntimeError):  # a torch that batches gradients by torch.func.vmap may have no such key
    _LIBRARY.impl("gru_layer_backward", _batched_backward, "Batched")  # type: ignore[no-untyped-call]
torch.library.register_autocast("crrl::gru_layer", "cpu", torch.bfloat16, lib=_LIBRARY)
flops.register()
