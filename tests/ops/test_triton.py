"""Operators hand their arguments, in the operator's order, to the right launcher of Triton."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.ops import Case, flat, gather, infonce, triton
from crrl.reference import contrast, motion, optim

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # on a CPU in Triton's interpreter


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def contrast_tensors() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 20, device=DEVICE), *(F.normalize(torch.randn(n, 20, device=DEVICE)) for n in (3, 6))]


def test_info_nce() -> None:
    q, k, queue = contrast_tensors()
    leaf = q.clone().requires_grad_()
    want = contrast.info_nce(leaf, k, queue, 0.1)
    loss, dq = infonce._triton(q, k, queue, 0.1)
    close(loss, want.detach())
    close(dq, torch.autograd.grad(want, leaf)[0])


@pytest.mark.parametrize("entering", [False, True])
def test_info_nce_enqueue(entering: bool) -> None:
    q, k, queue = contrast_tensors()
    keys = F.normalize(q) if entering else None
    ours, theirs = queue.clone(), queue.clone()
    places = [torch.tensor(4, device=DEVICE) for _ in range(2)]
    loss, _ = infonce._triton_enqueue(q, k, ours, places[0], keys, 0.1)
    close(loss, contrast.info_nce_enqueue(q, k, theirs, places[1], 0.1, keys))
    assert torch.equal(ours, theirs)
    assert torch.equal(*places)


def test_ema_update() -> None:
    keys, queries = torch.randn(2, 50, device=DEVICE)
    want = keys.clone()
    contrast.ema_update(want, queries, 20, 0.9, 0.5)
    flat._triton_ema(keys, queries, 20, 0.9, 0.5)
    close(keys, want)


def test_flat_step() -> None:
    torch.manual_seed(0)
    ours = [torch.rand(50, device=DEVICE) for _ in range(5)]
    theirs = [tensor.clone() for tensor in ours]
    rates = torch.tensor([0.1, 0.9, 0.4, 0.3], device=DEVICE)
    settings = {"nesterov": False, "weight_decay": 0.02, "beta2": 0.99, "eps": 1e-6, "max_norm": 0.5}
    settings |= {"boundary": 20, "momentum_head": 0.9, "momentum_tail": 0.5}
    optim.flat_step(*theirs, rates, **settings)  # type: ignore[arg-type]
    flat._triton_step(*ours, rates, *settings.values())
    for got, want in zip(ours, theirs, strict=True):
        close(got, want)


def test_ragged_gather() -> None:
    frames, offsets = torch.randn(9, 4, device=DEVICE), torch.tensor([0, 3, 9], device=DEVICE)
    index = torch.tensor([1, 0], device=DEVICE)
    for got, want in zip(
        gather._triton(frames, offsets, index, 7, True),
        motion.ragged_gather(frames, offsets, index, 7, True),
        strict=True,
    ):
        assert got is not None
        assert want is not None
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("device", "dtype", "able", "flat"),
    [
        ("cuda", torch.float32, True, True),
        ("cuda", torch.bfloat16, True, False),
        ("cuda", torch.float64, False, False),
        ("cpu", torch.float32, False, False),
    ],
)
def test_it_says_what_it_serves_and_why(device: str, dtype: torch.dtype, able: bool, flat: bool) -> None:
    assert triton.supports(Case(device, dtype))[0] is able
    assert triton.supports_flat(Case(device, dtype))[0] is flat
    assert triton.supports(Case(device, dtype))[1]
