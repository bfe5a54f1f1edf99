"""The training step on a CUDA device: captured and eager runs are the same run, and a step waits for nothing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.config import Config, ContrastConfig, EncoderConfig, Preprocessing, ReconstructionConfig
from crrl.data import Clips, ClipTensors, prepare
from crrl.data.batches import epoch_order
from crrl.errors import Interrupted
from crrl.methods import METHODS, PhaseSpec
from crrl.models import Encoder
from crrl.optim import FlatAdam
from crrl.runs import RunFolder
from crrl.training import trainer
from crrl.training.phases import Phase, Teacher, build_module
from crrl.training.ranks import Ranks
from crrl.training.step import Step
from crrl.training.trainer import Trainer
from crrl.training.turns import Turns, take_turns
from tests.training.runs import stop_after

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda")
CLIPS, BATCH, HIDDEN, CHANNELS = 64, 16, 16, 15
SAME = 5e-4
"""Losses of two runs of the same kernels: cuDNN may add up in another order, and Adam lets that grow a little."""


def clip_tensors() -> ClipTensors:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 20, (CLIPS,), generator=generator).tolist()
    clips = [torch.randn(length, CHANNELS // 3, 3, generator=generator).numpy() for length in lengths]
    made = Clips.from_arrays(clips, labels=[0] * CLIPS, names=[str(i) for i in range(CLIPS)], class_names=["any"])
    return ClipTensors(made, DEVICE)


def start(tensors: ClipTensors, spec: PhaseSpec, dropout: float, turned: bool) -> Phase:
    config = Config(
        encoder=EncoderConfig(HIDDEN, dropout),
        cml=ContrastConfig(queue_size=24, momentum_encoder=0.9),
        ser=ReconstructionConfig(decoder_hidden=HIDDEN, distill_weight=2.0),
    )
    previous, train = Encoder(CHANNELS, HIDDEN, dropout).to(DEVICE), torch.arange(CLIPS).numpy()
    teacher = Teacher(previous, tensors, train, takes=2 * turned, yaw=45.0) if spec.teacher else None
    module = build_module(spec, config, CHANNELS, previous).to(DEVICE)
    return Phase(spec, module, Ranks(), teacher, 45.0 if turned else 0.0, takes=turned)


SPECS = sorted({spec for phases in METHODS.values() for spec in phases}, key=str)
every_phase = pytest.mark.parametrize("spec", SPECS, ids=str)


def stepped(spec: PhaseSpec, dropout: float, capture: bool, turned: bool = False) -> Step:
    """A step at its start, the same one each time."""
    torch.manual_seed(0)
    tensors = clip_tensors()
    phase = start(tensors, spec, dropout, turned)
    phase.module.train()
    parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
    optimizer = FlatAdam(parameters, lr=1e-3, max_norm=1.0, follow=phase.follow, spare=len(phase.losses))
    rates = torch.tensor([optimizer.rates(1e-3, 0.9, number) for number in range(1, 21)])
    return Step(phase, optimizer, tensors, rates.to(DEVICE), Ranks(), capture)


def losses(step: Step, epochs: int, seed: int = 1) -> Tensor:
    """Of every step of so many epochs of 4 full batches."""
    torch.manual_seed(seed)
    found = []
    for epoch in range(epochs):
        step.begin_epoch(epoch_order(torch.arange(CLIPS, device=DEVICE), 0, epoch), 0)
        for _ in range(CLIPS // BATCH):
            step(Ranks().share(BATCH), full=True)
            found.append(step.loss.clone())
    return torch.stack(found)


@every_phase
@pytest.mark.parametrize(("dropout", "turned"), [(0.0, False), (0.5, False), (0.0, True)])
def test_captured_and_eager_runs_have_the_same_losses(spec: PhaseSpec, dropout: float, turned: bool) -> None:
    eager, captured = (stepped(spec, dropout, capture, turned) for capture in (False, True))
    want, got = losses(eager, 3), losses(captured, 3)
    torch.testing.assert_close(got, want, rtol=SAME, atol=0)
    torch.testing.assert_close(captured.sums, eager.sums, rtol=SAME, atol=0)
    weights, others = eager.optimizer.flat, captured.optimizer.flat
    assert (others - weights).norm() <= 1e-2 * weights.norm()  # Adam lets a gradient that is all rounding move a weight
    assert int(captured.number) == int(eager.number) == 12
    assert captured._graph is not None  # it has not stepped aside
    if dropout or turned:  # it matters which numbers it draws
        other = losses(stepped(spec, dropout, False, turned), 3, seed=2)
        assert (other - want).abs().max() > 3 * SAME * want.abs().max()


@every_phase
def test_the_fused_step_has_the_references_losses(spec: PhaseSpec) -> None:
    found = []
    for policy in ("auto", "reference"):
        with ops.use_backends(policy):
            found.append(losses(stepped(spec, 0.0, False), 1))
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=0)  # cuDNN may use TF32


@every_phase
@pytest.mark.parametrize("turned", [False, True])
def test_a_step_waits_for_nothing(spec: PhaseSpec, turned: bool) -> None:
    step = stepped(spec, 0.5, False, turned)
    losses(step, 1)
    step.begin_epoch(step.order.clone(), 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step(Ranks().share(BATCH), full=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(step.number) == CLIPS // BATCH + 2


@pytest.fixture
def config(clip_folder: Path) -> Config:
    """6 steps an epoch, the last of them short; dropout on."""
    return Config(
        dataset="folder",
        fused=True,
        data=clip_folder,
        batch_size=7,
        drop_last=False,
        weight_decay=0.0,
        preprocessing=Preprocessing(60),
        encoder=EncoderConfig(8, 0.5),
        cml=ContrastConfig(epochs_cml=3, optimizer_cml="adam", lr_cml=1e-3, queue_size=12),
        ser=ReconstructionConfig(epochs_ser=3, optimizer_ser="adam", lr_ser=1e-3, decoder_hidden=8),
    )


def train(config: Config, folder: Path, capture: bool) -> list[tuple[str, float]]:
    """Begin or go on with the run; its phases and losses, epoch by epoch."""
    run = RunFolder(folder)
    if not run.config_path.exists():
        run.create(config)
    prepared = prepare(config.dataset, config.data, config.split_name, config.preprocessing)
    paths = {"decoder": ("eager", ""), "step": ("captured" if capture else "eager", "")}
    with ops.use_backends("auto"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "fast_paths", lambda *_: paths)
        for _ in Trainer(config, run, prepared, DEVICE, Ranks()).train():
            pass
    records = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [(record["phase"], record["loss"]) for record in records]


@pytest.mark.parametrize("steps", [8, 29], ids=["cml", "ser"])
@pytest.mark.parametrize("captured_first", [False, True], ids=["eager, then captured", "captured, then eager"])
def test_a_run_goes_on_captured_where_it_stopped_eager_and_back(
    monkeypatch: pytest.MonkeyPatch, config: Config, tmp_path: Path, steps: int, captured_first: bool
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    want = train(config, tmp_path / "whole", capture=False)
    with monkeypatch.context() as patch:
        stop_after(patch, steps, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", capture=captured_first)
    got = train(config, tmp_path / "cut", capture=not captured_first)
    assert [phase for phase, _ in got] == [phase for phase, _ in want]
    assert [loss for _, loss in got] == pytest.approx([loss for _, loss in want], rel=SAME)


def test_captured_runs_side_by_side_have_the_losses_that_each_has_alone(config: Config, tmp_path: Path) -> None:
    """They draw dropout: a run that read another's random numbers, or half a step of it, would have other losses."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    prepared = prepare(config.dataset, config.data, config.split_name, config.preprocessing)
    paths = {"decoder": ("eager", ""), "step": ("captured", "")}

    def begin(name: str, seed: int) -> tuple[RunFolder, Trainer]:
        own, run = replace(config, seed=seed), RunFolder(tmp_path / name)
        run.create(own)
        return run, Trainer(own, run, prepared, DEVICE, Ranks(), together=3)

    def losses_of(run: RunFolder) -> list[float]:
        return [json.loads(line)["loss"] for line in run.metrics_path.read_text().splitlines()]

    with (
        ops.use_backends("auto"),
        pytest.MonkeyPatch.context() as patch,
        open(tmp_path / "log", "w") as log,
    ):
        patch.setattr(trainer, "fast_paths", lambda *_: paths)
        want = []
        for seed in range(3):
            run, alone = begin(f"alone-{seed}", seed)
            for _ in alone.train():
                pass
            want.append(losses_of(run))
        runs, everyone = zip(*(begin(f"together-{seed}", seed) for seed in range(3)), strict=True)
        take_turns([Turns(each.train(), DEVICE, log) for each in everyone], lambda _, error: pytest.fail(repr(error)))
    for run, losses in zip(runs, want, strict=True):
        assert losses_of(run) == pytest.approx(losses, rel=SAME)
