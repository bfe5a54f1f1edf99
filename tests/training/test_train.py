"""The command crrl.train: what a run leaves, how it goes on after any stop, and how it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crrl.errors import CrrlError, Interrupted
from crrl.ops import cuda
from crrl.optim import FlatSGD
from crrl.runs import RunFolder
from crrl.training import loop, trainer
from crrl.training.progress import Progress
from tests.training.runs import metrics, same_weights, stop_after

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from crrl import embed, evaluate, ops, predict, train

Undisturbed = Callable[[list[str]], Path]


@pytest.mark.parametrize("recipe", ["paper", "tuned"])
def test_a_run_folder_holds_everything(options: list[str], tmp_path: Path, recipe: str) -> None:
    run = tmp_path / "run"
    assert train.main([*options, "--recipe", recipe, "--out", str(run)]) == 0
    names = {path.name.strip(".").split(".")[0] for path in run.iterdir()}
    assert names == {"lock", "config", "metrics", "events", "encoder", "teacher", "checkpoint", "README"}
    assert f"recipe `{recipe}`" in (run / "README.md").read_text()
    records = metrics(run)
    assert [(record["phase"], record["epoch"]) for record in records] == [
        *(("cml", epoch) for epoch in (1, 2, 3)),
        *(("ser", epoch) for epoch in (1, 2)),
    ]
    assert {"loss", "loss_r", "loss_d", "lr"} <= records[-1].keys()
    assert RunFolder(run).config().recipe == recipe


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(options: list[str], tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train.main([*options, "--seed", seed, "--out", str(tmp_path / name)])
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_fused_and_reference_follow_the_same_losses(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    train.main([*options, "--fused", "--out", str(tmp_path)])
    for slow, fast in zip(metrics(undisturbed(options)), metrics(tmp_path), strict=True):
        assert fast["loss"] == pytest.approx(slow["loss"], rel=1e-4)


def test_fused_prints_operator_backend_and_reason(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*options, "--fused", "--out", str(tmp_path / "run")])
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    table = lines[lines.index(["operator", "backend", "why"]) :]
    *operators, decoder, step = table
    assert operators == [["operator", "backend", "why"], *map(list, ops.choices(ops.Case("cpu", torch.float32)))]
    assert [decoder[:2], step[:2]] == [["decoder", "eager"], ["step", "eager"]]


def test_without_a_folder_the_run_goes_to_one_that_names_the_data_and_the_time(
    options: list[str], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*options, "--method", "ser"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(rf"{clip_folder.name}-\d{{8}}-\d{{6}}", run.name)
    assert (run / "encoder.safetensors").exists()


def test_several_processes_are_told_to_name_their_folder(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CrrlError, match="several processes need one run folder: give --out FOLDER"):
        train.main(options)


def test_training_says_what_it_does_and_ends_with_the_accuracy_beside_the_floors(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    train.main([*options, "--method", "ser", "--evaluate", "--out", str(run)])
    said = capsys.readouterr().out
    assert "ser, recipe paper, on folder, default:" in said
    assert f"40 clips to train on, 10 to test; the run is kept in {run}" in said
    for row in ("ser, logistic", "random encoder, 1-NN", "raw, 1-NN"):
        assert re.search(rf"^  {row} +\d", said, re.MULTILINE)
    assert f"python -m crrl.report '{run}' --out '{run}/report.html'" in said, "in quotes, as a shell wants it"
    train.main(["--resume", str(run), "--no-evaluate"])
    assert "logistic" not in capsys.readouterr().out


@pytest.fixture
def unlabelled(clip_folder: Path, tmp_path: Path) -> Path:
    """The clips of `clip_folder` without a labels.csv."""
    return Path(shutil.copytree(clip_folder, tmp_path / "clips", ignore=shutil.ignore_patterns("labels.csv")))


def test_clips_without_labels_train_and_are_embedded_and_shown(
    options: list[str], unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", ["--dataset", "folder", "--data", str(unlabelled)]
    assert train.main([*options, *data, "--method", "ser", "--evaluate", "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert "50 clips to train on, none to test, without labels; the run" in said
    (line,) = (line for line in said.splitlines() if line.startswith("not scored"))
    assert line.startswith("not scored: the clips have no labels: list some in a labels.csv, with columns file,label, ")
    assert line.endswith(f"and score by python -m crrl.evaluate {run} --dataset folder --data FOLDER")
    for protocol in ("linear", "fine-tune"):
        with pytest.raises(CrrlError, match=r"^the clips have no labels: list some"):
            evaluate.main([str(run), "--protocol", protocol])
    assert not list(run.glob("evaluation-*"))
    assert "Not evaluated yet" in (run / "README.md").read_text()
    with pytest.raises(CrrlError, match="has no classifier"):
        predict.main([str(run), *data])
    embed.main([str(run), *data, "--out", str(tmp_path / "features.npz")])
    with np.load(tmp_path / "features.npz") as file:
        assert set(file) == {"names", "features"}
        assert len(file["features"]) == 50
    with pytest.raises(CrrlError, match="split 'default' of folder has no test clips: leave out --split"):
        embed.main([str(run), *data, "--split", "default", "--out", str(tmp_path / "features.npz")])


def test_once_clips_are_labelled_a_run_is_scored_on_them(
    options: list[str], unlabelled: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train.main([*options, "--data", str(unlabelled), "--method", "ser", "--out", str(run)])
    shutil.copy(clip_folder / "labels.csv", unlabelled)
    evaluate.main([str(run), "--protocol", "knn", "--dataset", "folder", "--data", str(unlabelled)])
    assert re.search(r"^  ser, 1-NN +\d", capsys.readouterr().out, re.MULTILINE)


def test_clips_without_a_test_side_are_not_scored(
    options: list[str], unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{number:02}.npy,{'ab'[number % 2]},train" for number in range(50)]
    (unlabelled / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    arguments = [*options, "--data", str(unlabelled), "--method", "ser", "--evaluate", "--out", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    assert "\nnot scored: folder, default, has no test clips: mark some test in" in capsys.readouterr().out


def test_the_time_is_foretold_and_nothing_drawn_for_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*options, "--out", str(tmp_path / "plain")])
    assert " min" not in capsys.readouterr().out
    monkeypatch.setattr(trainer, "MANY_STEPS", 1)
    train.main([*options, "--out", str(tmp_path / "foretold")])
    assert "for about 1 min, estimated from a few steps of each phase" in capsys.readouterr().out
    assert same_weights(tmp_path / "plain", tmp_path / "foretold")
    (tmp_path / "foretold" / "encoder.safetensors").unlink()
    train.main(["--resume", str(tmp_path / "foretold"), "--no-evaluate"])
    assert " min" not in capsys.readouterr().out, "what is left is said by the bar"


def test_help_has_what_matters_and_help_all_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            train.main(["--dataset", "nw-ucla", "--recipe", "paper", option])
        said[option] = capsys.readouterr().out
    assert len(said["--help"].splitlines()) < 24
    assert "epochs of step 1, contrast (100)" in said["--help"]
    shown = re.findall(r"--[a-z-]+", said["--help"])
    assert set(shown) - {"--help-all", "--no-evaluate"} <= set(re.findall(r"--[a-z-]+", said["--help-all"]))
    assert "--queue-size" in said["--help-all"]


def test_how_far_clips_are_turned_is_said_where_the_clips_decide_it(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*options, "--turn-yaw", "auto", "--out", str(tmp_path / "auto")])
    assert re.search(r"^clips are turned by \d+ degrees, .* \(--turn-yaw\)$", capsys.readouterr().out, re.MULTILINE)
    train.main([*options, "--turn-yaw", "30", "--out", str(tmp_path / "given")])
    assert "are turned by" not in capsys.readouterr().out


def test_a_kernel_that_waited_in_vain_ends_the_run(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_words", {0: torch.ones(1, dtype=torch.int32)})
    monkeypatch.setattr(cuda, "off", None)
    with pytest.raises(CrrlError, match=r"waited .* for its other blocks"):
        train.main([*options, "--out", str(tmp_path / "run")])


def test_a_run_in_bf16_has_about_the_losses_of_one_in_fp32(options: list[str], tmp_path: Path) -> None:
    options = [*options, "--recipe", "tuned", "--dropout", "0"]
    for precision in ("fp32", "bf16"):
        train.main([*options, "--precision", precision, "--out", str(tmp_path / precision)])
    losses = [[record["loss"] for record in metrics(tmp_path / precision)] for precision in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("format_", ["bvh", "ctr-gcn", "st-gcn", "pyskl", "coco", "openpose", "mediapipe"])
def test_a_format_for_a_data_set_is_sent_to_prepare(tmp_path: Path, format_: str) -> None:
    problem = (
        rf"{format_} is a format: prepare its files once, python -m crrl\.prepare {format_} --data RAW --out FOLDER;"
    )
    for options in (["--dataset", format_], [f"--dataset={format_}", "--data", str(tmp_path)]):
        with pytest.raises(CrrlError, match=problem):
            train.main([*options, "--out", str(tmp_path / "run")])


def test_classes_that_only_the_test_side_has_are_told(options: list[str], clip_folder: Path, tmp_path: Path) -> None:
    """Also where the clips are prepared already."""
    shutil.copytree(clip_folder, tmp_path / "clips")
    labels = tmp_path / "clips" / "labels.csv"
    rows = [f"{row},{'test' if row > '45' else 'train'}" for row in labels.read_text().splitlines()[1:]]
    text = "\n".join(["file,label,split", *rows, ""])
    labels.write_text(text.replace("left,test", "Left!,test"))
    options = [*options, "--data", str(tmp_path / "clips"), "--method", "cml", "--epochs-cml", "1"]
    for run in ("first", "second"):
        with pytest.warns(UserWarning, match=r"1 classes have test clips, but no training clip \(default: Left!\)"):
            train.main([*options, "--out", str(tmp_path / run)])


@pytest.mark.parametrize("variant", [[], ["--recipe", "tuned", "--batch-size", "9", "--fused"]])
@pytest.mark.parametrize("steps", [2, 7, 15, 16, 24])
def test_resume_after_ctrl_c_is_bit_identical(
    options: list[str], variant: list[str], undisturbed: Undisturbed, tmp_path: Path, steps: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options, cut = [*options, *variant], tmp_path / "cut"
    with monkeypatch.context() as patch:
        stop_after(patch, steps, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert train.main([*options, "--out", str(cut)]) == 128 + signal.SIGINT
    assert f"--resume {cut}" in capsys.readouterr().err
    assert train.main(["--resume", str(cut)]) == 0
    assert same_weights(undisturbed(options), cut)
    assert metrics(undisturbed(options)) == metrics(cut)


def events(run: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a TensorBoard tag, as TensorBoard shows it.

    It reads files in the order of their names, by a process's count of them: 10 comes before 9. A process
    that trains one run makes too few for that to matter; one that runs all these tests does not.
    """
    for path in run.glob("events.out.tfevents.*"):
        path.rename(path.with_name(re.sub(r"(\d+)\.[0-9a-f]{16}$", lambda count: f"{int(count[1]):06}", path.name)))
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_events_hold_the_metrics_once_after_a_resume(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 12, lambda: os.kill(os.getpid(), signal.SIGINT))
        train.main([*options, "--out", str(tmp_path)])
    train.main(["--resume", str(tmp_path)])
    for phase, steps in (("cml", [5, 10, 15]), ("ser", [20, 25])):
        logged = [(record["step"], record["loss"]) for record in metrics(tmp_path) if record["phase"] == phase]
        assert [step for step, _ in logged] == steps
        assert events(tmp_path, f"{phase}/loss") == [(step, pytest.approx(loss)) for step, loss in logged]


