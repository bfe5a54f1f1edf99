"""Whatever kernel, compiler or capture fails when it is first used, training goes on without it and says so once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.data import Clips, ClipTensors
from crrl.errors import CrrlError
from crrl.models import Encoder
from crrl.models.reconstruction import Decoder, SequenceReconstructor
from crrl.ops import Case, flat, gather, infonce
from crrl.ops.gru import operators
from crrl.optim import FlatAdam
from crrl.training.ranks import Ranks, Share
from crrl.training.step import WARM_UP, Step

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")
pytest.importorskip("triton", reason="Triton is not installed")

from crrl import train
from crrl.kernels import ema, motion, optim
from crrl.kernels import infonce as infonce_kernels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CPU stands in for the GPU")

KERNELS = ("info_nce", "flat_step", "ragged_gather", "gru_layer")
"""The operators of a training step; `ema_update` is within flat_step."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> list[str]:
    """Have tensors on the CPU served as those of a GPU are: Triton's by its interpreter. The list of who has served."""
    names: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            names.append(name)
            return function(*arguments, *settings.values())

        return call

    for module in (flat, gather, infonce):
        monkeypatch.setattr(module, "case_of", lambda tensor: Case("cuda", tensor.dtype, 0))
    monkeypatch.setattr(operators, "_case", lambda x, hidden: Case("cuda", x.dtype, 0, hidden))
    monkeypatch.setattr(infonce, "CHECKED", ((3, 20, 16),))
    monkeypatch.setattr(infonce, "info_nce_enqueue_op", noted("info_nce", infonce._triton_enqueue))
    monkeypatch.setitem(flat._STEP._runs, "triton", noted("flat_step", flat._triton_step))
    monkeypatch.setitem(gather._GATHER._runs, "triton", noted("ragged_gather", gather._triton))
    layer = operators._LAYER._runs["cuda"]  # on a CPU's tensors the C++ kernels compute it
    monkeypatch.setitem(operators._LAYER._runs, "cuda", noted("gru_layer", layer))
    monkeypatch.setattr(operators.layer, "fit_one_launch", lambda *_: False)  # there is none on a CPU
    monkeypatch.delenv("CRRL_BACKEND", raising=False)
    return names


