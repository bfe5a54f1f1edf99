"""examples/crrl_in_one_file.py computes what crrl trains by --no-fused: step by step, and from files to an accuracy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

# As in bench/conftest.py: pytest alone does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.straightforward import as_cml, as_ser
from crrl import evaluate, ops, train
from crrl.config import Config
from crrl.data import Clips, ClipTensors, Preprocessing, Preprocessor, prepare
from crrl.data.batches import epoch_order
from crrl.files import read_json
from crrl.methods import METHODS
from crrl.models import Encoder
from crrl.optim import views
from crrl.recipes import preset
from crrl.runs import RunFolder, load_encoder
from crrl.training.loop import Schedule
from crrl.training.phases import Phase, Teacher, build_module
from crrl.training.ranks import Ranks
from crrl.training.step import Step
from examples import crrl_in_one_file as one_file

BATCH, STEPS = 4, 3
PAPER, FEW = one_file.Settings(hidden=6, dropout=0, queue_size=10), replace(one_file.FEW, hidden=6, queue_size=10)
both = pytest.mark.parametrize("settings", [PAPER, FEW], ids=["paper", "few"])


def config_of(settings: one_file.Settings) -> Config:
    """crrl's settings of the same meaning."""
    paper = preset("nw-ucla")
    (cml, ser), (lr_cml, lr_ser) = settings.epochs, settings.lr
    return replace(
        paper,
        batch_size=settings.batch_size,
        encoder=replace(paper.encoder, hidden_size=settings.hidden, dropout=settings.dropout),
        cml=replace(
            paper.cml, epochs_cml=cml, lr_cml=lr_cml, optimizer_cml=settings.optimizer, queue_size=settings.queue_size,
            temperature=settings.temperature, momentum_encoder=settings.momentum,
            velocity_scale=settings.velocity_scale,
        ),
        ser=replace(
            paper.ser, epochs_ser=ser, lr_ser=lr_ser, optimizer_ser=settings.optimizer,
            decoder_hidden=settings.decoder_hidden, distill_weight=settings.distill_weight,
        ),
    )  # fmt: skip


def test_its_settings_are_the_papers() -> None:
    assert config_of(one_file.Settings()) == preset("nw-ucla")


@pytest.fixture
def tensors() -> ClipTensors:
    """Clips of 1 to 12 frames, 3 joints."""
    lengths = [7, 3, 12, 5, 9, 1, 4, 8, 2, 6, 11, 10]
    clips = [np.random.default_rng(length).uniform(-1, 1, (length, 3, 3)) for length in lengths]
    names = [str(length) for length in lengths]
    return ClipTensors(Clips.from_arrays(clips, labels=[0] * 12, names=names, class_names=["any"]), torch.device("cpu"))


class Crrl:
    """A phase of crrl, stepped by its own training code on the same clips as the example."""

    def __init__(self, name: str, number: int, settings: one_file.Settings, tensors: ClipTensors):
        config, spec = config_of(settings), METHODS[name][number]  # type: ignore[index]
        torch.manual_seed(3)
        teacher = Teacher(Encoder(9, settings.hidden, 0), tensors, np.arange(12)) if spec.teacher else None
        self.module = build_module(spec, config, 9)
        self.phase = Phase(spec, self.module, Ranks(), teacher, velocity_scale=config.cml.velocity_scale)
        self.taught = None if teacher is None else teacher.features(tensors.batch(torch.arange(12)))
        schedule = Schedule(
            12, 1, BATCH, True, settings.optimizer, settings.lr[number], "constant", config.weight_decay, 0
        )
        self.optimizer = schedule.make_optimizer(self.phase)
        self.step = Step(self.phase, self.optimizer, tensors, schedule.rates(self.optimizer).float(), Ranks())
        self.order = torch.tensor([5, 2, 0, 7, 1, 3, 11, 6, 8, 10, 9, 4])
        self.step.begin_epoch(self.order, 0)

    def __call__(self) -> tuple[Tensor, list[Tensor]]:
        """The loss of the next step, and its gradients."""
        with ops.use_backends("reference"):
            self.step(Ranks().share(BATCH), full=True)
        return self.step.loss, views(self.optimizer.gradients, self.optimizer.parameters)


