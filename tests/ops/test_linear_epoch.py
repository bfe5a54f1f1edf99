"""The C++ epoch of the linear protocol against the PyTorch loop, on every instruction set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.errors import CrrlError
from crrl.reference import linear

pytest.importorskip("crrl._cpu", reason="crrl._cpu is not built")


def problem(clips: int, features: int, classes: int) -> dict[str, Any]:
    """Arguments of linear_epoch before the first step; features that tell something about the labels."""
    generator = torch.Generator().manual_seed(clips)
    labels = torch.randint(0, classes, (clips,), generator=generator)
    means = torch.randn(classes, features, generator=generator)
    return {
        "features": means[labels] + torch.randn(clips, features, generator=generator),
        "labels": labels,
        "order": torch.randperm(clips, generator=generator),
        "batch_size": 16,
        "parameters": (0.01 * torch.randn(classes, features, generator=generator), torch.zeros(classes)),
        "momenta": (torch.zeros(classes, features), torch.zeros(classes)),
        "rate": 0.05,
        "momentum": 0.9,
    }


def run(arguments: dict[str, Any], backend: str, epochs: int = 1) -> list[Tensor]:
    """Parameters and momenta after some epochs; in float64 by the reference."""
    kept = dict(arguments)
    for name in ("parameters", "momenta"):
        kept[name] = tuple(tensor.double() if backend == "truth" else tensor.clone() for tensor in arguments[name])
    if backend == "truth":
        kept["features"] = arguments["features"].double()
    with ops.use_backends("reference" if backend == "truth" else f"linear_epoch={backend}"):
        for epoch in range(epochs):
            ops.linear_epoch(**{**kept, "order": arguments["order"].roll(epoch)})
    return [*kept["parameters"], *kept["momenta"]]


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize(
    ("clips", "features", "classes", "batch"),
    [
        (37, 9, 3, 16),
        (50, 512, 60, 16),
        (33, 31, 33, 7),
        (19, 64, 1, 4),
        (5, 1, 2, 16),
        (40, 17, 65, 1),
        (45, 8, 10, 40),
    ],
)
def test_epochs_of_every_size_are_the_references(clips: int, features: int, classes: int, batch: int) -> None:
    arguments = {**problem(clips, features, classes), "batch_size": batch, "rate": 0.05 / features**0.5}
    for mine, true in zip(run(arguments, "cpu", 2), run(arguments, "truth", 2), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-5)


def test_a_whole_training_ends_where_the_loop_ends() -> None:
    arguments = problem(400, 48, 7)
    mine, torchs, true = (run(arguments, backend, 85) for backend in ("cpu", "reference", "truth"))
    for ours, theirs, exact in zip(mine, torchs, true, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        error, other = (float((tensor - exact).norm() / exact.norm()) for tensor in (ours, theirs))
        assert error < max(3 * other, 1e-5)


@pytest.mark.usefixtures("float_isa")
def test_large_logits_overflow_nothing() -> None:
    arguments = problem(20, 5, 4)
    arguments["features"] = 1e4 * arguments["features"]
    for mine, true in zip(run(arguments, "cpu"), run(arguments, "truth"), strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine.double(), true, rtol=1e-3, atol=1e-2)


def test_no_clip_changes_nothing() -> None:
    arguments = {**problem(5, 3, 2), "order": torch.zeros(0, dtype=torch.int64)}
    for after, before in zip(run(arguments, "cpu"), [*arguments["parameters"], *arguments["momenta"]], strict=True):
        assert torch.equal(after, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.tensor([0, 9])}, "place 1: 9 is not one of the 9 clips"),
        ({"order": torch.tensor([-1])}, "place 0: -1 is not one of the 9 clips"),
        ({"labels": torch.full((9,), 4)}, "label 4 is not one of the 4 classes"),
        ({"labels": torch.zeros(9)}, r"labels must be contiguous int64 \[9\] on the CPU, not torch.float32"),
        ({"labels": torch.zeros(8, dtype=torch.int64)}, r"labels must be .* \[9\]"),
        ({"batch_size": 0}, "at least one feature, class and clip a step"),
        ({"features": torch.zeros(5, 9).t()}, "features must be .* not contiguous"),
        ({"momenta": (torch.zeros(4, 4), torch.zeros(4))}, r"weight_momentum must be .* \[4, 5\]"),
        ({"parameters": (torch.zeros(4, 5).double(), torch.zeros(4))}, "weight must be .* not torch.float64"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(change: dict[str, Any], message: str) -> None:
    arguments = {**problem(9, 5, 4), **change}
    before = [tensor.clone() for tensor in arguments["parameters"]]
    with ops.use_backends("linear_epoch=cpu"), pytest.raises(ValueError, match=message):
        ops.linear_epoch(**arguments)
    assert all(torch.equal(mine, kept) for mine, kept in zip(arguments["parameters"], before, strict=True))


def test_in_float64_the_reference_serves_and_the_kernel_says_why_not() -> None:
    rows = {name: (backend, why) for name, backend, why in ops.choices(ops.Case("cpu", torch.float64))}
    assert rows["linear_epoch"][0] == "reference"
    with ops.use_backends("linear_epoch=cpu"), pytest.raises(CrrlError, match="float64"):
        ops.linear_epoch(**{**problem(9, 5, 4), "features": torch.zeros(9, 5, dtype=torch.float64)})


def test_the_reference_is_the_module_of_that_name() -> None:
    arguments = problem(9, 5, 4)
    kept = [tensor.clone() for tensor in arguments["parameters"]]
    other = {**arguments, "parameters": tuple(kept), "momenta": tuple(m.clone() for m in arguments["momenta"])}
    linear.linear_epoch(**other)
    assert torch.equal(run(arguments, "reference")[0], kept[0])
