"""Every method on tiny clips: it trains, goes on to the bit, and begins with what it says it begins with."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from crrl.config import Config, EncoderConfig
from crrl.errors import CrrlError
from crrl.methods import METHODS, Method
from crrl.models import Encoder
from crrl.runs import load_encoder
from crrl.training.phases import build_module
from crrl.training.step import Step
from tests.training.runs import metrics, same_weights, stop_after

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import evaluate, train

Undisturbed = Callable[[list[str]], Path]

LOSSES = {
    "cml": [{"loss_c"}],
    "ser": [{"loss_r"}],
    "crrl": [{"loss_c"}, {"loss_r", "loss_d"}],
    "cml-ser-joint": [{"loss_c", "loss_r"}],
    "cml-pretrain-ser": [{"loss_c"}, {"loss_r"}],
    "ser-pretrain-cml": [{"loss_r"}, {"loss_c"}],
    "ser-distill-cml": [{"loss_r"}, {"loss_c", "loss_d"}],
    "ser-forward": [{"loss_r"}],
    "ser-reverse": [{"loss_r"}],
    "vg": [{"loss_v"}],
    "vgsr": [{"loss_r", "loss_v"}],
    "contrast-noise": [{"loss_c"}],
    "contrast-shear": [{"loss_c"}],
    "contrast-rotation": [{"loss_c"}],
}
"""The losses that each phase logs beside their sum."""


@pytest.mark.parametrize("method", get_args(Method))
def test_it_trains_logs_its_losses_and_is_evaluated(options: list[str], tmp_path: Path, method: Method) -> None:
    run = tmp_path / "run"
    options = [*options, "--method", method, "--recipe", "tuned", "--decoder-hidden", "7"]
    assert train.main([*options, "--out", str(run)]) == 0
    found: dict[str, set[str]] = {}
    for record in metrics(run):
        found[str(record["phase"])] = {name for name in record if name.startswith("loss_")}
    assert list(found) == [phase.step for phase in METHODS[method]]
    assert list(found.values()) == LOSSES[method]
    assert load_encoder(run / "encoder.safetensors").method == method
    assert (run / "teacher.safetensors").exists() == (len(METHODS[method]) > 1)
    assert evaluate.main([str(run), "--protocol", "knn"]) == 0


def test_no_two_rows_give_the_same_encoder(options: list[str], tmp_path: Path) -> None:
    rows = [method for method, phases in METHODS.items() if len(phases) == 1]
    options, weights = [*options, "--epochs-cml", "1", "--epochs-ser", "1"], set()
    for method in rows:
        train.main([*options, "--method", method, "--out", str(tmp_path / method)])
        weights.add(load_file(tmp_path / method / "encoder.safetensors")["encoder.gru.weight_hh_l0"].sum().item())
    assert len(weights) == len(rows)


@pytest.mark.parametrize(
    ("method", "steps", "more"),
    [
        *(("ser-distill-cml", 7, []), ("ser-distill-cml", 17, ["--fused"]), ("ser-pretrain-cml", 12, ["--fused"])),
        *(("cml-ser-joint", 7, ["--fused"]), ("vgsr", 4, []), ("contrast-noise", 8, []), ("contrast-rotation", 4, [])),
    ],
)
def test_it_goes_on_to_the_bit(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, steps: int, more: list[str]
) -> None:
    options = [*options, *more, "--method", method]
    train.main([*options, "--out", str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        stop_after(patch, steps, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*options, "--out", str(tmp_path / "cut")]) == 128 + signal.SIGINT
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


@pytest.mark.parametrize(
    ("first", "methods"),
    [("cml", ("crrl", "cml-pretrain-ser")), ("ser", ("ser-pretrain-cml", "ser-distill-cml"))],
)
def test_one_first_phase_serves_all_methods_that_begin_with_it(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path, first: str, methods: tuple[str, str]
) -> None:
    givers = undisturbed([*options, "--method", first]), tmp_path / methods[0]  # of whose first phase the second is
    expected = load_file(givers[0] / "encoder.safetensors")
    for method, giver in zip(methods, givers, strict=True):
        train.main([*options, "--method", method, "--out", str(tmp_path / method)])
        given = tmp_path / f"{method}, given"
        train.main([*options, "--method", method, "--teacher", str(giver), "--out", str(given)])
        assert same_weights(tmp_path / method, given)
        for run in (tmp_path / method, given):
            teacher = load_file(run / "teacher.safetensors")  # frozen: as the first phase left it
            assert all(torch.equal(teacher[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("first", "method"), [("cml", "cml-pretrain-ser"), ("ser", "ser-pretrain-cml")])
def test_a_pretrained_start_is_the_given_encoder(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str,
    method: str,
) -> None:  # fmt: skip
    given = undisturbed([*options, "--method", first])
    monkeypatch.setattr(Step, "__call__", lambda *arguments, **more: None)  # no step is taken
    train.main([*options, "--method", method, "--teacher", str(given), "--out", str(tmp_path / "run")])
    assert same_weights(given, tmp_path / "run")


def test_the_key_encoder_starts_as_a_copy_of_a_pretrained_query_encoder_too() -> None:
    torch.manual_seed(0)
    previous = Encoder(9, 6)
    module = build_module(METHODS["ser-pretrain-cml"][1], Config(encoder=EncoderConfig(6)), 9, previous)
    assert module.learner is not None
    encoders = previous, module.learner.query_encoder, module.learner.key_encoder
    for start, query, key in zip(*(encoder.parameters() for encoder in encoders), strict=True):
        assert torch.equal(start, query)
        assert torch.equal(start, key)
        assert len({start.data_ptr(), query.data_ptr(), key.data_ptr()}) == 3


@pytest.mark.parametrize(("method", "build"), [("ser", "vg"), ("cml", "contrast-shear"), ("ser", "cml-pretrain-ser")])
def test_what_a_variant_does_not_change_starts_from_the_same_weights(method: Method, build: Method) -> None:
    """So that two rows of a table differ in what they are about alone."""

    def start(of: Method) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = build_module(METHODS[of][-1], Config(encoder=EncoderConfig(6)), 9, Encoder(9, 6))
        encoder = {id(parameter) for parameter in module.encoder.parameters()}
        pretrained = METHODS[build][-1].start == "previous"
        return [p for p in module.parameters() if not (pretrained and id(p) in encoder)]

    for one, other in zip(start(method), start(build), strict=True):
        assert torch.equal(one, other)


def failure(arguments: list[str]) -> str:
    with pytest.raises(CrrlError) as caught:
        train.main(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("given", "method"), [("ser", "crrl"), ("cml", "ser-distill-cml"), ("vg", "ser-pretrain-cml")])
def test_a_run_that_begins_otherwise_is_refused(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path, given: str, method: str
) -> None:
    teacher = undisturbed([*options, "--method", given])
    message = failure([*options, "--method", method, "--teacher", str(teacher), "--out", str(tmp_path / "run")])
    assert str(teacher) in message
    assert f"{method} begins with" in message
    assert not (tmp_path / "run").exists()


def test_an_encoder_of_another_first_phase_is_refused(
    options: list[str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    teacher = shutil.copytree(undisturbed([*options, "--method", "cml"]), tmp_path / "cml")
    shutil.copy(undisturbed([*options, "--method", "ser"]) / "encoder.safetensors", teacher)
    message = failure([*options, "--teacher", str(teacher), "--out", str(tmp_path / "run")])
    assert "holds an encoder of ser: crrl begins with cml" in message


def test_a_teacher_of_other_clips_is_refused(options: list[str], clip_folder: Path, tmp_path: Path) -> None:
    """As one that was trained on what the student is tested on would be."""
    shutil.copytree(clip_folder, tmp_path / "clips")
    labels = tmp_path / "clips" / "labels.csv"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-1]) + "\n")
    train.main([*options, "--method", "cml", "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "cml")])
    message = failure([*options, "--teacher", str(tmp_path / "cml"), "--out", str(tmp_path / "run")])
    assert "was trained on other clips than this run's" in message


def test_a_teacher_of_another_split_is_refused(options: list[str], undisturbed: Undisturbed, tmp_path: Path) -> None:
    config = Path(shutil.copytree(undisturbed([*options, "--method", "cml"]), tmp_path / "cml")) / "config.json"
    config.write_text(config.read_text().replace('"split": null', '"split": "another"'))
    message = failure([*options, "--teacher", str(config.parent), "--out", str(tmp_path / "run")])
    assert "was trained on split another, not default" in message
