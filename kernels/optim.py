"""An optimizer step on flat buffers: clipping, SGD or Adam, then the momentum update (Eq. 5) of the keys.

One launch, or two if gradients are clipped: the first leaves sums of squares of parts of the gradient, and every
program of the second adds them up in the same order. Each element of a buffer is read once and written once; a clipped
gradient is read twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crrl.kernels.checks import require, require_flat
from crrl.kernels.ema import follow

BLOCK = 1024
MAX_PARTS = 512
"""The most sums of squares that the first launch leaves; every program of the second reads them all."""


def flat_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    keys: Tensor | None,
    rates: Tensor,
    nesterov: bool,
    weight_decay: float,
    beta2: float,
    eps: float,
    max_norm: float,
    boundary: int,
    momentum_head: float,
    momentum_tail: float,
) -> None:
    """One step of torch.optim.SGD or Adam, then Eq. 5 for `keys`; in place, all buffers float32 [N] and contiguous.

    Args:
        parameters: written. gradients: only read.
        first: SGD's momentum buffer (zeros before the first step) or Adam's exp_avg; written.
        second: Adam's exp_avg_sq, written; None for SGD.
        keys: written; None for no momentum update.
        rates: float32 [4] on the device, so that a captured graph can be replayed with new values: the learning rate;
            momentum or beta1; 1 − beta1^t and 1 − beta2^t, which Adam alone reads.
        weight_decay: this times the parameters is added to the gradients, in SGD as in Adam.
        max_norm: gradients are scaled as by clip_grad_norm_, by the 2-norm of all N; 0: no clipping.
        boundary, momentum_head, momentum_tail: as in `ema_update`.

    Raises:
        ValueError: a buffer has another shape, dtype or device.
    """
    size = parameters.numel()
    require_flat(size, parameters=parameters, gradients=gradients, first=first, second=second, keys=keys)
    require_flat(4, rates=rates)
    require(rates.device == parameters.device, f"rates: expected on {parameters.device}, got {rates.device}")
    momenta = (boundary, momentum_head, 1 - momentum_head, momentum_tail, 1 - momentum_tail)
    blocks = triton.cdiv(size, BLOCK)
    with torch.cuda.device_of(parameters):  # type: ignore[no-untyped-call]
        squares = _square_sums(gradients, blocks) if max_norm > 0 else None
        _step_kernel[(blocks,)](
            parameters, gradients, first, second, keys, rates, squares, 0 if squares is None else len(squares), size,
            weight_decay, beta2, 1 - beta2, eps, max_norm, *momenta, nesterov, MAX_PARTS, BLOCK,
        )  # fmt: skip


def _square_sums(gradients: Tensor, blocks: int) -> Tensor:
    """float32 [at most MAX_PARTS]: sums of squares of the blocks p, p + P, p + 2P, ... of `gradients`."""
    parts = gradients.new_empty(min(blocks, MAX_PARTS))
    _square_sums_kernel[(len(parts),)](gradients, parts, gradients.numel(), len(parts), BLOCK)
    return parts


@triton.jit
def _square_sums_kernel(gradients, parts, size, count, BLOCK: tl.constexpr):
    part = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(part.to(tl.int64) * BLOCK, size, count * BLOCK):
        index = start + tl.arange(0, BLOCK)
        gradient = tl.load(gradients + index, index < size, 0.0)
        total += gradient * gradient
    tl.store(parts + part, tl.sum(total))


@triton.jit
def _clip_factor(squares, count, max_norm, MAX_PARTS: tl.constexpr):
    part = tl.arange(0, MAX_PARTS)
    norm = tl.sqrt_rn(tl.sum(tl.load(squares + part, part < count, 0.0)))
    factor = max_norm / (norm + 1e-6)
    return tl.where(factor > 1, 1.0, factor)  # not tl.minimum: a NaN norm must stay NaN


@triton.jit
def _step_kernel(
    parameters, gradients, first, second, keys, rates, squares, count, size, weight_decay, beta2, beta2_rest, eps,
    max_norm, boundary, head, head_rest, tail, tail_rest,
    NESTEROV: tl.constexpr, MAX_PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    rate, momentum = tl.load(rates), tl.load(rates + 1)
    parameter, gradient = tl.load(parameters + index, inside), tl.load(gradients + index, inside)
    if squares is not None:
        gradient *= _clip_factor(squares, count, max_norm, MAX_PARTS)
    gradient += weight_decay * parameter
    mean = tl.load(first + index, inside)
    if second is not None:
        mean += (gradient - mean) * (1 - momentum)
        square = beta2 * tl.load(second + index, inside) + beta2_rest * gradient * gradient
        tl.store(second + index, square, inside)
        scale = tl.sqrt_rn(square) / tl.sqrt_rn(tl.load(rates + 3)) + eps
        parameter -= rate / tl.load(rates + 2) * tl.div_rn(mean, scale)
    else:
        mean = momentum * mean + gradient
        parameter -= rate * (gradient + momentum * mean if NESTEROV else mean)
    tl.store(first + index, mean, inside)
    tl.store(parameters + index, parameter, inside)
    if keys is not None:
        key = tl.load(keys + index, inside)
        tl.store(keys + index, follow(key, parameter, index, boundary, head, head_rest, tail, tail_rest), inside)
