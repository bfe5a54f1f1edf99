"""The optimizer step on flat buffers against torch.optim, clip_grad_norm_ and the reference's momentum update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crrl.reference import contrast

pytest.importorskip("triton", reason="Triton is not installed")

from crrl.kernels import optim
from crrl.kernels.optim import flat_step

pytestmark = pytest.mark.usefixtures("_poisoned")

STEPS, BOUNDARY, BETA2, EPS = 3, 70, 0.99, 1e-8
MOMENTUM = 0.9


def data(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters [N], keys [N] and the gradients of every step [STEPS, N]."""
    generator = torch.Generator().manual_seed(size)
    parameters, keys, *gradients = torch.randn(2 + STEPS, size, generator=generator).to(device)
    return parameters, keys, torch.stack(gradients)


def ours(
    kind: str, size: int, device: torch.device, weight_decay: float, max_norm: float, follow: bool
) -> list[Tensor]:
    parameters, keys, gradients = data(size, device)
    first, second = torch.zeros_like(parameters), torch.zeros_like(parameters) if kind == "adam" else None
    before = gradients.clone()
    for t, gradient in enumerate(gradients, 1):
        rates = torch.tensor([0.1 / t, MOMENTUM, 1 - MOMENTUM**t, 1 - BETA2**t], device=device)
        flat_step(
            parameters, gradient, first, second, keys if follow else None, rates, nesterov=kind == "nesterov",
            weight_decay=weight_decay, beta2=BETA2, eps=EPS, max_norm=max_norm, boundary=BOUNDARY,
            momentum_head=0.99, momentum_tail=0.9,
        )  # fmt: skip
    assert torch.equal(gradients, before)
    return [parameters, keys, first] + ([] if second is None else [second])


def theirs(
    kind: str, size: int, weight_decay: float, max_norm: float, follow: bool, dtype: torch.dtype
) -> list[Tensor]:
    parameters, keys, gradients = (tensor.to(dtype) for tensor in data(size, torch.device("cpu")))
    parameter = torch.nn.Parameter(parameters)
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": weight_decay}
    if kind == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam([parameter], betas=(MOMENTUM, BETA2), eps=EPS, **settings)
    else:
        optimizer = torch.optim.SGD([parameter], momentum=MOMENTUM, nesterov=kind == "nesterov", **settings)
    for t, gradient in enumerate(gradients, 1):
        parameter.grad = gradient.clone()
        if max_norm > 0:
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        optimizer.param_groups[0]["lr"] = 0.1 / t
        optimizer.step()
        if follow:
            contrast.ema_update(keys, parameter.detach(), BOUNDARY, 0.99, 0.9)
    state = optimizer.state[parameter]
    names = ["exp_avg", "exp_avg_sq"] if kind == "adam" else ["momentum_buffer"]
    return [parameter.detach(), keys, *(state[name] for name in names)]


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("size", [1, 63, 2500])
@pytest.mark.parametrize(
    ("weight_decay", "max_norm", "follow"), [(0.0, 0.0, True), (0.01, 0.5, True), (0.01, 1e4, False)]
)
def test_is_that_of_torch(
    device: torch.device, kind: str, size: int, weight_decay: float, max_norm: float, follow: bool
) -> None:
    got = ours(kind, size, device, weight_decay, max_norm, follow)
    truth = theirs(kind, size, weight_decay, max_norm, follow, torch.float64)
    single = theirs(kind, size, weight_decay, max_norm, follow, torch.float32)
    for mine, true, own in zip(got, truth, single, strict=True):
        # Twice torch's own error in float32, whose roundings these share but for their order, and two roundings.
        error = (mine.cpu().double() - true).norm()
        assert error <= 2 * (own.double() - true).norm() + 2**-22 * true.norm()


def test_more_blocks_than_partial_sums(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "MAX_PARTS", 4)
    got, want = ours("sgd", 9000, device, 0.0, 0.5, True), theirs("sgd", 9000, 0.0, 0.5, True, torch.float64)
    for mine, true in zip(got, want, strict=True):
        torch.testing.assert_close(mine.cpu().double(), true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_two_runs_are_equal_to_the_bit(device: torch.device, kind: str) -> None:
    for one, other in zip(*(ours(kind, 2500, device, 0.01, 0.5, True) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_a_norm_that_is_no_number_spoils_the_step(device: torch.device) -> None:
    parameters = torch.ones(5, device=device)
    gradients = torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0], device=device)
    flat_step(
        parameters, gradients, torch.zeros_like(parameters), None, None, torch.ones(4, device=device), nesterov=False,
        weight_decay=0.0, beta2=0.0, eps=0.0, max_norm=1.0, boundary=0, momentum_head=0.0, momentum_tail=0.0,
    )  # fmt: skip
    assert parameters.isnan().all()  # as after clip_grad_norm_


def test_wrong_buffers_are_refused(device: torch.device) -> None:
    good = torch.zeros(6, device=device)
    settings: dict[str, Any] = {"nesterov": False, "weight_decay": 0.0, "beta2": 0.9, "eps": 0.0, "max_norm": 0.0}
    settings |= {"boundary": 0, "momentum_head": 0.0, "momentum_tail": 0.0}
    rates = torch.ones(4, device=device)
    with pytest.raises(ValueError, match="second: expected contiguous float32"):
        flat_step(good, good, good, good[:5], None, rates, **settings)
    with pytest.raises(ValueError, match="keys: expected contiguous float32"):
        flat_step(good, good, good, None, good.half(), rates, **settings)
    with pytest.raises(ValueError, match="rates: expected contiguous float32"):
        flat_step(good, good, good, None, None, rates[:2], **settings)
