"""The operators: one public function each, with its shapes, over the backends that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from crrl.ops import cpu, cpu_gru, cpu_linear, cpu_step, library, precision, selfcheck, step, torch_gru, triton
from crrl.ops.backends import Backend, Case, Operator, constant, recorder
from crrl.reference import contrast, gru, linear, motion, optim
from crrl.reference.gru import Weights


def _always(case: Case) -> tuple[bool, str]:
    return True, "the plain PyTorch reference"


def _case(tensor: Tensor) -> Case:
    return Case(tensor.device.type, tensor.dtype)


_ragged_gather = Operator(
    "ragged_gather",
    Backend("cpu", cpu.ragged_gather, cpu.supports),
    Backend("triton", triton.ragged_gather, triton.supports),
    Backend("reference", motion.ragged_gather, _always),
)
_gru_layer = Operator(
    "gru_layer",
    Backend("cpu", library.gru_layer, cpu_gru.supports),
    Backend("cuda", library.gru_layer, selfcheck.supports),
    Backend("torch", torch_gru.gru_layer, torch_gru.supports),
    Backend("reference", gru.gru_layer, _always),
)
_info_nce = Operator(
    "info_nce",
    Backend("cpu", step.info_nce, cpu_step.supports),
    Backend("triton", step.info_nce, triton.supports),
    Backend("reference", contrast.info_nce, _always),
)
_ema_update = Operator(
    "ema_update",
    Backend("cpu", step.ema_update_op, cpu_step.supports),
    Backend("triton", step.ema_update_op, triton.supports_flat),
    Backend("reference", contrast.ema_update, _always),
)
_flat_step = Operator(
    "flat_step",
    Backend("cpu", step.flat_step_op, cpu_step.supports),
    Backend("triton", step.flat_step_op, triton.supports_flat),
    Backend("reference", optim.flat_step, _always),
)
_linear_epoch = Operator(
    "linear_epoch",
    Backend("cpu", cpu_linear.linear_epoch, cpu_step.supports),
    Backend("reference", linear.linear_epoch, _always),
)
_RUN = {(name, backend.name): backend.run for name, op in Operator.registry.items() for backend in op.backends}


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clips of a flat array as one padded batch: x [B, T, C], their velocity (Eq. 2) or None, lengths int64 [B].

    Args:
        frames: [ΣT, C]. offsets: int64 [N + 1]. index: int64 [B], the clips. max_frames: T, at least the longest clip.
    """
    result = _ragged_gather(_case(frames), frames, offsets, index, max_frames, with_velocity)
    return cast("tuple[Tensor, Tensor | None, Tensor]", result)


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
    run = _RUN["gru_layer", gru_backend(x, _hidden(weights))[0]]
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
    if served == ["cuda", "cuda"] and library.fit_one_launch(x, v, weights, key_weights):
        return library.gru_layer_pair(x, v, lengths, weights, key_weights, reverse)
    with torch.no_grad():
        key = gru_layer(v, lengths, key_weights, None, reverse)
    return gru_layer(x, lengths, weights, None, reverse), key


def gru_backend(x: Tensor, hidden: int | None = None) -> tuple[str, str]:
    """The name of the backend that serves a GRU layer on `x` (any shape) under the current policy, and why it does.

    hidden: H; None: whatever it is.
    """
    if x.device.type != "cuda":  # elsewhere neither is asked for, and a compiler need not look at them
        return _choose_gru(x.device.type, precision.compute_dtype(x), None, None)
    return _choose_gru(x.device.type, precision.compute_dtype(x), x.device.index, hidden)


def _hidden(weights: Sequence[Weights]) -> int:
    return weights[0][1].shape[1]


@constant
def _choose_gru(device: str, dtype: torch.dtype, index: int | None, hidden: int | None) -> tuple[str, str]:
    backend, reason = _gru_layer.choose(Case(device, dtype, index, hidden))
    if backend.name not in ("torch", "reference") and (above := _above_autograd()):
        return "torch", f"torch's own GRU: the kernel {backend.name!r} knows nothing of {above}"
    return backend.name, reason