def fail(operator: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    """What Triton raises where there is no C compiler, at its first launch; numbers of the CUDA GRU are wrong."""

    def launch(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    if operator == "gru_layer":
        fake_cuda.wrong = 1.0
        return
    module, name = {
        "info_nce": (infonce_kernels, "info_nce"),
        "flat_step": (optim, "flat_step"),
        "ema_update": (ema, "ema_update"),
        "ragged_gather": (motion, "ragged_gather"),
    }[operator]
    monkeypatch.setattr(module, name, launch)


def trained(options: list[str], run: Path) -> list[float]:
    """The losses of a run of `crrl.train --fused`."""
    fused = ["--fused" if option == "--no-fused" else option for option in options]
    assert train.main([*fused, "--out", str(run)]) == 0
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("failing", [(), *((name,) for name in KERNELS), KERNELS], ids=lambda names: "+".join(names))
def test_training_goes_on_without_a_kernel_that_fails_and_says_so_once(
    failing: tuple[str, ...], options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[str],
    fake_cuda: Any,
) -> None:  # fmt: skip
    for name in failing:
        fail(name, monkeypatch, fake_cuda)
    short = [*options, "--epochs-cml", "1", "--method", "cml", "--dropout", "0"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = trained(short, tmp_path / "run")
    said = [str(warning.message) for warning in caught if "is used instead" in str(warning.message)]
    assert len(said) == len(failing)
    assert {*served} == {*KERNELS} - {*failing}
    assert all(np.isfinite(losses))
    with monkeypatch.context() as patch:
        patch.setenv("CRRL_BACKEND", "reference")
        assert losses == pytest.approx(trained(short, tmp_path / "reference"), rel=1e-3)


def test_a_kernel_that_the_step_does_not_use_fails_alone(
    monkeypatch: pytest.MonkeyPatch, served: list[str], fake_cuda: Any
) -> None:
    fail("ema_update", monkeypatch, fake_cuda)
    keys, queries = torch.rand(2, 50)
    want = 0.9 * keys + 0.1 * queries
    with pytest.warns(RuntimeWarning, match=r"Triton kernel of ema_update is off .* PyTorch reference is used instead"):
        ops.ema_update(keys, queries, 50, 0.9, 0.9)
    torch.testing.assert_close(keys, want)


def reconstructor() -> tuple[SequenceReconstructor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = SequenceReconstructor(Encoder(9, 6), Decoder(12, 9, 5))
    x, lengths = torch.randn(4, 7, 9), torch.tensor([7, 3, 5, 1])
    return model, x, torch.randn(4, 7, 12, requires_grad=True), lengths


@pytest.mark.parametrize("when", ["compiling", "forward", "backward"])
def test_a_decoder_that_cannot_be_compiled_runs_eagerly_and_says_so_once(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crrl.models import reconstruction

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            return loss.view_as(loss)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("gcc: not found")

    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            if when == "forward":
                raise RuntimeError("gcc: not found")
            return Fails.apply(function(*arguments))  # type: ignore[no-any-return, no-untyped-call]

        if when == "compiling":
            raise RuntimeError("gcc: not found")
        return call

    monkeypatch.setattr(reconstruction, "_compiled", compiled)
    model, x, h, lengths = reconstructor()
    state = torch.get_rng_state()
    want = model.loss_r(x, h, lengths)
    gradient = torch.autograd.grad(want, h)[0]
    model.compiled = True
    torch.set_rng_state(state)  # the same dropout, though one more pass was tried
    with pytest.warns(RuntimeWarning, match="the decoder cannot be compiled, it runs eagerly: RuntimeError: gcc: not"):
        loss = model.loss_r(x, h, lengths)
    assert torch.equal(loss, want)
    assert torch.equal(torch.autograd.grad(loss, h)[0], gradient)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.loss_r(x, h, lengths)


def test_a_kernel_that_waited_in_vain_is_not_taken_for_a_failing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from crrl.models import reconstruction

    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        raise CrrlError("the CUDA GRU stopped")

    monkeypatch.setattr(reconstruction, "_compiled", compiled)
    model, x, h, lengths = reconstructor()
    model.compiled = True
    with pytest.raises(CrrlError, match="stopped"):
        model.loss_r(x, h, lengths)


class Clock:
    """A phase whose loss is the sum of a parameter, and that counts how often it is computed."""

    losses, with_velocity, follow = ("loss",), False, ()

    def __init__(self) -> None:
        self.parameter, self.computed = torch.nn.Parameter(torch.ones(3)), 0

    def loss(self, batch: Any, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        self.computed += 1
        return self.parameter.sum(), {}

    def after_step(self) -> None: ...


class Streams:
    """What a step asks of torch.cuda, on a CPU: streams that are counted, a capture that fails after its body."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.made, self.current, self.random = 0, "the default", torch.Generator()

        def new() -> Any:
            self.made += 1
            return SimpleNamespace(wait_stream=lambda other: None)

        @contextmanager
        def on(stream: Any) -> Iterator[None]:
            before, self.current = self.current, stream
            try:
                yield
            finally:
                self.current = before

        class Graph:
            def __init__(graph, _: Any, **__: Any):
                pass

            def __enter__(graph) -> None:
                self.current = "the capture's"

            def __exit__(graph, *_: Any) -> None:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        monkeypatch.setattr(torch.cuda, "Stream", new)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "graph", Graph)
        state = SimpleNamespace(graphsafe_get_state=lambda: "before")
        self.restored: list[str] = []
        generator = SimpleNamespace(clone_state=lambda: state, graphsafe_set_state=self.restored.append)
        monkeypatch.setattr(torch.cuda, "default_generators", [generator])


def counted() -> tuple[Step, Clock]:
    phase = Clock()
    arrays = [np.ones((2, 1, 3), np.float32)] * 8
    clips = Clips.from_arrays(arrays, labels=[0] * 8, names=[str(i) for i in range(8)], class_names=["any"])
    optimizer = FlatAdam([phase.parameter], spare=1)
    rates = torch.tensor([optimizer.rates(1e-2, 0.9, step) for step in range(1, 9)])
    step = Step(phase, optimizer, ClipTensors(clips, torch.device("cpu")), rates, Ranks(), capture=True)  # type: ignore[arg-type]
    step.begin_epoch(torch.arange(8), 0)
    return step, phase


def test_the_steps_before_a_capture_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    step, _ = counted()
    for _ in range(WARM_UP):
        step(Ranks().share(1), full=True)
    assert streams.made == 1


def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    step, phase = counted()
    for _ in range(WARM_UP):
        step(Ranks().share(1), full=True)
    with pytest.warns(RuntimeWarning, match="the step cannot be captured as a CUDA graph, it runs eagerly: RuntimeErr"):
        step(Ranks().share(1), full=True)
    assert streams.current == "the default"
    assert streams.restored == ["before"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(Ranks().share(1), full=True)
    assert phase.computed == WARM_UP + 3  # the capture's among them, of which nothing runs on a GPU


def test_a_lost_rank_or_kernel_is_no_failure_of_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    Streams(monkeypatch)
    step, phase = counted()
    for _ in range(WARM_UP):
        step(Ranks().share(1), full=True)

    class Inert:
        def __init__(self, *_: Any, **__: Any): ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None: ...

    def lost(batch: Any, share: Share) -> Any:
        raise CrrlError("the CUDA GRU stopped")

    monkeypatch.setattr(torch.cuda, "graph", Inert)
    monkeypatch.setattr(phase, "loss", lost)
    with pytest.raises(CrrlError, match="stopped"):
        step(Ranks().share(1), full=True)
