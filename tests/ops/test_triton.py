"""Operators hand their arguments, in the operator's order, to the right launcher of Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.ops import Case, flat, gather, infonce, triton, trust
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


def test_info_nce_enqueue() -> None:
    q, k, queue = contrast_tensors()
    ours, theirs = queue.clone(), queue.clone()
    places = [torch.tensor(4, device=DEVICE) for _ in range(2)]
    loss, _ = infonce._triton_enqueue(q, k, ours, places[0], 0.1)
    close(loss, contrast.info_nce_enqueue(q, k, theirs, places[1], 0.1))
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


OPERATORS = {"info_nce": infonce._INFO_NCE, "ema_update": flat._EMA, "flat_step": flat._STEP}
OPERATORS |= {"ragged_gather": gather._GATHER}


def supports(operator: str, case: Case) -> tuple[bool, str]:
    return next(backend for backend in OPERATORS[operator].backends if backend.name == "triton").supports(case)


def test_every_kernel_has_a_check_in_each_dtype() -> None:
    floats = ("float32", "bfloat16", "float16")
    modes = {"ema_update": ("float32",), "flat_step": ("float32",), "info_nce": floats, "ragged_gather": floats}
    modes |= {"gru_layer": ("tf32", "fp32", "bf16", "fp16")}
    assert {*trust.CHECKS} == {f"{operator} in {mode}" for operator in modes for mode in modes[operator]}


@pytest.mark.usefixtures("fresh_trust")
@pytest.mark.parametrize("operator", OPERATORS)
def test_it_says_what_it_serves_and_why(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(triton, "_installed", lambda: None)
        why_not = "Triton is not installed: pip install triton"
        assert supports(operator, Case("cuda", torch.float32, 0)) == (False, why_not)
    monkeypatch.setattr(infonce, "CHECKED", ((3, 20, 16), (17, 1000, 16)))
    assert supports(operator, Case("cuda", torch.float32, 0)) == (True, "Triton kernel")
    for case in (Case("cuda", torch.float64), Case("cpu", torch.float32)):
        able, reason = supports(operator, case)
        assert not able
        assert f"on a GPU, not {case.dtype} on {case.device}" in reason


@pytest.mark.usefixtures("fresh_trust")
@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_without_a_gpu_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert supports("flat_step", Case("cuda", torch.float32, 0)) == (False, "there is no GPU that torch can use")


@pytest.mark.usefixtures("fresh_trust")
@pytest.mark.parametrize(
    ("operator", "launcher", "place", "said"),
    [
        ("info_nce", (infonce, "_triton_enqueue"), -2, "the loss with 20 keys is off"),
        ("info_nce", (infonce, "_triton_enqueue"), -1, "dq with 20 keys is off"),
        ("info_nce", (infonce, "_triton_enqueue"), 2, "the queue with 20 keys is off"),
        ("info_nce", (infonce, "_triton_enqueue"), 3, "its pointer with 20 keys is off"),
        ("ema_update", (flat, "_triton_ema"), 0, "keys is off"),
        ("flat_step", (flat, "_triton_step"), 0, "parameters of SGD is off"),
        ("flat_step", (flat, "_triton_step"), 4, "keys of Adam is off"),
        ("ragged_gather", (gather, "_triton"), -3, "x is wrong"),
        ("ragged_gather", (gather, "_triton"), -2, "the velocity is wrong"),
        ("ragged_gather", (gather, "_triton"), -1, "a length is wrong"),
    ],
)
def test_one_wrong_number_switches_a_kernel_off(
    operator: str, launcher: tuple[Any, str], place: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infonce, "CHECKED", ((3, 20, 16),))
    launch = getattr(*launcher)

    def wrong(*arguments: Any) -> Any:
        made = launch(*arguments)
        tensors = [t for t in (*arguments[:5], *(made or ())) if isinstance(t, Tensor)]
        if said != "keys of Adam is off" or len(tensors) == 5:
            tensors[place].view(-1)[-1:] += 1
        return made

    monkeypatch.setattr(*launcher, wrong)
    with pytest.warns(
        RuntimeWarning, match=f"{operator} is off on the emulation, the PyTorch reference is used instead"
    ):
        able, reason = supports(operator, Case("cuda", torch.float32, 0))
    assert not able
    assert said in reason