def _above_autograd() -> str | None:
    """What, beside autograd, watches the operations now; a kernel known to autograd alone is opaque to it."""
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return recorder() or ("forward-mode differentiation: its tangents would be lost" if forward_mode else None)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a queue (Eq. 6), a scalar; of a float32 queue in float32, if q and k come narrower from autocast.

    Args:
        q: [B, D] queries of any length; the only argument that gets a gradient (by a kernel: once differentiable).
        k: [B, D] keys, L2-normalised. queue: [K, D] earlier keys, L2-normalised. temperature: τ.
    """
    dtype = torch.promote_types(q.dtype, queue.dtype)
    run = _RUN["info_nce", _choose_info_nce(q, queue)]
    return cast(Tensor, run(q.to(dtype), k.to(dtype), queue, temperature))


def info_nce_enqueue(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float, entering: Tensor | None = None
) -> Tensor:
    """`info_nce` by the backend chosen for it; within the call, after the loss, keys enter the queue.

    Args:
        q, k, temperature: as for info_nce. queue: the same, changed in place. pointer: int64 [], the place of the
            oldest key in the ring, moved on. entering: [N, D] keys that replace the oldest (of more than K the last K);
            None: k.
    """
    dtype = torch.promote_types(q.dtype, queue.dtype)
    reference = _choose_info_nce(q, queue) == "reference"
    run = contrast.info_nce_enqueue if reference else step.info_nce_enqueue
    entering = (k if entering is None else entering).to(queue.dtype)
    return run(q.to(dtype), k.to(dtype), queue, pointer, temperature, entering)


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Momentum update (Eq. 5) of `keys` [N] by `queries` [N] in place.

    Elements before `boundary` follow with momentum_head, the others with momentum_tail; at 1 no bit of them changes.
    """
    run = _RUN["ema_update", _choose("ema_update", keys.device.type, keys.dtype)]
    with torch.no_grad():
        run(keys, queries, boundary, momentum_head, momentum_tail)


def flat_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    keys: Tensor | None,
    rates: Tensor,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    eps: float = 1e-8,
    max_norm: float = 0.0,
    boundary: int = 0,
    momentum_head: float = 0.0,
    momentum_tail: float = 0.0,
) -> None:
    """One step of SGD or Adam on flat buffers [N] in place, clipping before it and the momentum update after it.

    The arguments are those of crrl.reference.optim.flat_step; the kernels want them contiguous and in float32.
    """
    run = _RUN["flat_step", _choose("flat_step", parameters.device.type, parameters.dtype)]
    with torch.no_grad():
        run(
            parameters, gradients, first, second, keys, rates, nesterov=nesterov, weight_decay=weight_decay,
            beta2=beta2, eps=eps, max_norm=max_norm, boundary=boundary, momentum_head=momentum_head,
            momentum_tail=momentum_tail,
        )  # fmt: skip


def linear_epoch(
    features: Tensor,
    labels: Tensor,
    order: Tensor,
    batch_size: int,
    parameters: tuple[Tensor, Tensor],
    momenta: tuple[Tensor, Tensor],
    rate: float,
    momentum: float,
) -> None:
    """An epoch of softmax regression by SGD with Nesterov momentum; `parameters` and `momenta` change in place.

    The arguments are those of crrl.reference.linear.linear_epoch; the kernel wants them contiguous.
    """
    _linear_epoch(_case(features), features, labels, order, batch_size, parameters, momenta, rate, momentum)


def _choose_info_nce(q: Tensor, queue: Tensor) -> str:
    """By the dtype of the queue, the largest of the tensors; by that of q where q is float64."""
    dtype = torch.float64 if q.dtype == torch.float64 else queue.dtype
    return _choose("info_nce", q.device.type, dtype)


@constant
def _choose(name: str, device: str, dtype: torch.dtype) -> str:
    """The backend of an operator that autograd, at most, may watch; the reference serves whoever else does."""
    backend, _ = Operator.registry[name].choose(Case(device, dtype))
    return "reference" if _above_autograd() else backend.name