def test_events_end_with_the_settings_and_the_accuracies(options: list[str], tmp_path: Path) -> None:
    train.main([*options, "--method", "ser", "--evaluate", "--out", str(tmp_path)])
    for protocol, rows in (("logistic", ("ser", "random_encoder", "raw")), ("knn", ("ser", "random_encoder", "raw"))):
        found = json.loads((tmp_path / f"evaluation-{protocol}.json").read_text())["accuracy_percent"]
        reading = "1-NN" if protocol == "knn" else protocol
        for row in rows:
            expected = found[f"{row.replace('_', ' ')}, {reading}"]["all"]
            assert events(tmp_path, f"accuracy/{row}/{reading}") == [(0, pytest.approx(expected))]
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (settings["hidden_size"].number_value, settings["method"].string_value) == (8, "ser")


def test_a_kill_before_the_first_checkpoint_starts_again(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def die() -> None:
        raise KeyError("as if killed")

    with monkeypatch.context() as patch:
        stop_after(patch, 6, die)
        patch.setattr(loop, "CHECKPOINT_EVERY", 100)
        with pytest.raises(KeyError):
            train.main([*options, "--out", str(tmp_path / "cut")])
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    train.main(["--resume", str(tmp_path / "cut")])
    assert same_weights(undisturbed(options), tmp_path / "cut")
    assert metrics(undisturbed(options)) == metrics(tmp_path / "cut")


def test_a_signal_while_a_phase_ends_is_not_lost(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Progress.__exit__

    def closing(self: Progress, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        close(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__exit__", closing)
        assert train.main([*options, "--out", str(tmp_path / "cut")]) == 128 + signal.SIGTERM
    train.main(["--resume", str(tmp_path / "cut")])
    assert same_weights(undisturbed(options), tmp_path / "cut")


def test_resume_after_sigkill_in_mid_epoch_is_bit_identical(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys\n"
        "from crrl import train\n"
        "from crrl.training import loop\n"
        "from crrl.training.step import Step\n"
        "loop.CHECKPOINT_EVERY = 3\n"
        "step = Step.__call__\n"
        "def killing(self, share, full):\n"
        "    if self.phase.name == 'cml' and self.number == 11: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, share, full)\n"
        "Step.__call__ = killing\n"
        "train.main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *options, "--out", str(tmp_path / "cut")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    checkpoint = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert (checkpoint["phase"], checkpoint["step"]) == ("cml", 9)  # in the second epoch of 5; the second is logged
    assert len(metrics(tmp_path / "cut")) == 2
    train.main(["--resume", str(tmp_path / "cut")])
    assert same_weights(undisturbed(options), tmp_path / "cut")
    assert metrics(undisturbed(options)) == metrics(tmp_path / "cut")


def test_sigterm_saves_and_says_how_to_go_on(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "crrl.train", *options, "--epochs-cml", "5000", "--out", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:  # until an epoch is over
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert (run / "checkpoint.pt").exists()
    assert f"stopped by SIGTERM; resume with: python -m crrl.train --resume {run}" in errors


def test_resuming_a_finished_run_changes_nothing(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main([*options, "--out", str(run)])
    before = (run / "encoder.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes()
    assert train.main(["--resume", str(run)]) == 0
    assert ((run / "encoder.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes()) == before
    (run / "encoder.safetensors").write_bytes(before[0][:-1])
    with pytest.raises(CrrlError, match=r"encoder\.safetensors is damaged or cut short"):
        train.main(["--resume", str(run)])


@pytest.mark.parametrize(("rates_fall", "first"), [("steps", 20), ("steps-18", 18)])
def test_the_learning_rate_halves_after_an_early_epoch_and_after_50(rates_fall: str, first: int) -> None:
    schedule = loop.Schedule(
        clips=32, epochs=60, batch_size=8, drop_last=True, optimizer="sgd", lr=0.04, rates_fall=rates_fall,
        weight_decay=0.0, seed=0,
    )  # fmt: skip
    rates = schedule.rates(FlatSGD([torch.zeros(1)]))
    expected = torch.tensor([0.04] * first + [0.02] * (50 - first) + [0.01] * 10, dtype=torch.float64)
    assert torch.equal(rates[::4, 0], expected)
    assert torch.equal(rates[:, 1], torch.full((240,), 0.9, dtype=torch.float64))


@pytest.mark.parametrize(("drop_last", "steps", "clips"), [(True, 4, 32), (False, 5, 35)])
def test_the_last_short_batch_is_dropped_or_used(drop_last: bool, steps: int, clips: int) -> None:
    schedule = loop.Schedule(
        clips=35, epochs=1, batch_size=8, drop_last=drop_last, optimizer="sgd", lr=0.1, rates_fall="constant",
        weight_decay=0.0, seed=0,
    )  # fmt: skip
    assert (schedule.steps_per_epoch, schedule.clips_per_epoch) == (steps, clips)
    assert schedule.batches() == [8, 8, 8, 8, 3][:steps]


def content_of(value: object) -> bytes:
    """A file of torch.save's."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


DAMAGED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "no checkpoint": ("checkpoint.pt", lambda content: b"", "checkpoint.pt"),
    "text for a checkpoint": ("checkpoint.pt", lambda content: b"not a checkpoint", "checkpoint.pt"),
    "half a checkpoint": ("checkpoint.pt", lambda content: content[:-1000], "checkpoint.pt"),
    "another checkpoint": (
        "checkpoint.pt",
        lambda _: content_of({"epoch": 1}),
        "not a checkpoint of this version of crrl",
    ),
    "another size": (
        "config.json",
        lambda text: text.replace(b'"hidden_size": 8', b'"hidden_size": 9'),
        "does not fit",
    ),
    "another method": ("config.json", lambda text: text.replace(b'"ser",', b'"cml",'), "is not of method cml"),
    "another version": ("config.json", lambda text: text.replace(b"{", b'{"colour": "blue",', 1), "colour"),
    "half a config": ("config.json", lambda text: text[:-20], "config.json"),
}
"""A file of a run, what becomes of it, and what the refusal says."""


class TestRefusals:
    """Each ends in one clear line, exit code 2, and nothing lost."""

    def failure(self, arguments: list[str]) -> str:
        with pytest.raises(CrrlError) as caught:
            train.main(arguments)
        message = str(caught.value)
        assert "\n" not in message
        return message

    def test_a_folder_that_holds_a_run(self, options: list[str], undisturbed: Undisturbed) -> None:
        run = undisturbed([*options, "--method", "ser"])
        assert f"--resume {run}" in self.failure([*options, "--out", str(run)])

    def test_resume_of_nothing(self, tmp_path: Path) -> None:
        assert "no run" in self.failure(["--resume", str(tmp_path)])

    def test_resume_with_other_options(self, tmp_path: Path) -> None:
        for other in (["--seed", "0"], ["--recipe", "tuned"], ["--dataset", "nw-ucla"], ["--out", str(tmp_path)]):
            said = self.failure([f"--resume={tmp_path}", *other])
            assert f"remove {other[0]}; only --device and --evaluate can be given with it" in said

    @pytest.mark.parametrize(("name", "damage", "said"), DAMAGED.values(), ids=DAMAGED)
    def test_a_run_that_is_damaged(
        self, options: list[str], undisturbed: Undisturbed, tmp_path: Path, name: str,
        damage: Callable[[bytes], bytes], said: str,
    ) -> None:  # fmt: skip
        run = Path(shutil.copytree(undisturbed([*options, "--method", "ser"]), tmp_path / "run"))
        (run / "encoder.safetensors").unlink()
        content = (run / name).read_bytes()
        (run / name).write_bytes(damage(content))
        assert (run / name).read_bytes() != content
        message = self.failure(["--resume", str(run)])
        assert str(run) in message
        assert said in message

    @pytest.mark.parametrize(("teachers", "own"), [(["--max-frames", "7"], []), ([], ["--hidden-size", "9"])])
    def test_a_teacher_that_does_not_fit_the_data(
        self, options: list[str], tmp_path: Path, teachers: list[str], own: list[str]
    ) -> None:
        train.main([*options, "--method", "cml", *teachers, "--out", str(tmp_path / "cml")])
        arguments = [*options, *own, "--teacher", str(tmp_path / "cml"), "--out", str(tmp_path / "run")]
        assert "another size or preprocessing" in self.failure(arguments)
        assert not (tmp_path / "run").exists()

    def test_a_folder_with_leftovers_of_a_run(self, options: list[str], tmp_path: Path) -> None:
        (tmp_path / "encoder.safetensors").touch()
        assert "already holds a run" in self.failure([*options, "--out", str(tmp_path)])

    def test_data_that_changed_before_resuming(self, options: list[str], clip_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(clip_folder, tmp_path / "data")
        options[options.index("--data") + 1] = str(tmp_path / "data")
        train.main([*options, "--method", "ser", "--out", str(tmp_path / "run")])
        (tmp_path / "run" / "encoder.safetensors").unlink()
        lines = (tmp_path / "data" / "labels.csv").read_text().splitlines()
        (tmp_path / "data" / "labels.csv").write_text("\n".join(lines[:-3]) + "\n")
        assert "has changed since" in self.failure(["--resume", str(tmp_path / "run")])

    def test_more_clips_to_a_batch_than_there_are(self, options: list[str], tmp_path: Path) -> None:
        assert "--no-drop-last" in self.failure([*options, "--batch-size", "64", "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("setting", ["--temperature", "--lr-cml", "--batch-size", "--epochs-ser", "--max-frames"])
    def test_a_setting_out_of_range(self, options: list[str], tmp_path: Path, setting: str) -> None:
        assert setting[2:].replace("-", "_") in self.failure([*options, setting, "0", "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    def test_a_loss_that_is_no_longer_finite(self, options: list[str], tmp_path: Path) -> None:
        message = self.failure([*options, "--method", "ser", "--lr-ser", "2e9", "--out", str(tmp_path)])
        assert "--lr-ser" in message
        assert not (tmp_path / "encoder.safetensors").exists()

    def test_cuda_where_there_is_none(
        self, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "--device cpu" in self.failure([*options, "--device", "cuda", "--out", str(tmp_path)])


def test_an_interruption_is_not_an_error() -> None:
    assert not issubclass(Interrupted, CrrlError)
