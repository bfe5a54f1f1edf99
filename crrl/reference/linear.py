"""An epoch of the linear protocol (Section IV-C): softmax regression by SGD with Nesterov momentum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """Update `parameters` and `momenta` in place, one step for every `batch_size` clips; the last step takes the rest.

    Args:
        features: [N, D]. labels: int64 [N], each in 0..C - 1. order: int64 [M], the clips in the order of training.
        parameters: weight [C, D] and bias [C]. momenta: the buffers of torch.optim.SGD, zeros before the first epoch.
        rate: the learning rate. momentum: Nesterov momentum.
    """
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]  # the same memory
    for index in torch.split(order, batch_size):
        loss = F.cross_entropy(F.linear(features[index], *leaves), labels[index])
        for parameter, buffer, gradient in zip(leaves, momenta, torch.autograd.grad(loss, leaves), strict=True):
            buffer.mul_(momentum).add_(gradient)
            parameter.data.add_(gradient.add(buffer, alpha=momentum), alpha=-rate)
