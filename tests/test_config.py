"""Configuration: the recipes' figures, checks, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from crrl.config import (
    Config,
    ContrastConfig,
    EncoderConfig,
    Recipe,
    ReconstructionConfig,
)
from crrl.data import Preprocessing
from crrl.data.registry import Dataset
from crrl.errors import CrrlError
from crrl.facts import build
from crrl.recipes import preset

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl.train import parse

DATASETS = get_args(Dataset)
RECIPES = get_args(Recipe)


def test_the_paper_recipe_has_the_papers_figures_for_nw_ucla() -> None:
    config = preset("nw-ucla", "paper")
    cml, ser = config.cml, config.ser
    assert (config.batch_size, config.weight_decay, config.preprocessing.max_frames) == (32, 1e-4, 50)
    assert (config.encoder.hidden_size, config.encoder.dropout) == (256, 0.2)
    assert (cml.epochs_cml, cml.optimizer_cml, cml.lr_cml, cml.schedule_cml) == (100, "sgd", 0.01, "constant")
    assert (cml.queue_size, cml.temperature, cml.momentum_encoder, cml.momentum_mlp) == (64, 0.1, 0.999, 1.0)
    assert (ser.epochs_ser, ser.optimizer_ser, ser.lr_ser, ser.schedule_ser) == (60, "sgd", 0.04, "steps")
    assert (ser.decoder_hidden, ser.distill_weight) == (None, 0.1)
    assert (config.turn_yaw, config.preprocessing.normalization) == (0, "clip-axis")
    assert config.features == "paper"


@pytest.mark.parametrize(
    ("dataset", "frames", "lr_cml", "lr_ser"),
    [("ntu60", 60, 0.005, 0.05), ("ntu120", 60, 0.001, 0.05), ("cmu", 100, 0.01, 0.01), ("nw-ucla", 50, 0.01, 0.04)],
)
def test_frames_and_learning_rates_are_the_papers(dataset: Dataset, frames: int, lr_cml: float, lr_ser: float) -> None:
    config = preset(dataset, "paper")
    assert (config.preprocessing.max_frames, config.cml.lr_cml, config.ser.lr_ser) == (frames, lr_cml, lr_ser)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_config_goes_through_json_and_back(dataset: Dataset, recipe: Recipe) -> None:
    config = replace(preset(dataset, recipe), data=Path("somewhere"), teacher=Path("a/run"))
    assert build(Config, json.loads(json.dumps(config.to_dict()))) == config


def test_compiling_without_fused_is_refused() -> None:
    with pytest.raises(CrrlError, match="compile needs --fused"):
        replace(preset(), fused=False, compile="on")


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_line_starts_from_the_preset(dataset: Dataset, recipe: Recipe) -> None:
    options = parse(["--dataset", dataset, "--recipe", recipe])
    assert options.config == preset(dataset, recipe)
    assert parse(["--dataset", dataset, "--recipe", recipe, "--epochs-cml", "7"]).config.cml.epochs_cml == 7


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (EncoderConfig, {"hidden_size": 0}),
        (EncoderConfig, {"hidden_size": 2**20 + 1}),
        (EncoderConfig, {"dropout": 1.0}),
        (EncoderConfig, {"input_gain": 0.0}),
        (ContrastConfig, {"epochs_cml": 0}),
        (ContrastConfig, {"lr_cml": -0.1}),
        (ContrastConfig, {"queue_size": 0}),
        (ContrastConfig, {"queue_size": 2**31 + 1}),
        (ContrastConfig, {"temperature": 0.0}),
        (ContrastConfig, {"momentum_encoder": 1.1}),
        (ContrastConfig, {"velocity_scale": 0.0}),
        (ContrastConfig, {"momentum_mlp": -0.1}),
        (ReconstructionConfig, {"epochs_ser": 0}),
        (ReconstructionConfig, {"lr_ser": 0.0}),
        (ReconstructionConfig, {"decoder_hidden": 0}),
        (ReconstructionConfig, {"decoder_hidden": 2**62}),
        (ReconstructionConfig, {"distill_weight": 0.0}),
        (Config, {"turn_yaw": -1.0}),
        (Config, {"batch_size": 0}),
        (Config, {"weight_decay": -1.0}),
        (Config, {"batch_size": 10**20}),
        (Config, {"turn_yaw": float("inf")}),
        (Config, {"weight_decay": float("nan")}),
        (ContrastConfig, {"lr_cml": float("inf")}),
        (ContrastConfig, {"velocity_scale": 1e300}),
        (ContrastConfig, {"epochs_cml": 10**20}),
        (ReconstructionConfig, {"distill_weight": float("inf")}),
        (EncoderConfig, {"input_gain": float("inf")}),
        (Preprocessing, {"max_frames": 10**23}),
        (Config, {"method": "ser", "teacher": Path("run")}),
    ],
)
def test_a_setting_out_of_range_is_named(kind: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(CrrlError, match=next(iter(setting))):
        kind(**setting)


def test_tuned_is_the_same_on_all_data_sets_but_for_what_a_clip_is() -> None:
    configs = [preset(dataset, "tuned") for dataset in DATASETS]
    first = configs[0]
    for config in configs:
        assert replace(config, dataset=first.dataset, preprocessing=first.preprocessing) == first
