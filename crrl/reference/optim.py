"""One optimizer step on flat buffers: clipping, torch.optim's SGD or Adam, then the momentum update (Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from crrl.reference.contrast import ema_update


@torch.no_grad()
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
    """Update `parameters`, `first`, `second` and `keys` in place; one dtype for all of them.

    Args:
        parameters, gradients: [N]; the gradients are left as they are.
        first: [N], SGD's momentum buffer or Adam's first moment, zeros before the first step.
        second: [N], Adam's second moment, zeros before the first step; None: SGD, without dampening.
        keys: [N], follows the new parameters by Eq. 5 (see `ema_update`); None: there are none.
        rates: [4], the learning rate, momentum (or Adam's β₁) and, read by Adam alone, 1 − β₁ᵗ and 1 − β₂ᵗ of step t.
        nesterov: SGD uses Nesterov momentum.
        weight_decay: this times the parameters is added to the gradient. beta2, eps: of Adam.
        max_norm: the gradient is scaled down to this 2-norm if it is longer; 0: no clipping.
        boundary, momentum_head, momentum_tail: of `ema_update`.
    """
    gradient = gradients
    if max_norm > 0:
        gradient = gradients * (max_norm / (gradients.norm() + 1e-6)).clamp(max=1)
    if weight_decay != 0:
        gradient = gradient.add(parameters, alpha=weight_decay)
    rate, momentum, correction1, correction2 = rates.to(parameters.dtype)
    if second is None:
        first.mul_(momentum).add_(gradient)
        parameters.sub_(rate * (gradient + momentum * first if nesterov else first))
    else:
        first.mul_(momentum).add_((1 - momentum) * gradient)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = second.sqrt() / correction2.sqrt() + eps
        parameters.sub_(rate / correction1 * first / denominator)
    if keys is not None:
        ema_update(keys, parameters, boundary, momentum_head, momentum_tail)
