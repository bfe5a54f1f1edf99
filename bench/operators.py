"""The calls of operators that both benches time: inputs, losses with their gradient, optimizer steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.cases import Run
from crrl.models import Encoder, MLPHead

TEMPERATURE = 0.07
LR, MOMENTUM, BETA2, EPS, FOLLOW = 1e-3, 0.9, 0.999, 1e-8, 0.999


def ragged_clips(clips: int, channels: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """frames [ΣT, C], offsets [N + 1] and lengths [N] of clips of 10 frames to the longest."""
    lengths = torch.randint(10, longest + 1, (clips,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return torch.randn(int(offsets[-1]), channels), offsets, lengths


def info_nce_inputs(
    device: torch.device, keys: int, dtype: torch.dtype, batch: int, features: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, D] of any length, k [B, D] and the queue [K, D], L2-normalised."""
    q = torch.randn(batch, features, device=device)
    k, queue = (F.normalize(torch.randn(rows, features, device=device)) for rows in (batch, keys))
    return q.to(dtype), k.to(dtype), queue.to(dtype)


def differentiated(loss: Callable[..., Tensor], q: Tensor, k: Tensor, queue: Tensor) -> Run:
    """A call of `loss`, and its gradient by q."""
    leaf = q.detach().requires_grad_()

    def run() -> list[Tensor]:
        value = loss(leaf, k, queue, TEMPERATURE)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    return run


@dataclass
class Stepped:
    """An optimizer on tensors of its own, that can be taken back to its start.

    Attributes:
        step: changes parameters and keys. moments: the state that is zero at the start, as far as there is any yet.
    """

    step: Callable[[], None]
    parameters: list[Tensor]
    keys: list[Tensor]
    moments: Callable[[], list[Tensor]]

    def __post_init__(self) -> None:
        self.start = [tensor.detach().clone() for tensor in (*self.parameters, *self.keys)]

    def run(self) -> list[Tensor]:
        self.step()
        return []

    @torch.no_grad()
    def results(self, run: Callable[[], object]) -> list[Tensor]:
        """Parameters and keys, end to end, after one run from the start."""
        for tensor, value in zip((*self.parameters, *self.keys), self.start, strict=True):
            tensor.copy_(value)
        for moment in self.moments():
            moment.zero_()
        run()
        return [torch.cat([t.detach().flatten() for t in tensors]) for tensors in (self.parameters, self.keys)]


def flat(step: Callable[..., None], adam: bool, tensors: list[list[Tensor]]) -> Stepped:
    """A step of `step`, which has flat_step's arguments, on copies of parameters, gradients and keys."""
    parameters, gradients, keys = (torch.cat([t.flatten() for t in group]) for group in tensors)
    moments = [torch.zeros_like(parameters) for _ in range(2 if adam else 1)]
    rates = torch.tensor([LR, MOMENTUM, 1 - MOMENTUM, 1 - BETA2]).to(parameters)
    settings: dict[str, Any] = {"beta2": BETA2, "eps": EPS, "momentum_head": FOLLOW, "momentum_tail": FOLLOW}

    def run() -> None:
        step(parameters, gradients, moments[0], moments[1] if adam else None, keys, rates, **settings)

    return Stepped(run, [parameters], [keys], lambda: moments)


def by_torch(way: str, adam: bool, tensors: list[list[Tensor]], capturable: bool = False) -> Stepped:
    """torch.optim, "fused" or "foreach", on copies; then the keys follow by the fastest of its lists of tensors."""
    parameters, gradients, keys = ([t.clone() for t in group] for group in tensors)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_().grad = gradient
    optimizer: torch.optim.Optimizer
    if adam:
        extra = {"capturable": True} if capturable else {}
        optimizer = torch.optim.Adam(parameters, LR, (MOMENTUM, BETA2), EPS, **{way: True}, **extra)
    else:
        optimizer = torch.optim.SGD(parameters, LR, MOMENTUM, **{way: True})

    @torch.no_grad()
    def run() -> None:
        optimizer.step()
        torch._foreach_lerp_(keys, parameters, 1 - FOLLOW)

    def moments() -> list[Tensor]:
        values = [value for state in optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    return Stepped(run, parameters, keys, moments)


def optimizer_tensors(device: torch.device, channels: int, hidden: int) -> list[list[Tensor]]:
    """Parameters of an encoder and its MLP, gradients and keys of their shapes."""
    modules = [Encoder(channels, hidden), MLPHead(2 * hidden)]
    parameters = [p.detach().to(device) for module in modules for p in module.parameters()]
    return [parameters, *([torch.randn_like(p) for p in parameters] for _ in range(2))]
