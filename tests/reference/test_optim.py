"""The flat step against torch.optim and torch.nn.utils.clip_grad_norm_, over several steps in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crrl.reference.contrast import ema_update
from crrl.reference.optim import flat_step

SIZE, STEPS, BETA2 = 37, 5, 0.99


def random(seed: int) -> Tensor:
    return torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def steps_of_torch(optimizer: torch.optim.Optimizer, parameter: Tensor, max_norm: float) -> list[Tensor]:
    """The parameter after each step; every second gradient is long."""
    after = []
    for step in range(STEPS):
        parameter.grad = random(step + 1) * (1 + step % 2 * 9)
        if max_norm:
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        optimizer.step()
        after.append(parameter.detach().clone())
    return after


def flat_steps(adam: bool, momentum: float, **settings: float) -> list[Tensor]:
    parameters, first = random(0), torch.zeros(SIZE, dtype=torch.float64)
    second = torch.zeros_like(first) if adam else None
    after = []
    for step in range(STEPS):
        rates = torch.tensor([0.1, momentum, 1 - momentum ** (step + 1), 1 - BETA2 ** (step + 1)], dtype=torch.float64)
        gradients = random(step + 1) * (1 + step % 2 * 9)
        before = gradients.clone()
        flat_step(parameters, gradients, first, second, None, rates, beta2=BETA2, **settings)  # type: ignore[arg-type]
        assert torch.equal(gradients, before)
        after.append(parameters.clone())
    return after


@pytest.mark.parametrize("max_norm", [0.0, 10.0])  # of a long gradient about a sixth; a short one passes
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_without_second_it_is_sgd(momentum: float, nesterov: bool, weight_decay: float, max_norm: float) -> None:
    parameter = random(0).requires_grad_()
    sgd = torch.optim.SGD([parameter], 0.1, momentum, weight_decay=weight_decay, nesterov=nesterov)
    want = steps_of_torch(sgd, parameter, max_norm)
    got = flat_steps(False, momentum, nesterov=nesterov, weight_decay=weight_decay, max_norm=max_norm)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("max_norm", [0.0, 10.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_with_second_it_is_adam(eps: float, weight_decay: float, max_norm: float) -> None:
    parameter = random(0).requires_grad_()
    adam = torch.optim.Adam([parameter], 0.1, (0.9, BETA2), eps, weight_decay)
    want = steps_of_torch(adam, parameter, max_norm)
    got = flat_steps(True, 0.9, eps=eps, weight_decay=weight_decay, max_norm=max_norm)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("boundary", [0, 11, SIZE])
def test_the_keys_follow_the_new_parameters(adam: bool, boundary: int) -> None:
    parameters, gradients, first, keys = (random(seed) for seed in range(4))
    want = keys.clone()
    rates = torch.tensor([0.1, 0.9, 0.1, 0.01], dtype=torch.float64)
    settings = {"boundary": boundary, "momentum_head": 0.75, "momentum_tail": 0.5}
    flat_step(parameters, gradients, first, first.abs() if adam else None, keys, rates, **settings)  # type: ignore[arg-type]
    ema_update(want, parameters, boundary, 0.75, 0.5)
    assert torch.equal(keys, want)


def test_at_momentum_1_no_bit_of_the_keys_changes() -> None:
    parameters, gradients, first, keys = (random(seed) for seed in range(4))
    before = keys.clone()
    rates = torch.tensor([0.1, 0.9, 1.0, 1.0], dtype=torch.float64)
    flat_step(parameters, gradients, first, None, keys, rates, boundary=5, momentum_head=0.5, momentum_tail=1.0)
    assert torch.equal(keys[5:], before[5:])
    assert not torch.equal(keys[:5], before[:5])