def check_step(theirs: Crrl, model: torch.nn.Module, loss: Tensor) -> None:
    """Hold the example's loss and gradients, and the weights that it is left with, to those of crrl."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    want_loss, want_gradients = theirs()
    torch.testing.assert_close(loss.detach(), want_loss)
    for got, want in zip(trained, want_gradients, strict=True):
        torch.testing.assert_close(got.grad, want, rtol=1e-4, atol=1e-5)
        assert want.any()
    for got, want in zip(trained, theirs.optimizer.parameters, strict=True):
        torch.testing.assert_close(got.detach(), want.detach(), rtol=1e-4, atol=1e-5)


@both
def test_steps_of_contrast_are_those_of_crrl(settings: one_file.Settings, tensors: ClipTensors) -> None:
    theirs = Crrl("cml", 0, settings, tensors)
    model, learner = as_cml(theirs.module.learner), theirs.module.learner
    optimizer = one_file.optimizer_of(model, settings, settings.lr[0])
    clips = [tensors.frames[tensors.offsets[i] : tensors.offsets[i + 1]] for i in theirs.order]
    model.settings = settings
    start = [key.clone() for key in model.key_encoder.parameters()]
    for first in range(0, BATCH * STEPS, BATCH):
        loss, keys = model(clips[first : first + BATCH])
        one_file.descend(optimizer, loss)
        model.follow(keys)
        check_step(theirs, model, loss)
        queue = learner.queue.roll(-int(learner.pointer), 0)  # the oldest first
        torch.testing.assert_close(model.queue, queue, rtol=1e-4, atol=1e-6)
        for got, want in zip(model.key_encoder.parameters(), learner.key_encoder.parameters(), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    assert not any(torch.equal(old, new) for old, new in zip(start, model.key_encoder.parameters(), strict=True))


@both
def test_steps_of_reconstruction_are_those_of_crrl(settings: one_file.Settings, tensors: ClipTensors) -> None:
    theirs = Crrl("crrl", 1, settings, tensors)
    model = as_ser(theirs.module)
    assert theirs.taught is not None
    optimizer = one_file.optimizer_of(model, settings, settings.lr[1])
    clips = [tensors.frames[tensors.offsets[i] : tensors.offsets[i + 1]] for i in theirs.order]
    for first in range(0, BATCH * STEPS, BATCH):
        loss = model(clips[first : first + BATCH], theirs.taught[theirs.order[first : first + BATCH]])
        one_file.descend(optimizer, loss)
        check_step(theirs, model, loss)


def test_from_files_to_accuracies_as_crrl(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loops from the weights and in the order of `crrl train` leave its weights, which are as good."""
    options = ["--hidden-size", "8", "--dropout", "0", "--batch-size", "9", "--epochs-cml", "4", "--epochs-ser", "21"]
    given = ["--dataset", "folder", "--data", str(clip_folder), "--recipe", "paper", "--no-fused", "--device", "cpu"]
    train.main([*given, *options, "--no-evaluate", "--out", str(tmp_path / "run")])
    evaluate.main([str(tmp_path / "run"), "--protocol", "knn", "--device", "cpu"])
    run, settings = RunFolder(tmp_path / "run"), one_file.Settings(8, dropout=0, epochs=(4, 21), batch_size=9)
    config = run.config()
    files = sorted(clip_folder.glob("*.npy"))
    clips = [one_file.prepared(np.load(path)) for path in files]
    split = prepare("folder", clip_folder, "default", config.preprocessing).clips.split("default")
    training, tests = ([clips[i] for i in side] for side in (split.train, split.test["all"]))

    modules = []
    for number, seed in enumerate((0, 1)):
        torch.manual_seed(seed)
        modules.append(build_module(METHODS["crrl"][number], config, 15))
    orders = [epoch_order(torch.arange(40), seed, epoch) for seed in (0, 1) for epoch in range(settings.epochs[seed])]
    drawn = iter(orders)
    monkeypatch.setattr(torch, "randperm", lambda count: next(drawn))
    monkeypatch.setattr(one_file, "CML", lambda channels, settings: as_cml(modules[0].learner))
    monkeypatch.setattr(one_file, "SER", lambda channels, settings: as_ser(modules[1]))
    cml = one_file.train_cml(training, settings)
    ser = one_file.train_ser(training, cml.query_encoder, settings)
    for path, encoder in ((run.teacher_path, cml.query_encoder), (run.encoder_path, ser.encoder)):
        want = load_encoder(path).features.encoder.state_dict()
        for name, weight in encoder.state_dict().items():
            torch.testing.assert_close(weight, want[name], rtol=1e-3, atol=1e-4)

    labels, asked = (torch.tensor([i % 2 for i in side]) for side in (split.train, split.test["all"]))
    pairs = {
        "crrl": [one_file.features(ser.encoder, each) for each in (training, tests)],
        "raw": [one_file.raw(each) for each in (training, tests)],
    }
    rows = read_json(run.path / "evaluation-knn.json")["accuracy_percent"]
    for name, (known, unknown) in pairs.items():
        told = 100 * (one_file.nearest(known, labels, unknown) == asked).double().mean().item()
        (row,) = (row for row in rows if row.startswith(name))
        assert rows[row]["all"] == pytest.approx(told)


def test_missing_joints_and_long_clips_are_prepared_as_by_crrl() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(frames, 4, 3)).astype(np.float32) for frames in (1, 59, 61, 97, 200)]
    clips[1][3:9, 2] = clips[4][:, 0] = 0
    clips.append(np.zeros((3, 4, 3), np.float32))
    made = Clips.unlabelled([(str(number), clip) for number, clip in enumerate(clips)])
    frames, offsets = Preprocessor(Preprocessing(60), 4).apply(made.frames, made.offsets)
    for number, clip in enumerate(clips):
        want = torch.from_numpy(frames[offsets[number] : offsets[number + 1]]).flatten(1)
        torch.testing.assert_close(one_file.prepared(clip), want)


def test_it_runs_alone_and_learns(tmp_path: Path) -> None:
    """In a folder of its own, where no crrl can be imported, for fewer epochs, on its own clips given as a file."""
    path = tmp_path / "one_file.py"
    path.write_text(Path(one_file.__file__).read_text())
    np.savez(tmp_path / "clips.npz", **one_file.swings(0))
    code = (
        "import sys; sys.modules['crrl'] = None; sys.path.insert(0, '.')\n"
        "import dataclasses, one_file\n"
        "one_file.FEW = dataclasses.replace(one_file.FEW, epochs=(12, 8))\n"
        "told = one_file.main(['clips.npz'])\n"
        "assert list(told) == ['raw coordinates', 'random encoder', 'CML', 'CRRL']\n"
        "assert min(told['CML'], told['CRRL']) > told['random encoder'], told\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first == "128 clips to train on, 64 to test, of 8 actions"
    losses = [float(row.split()[-1]) for row in rows[:6]]
    assert losses[2] < losses[0]
    assert losses[5] < losses[3] / 2
