"""The recipes: presets of all settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crrl.config import Config, ContrastConfig, Recipe, ReconstructionConfig
from crrl.data.preprocessing import Preprocessing
from crrl.data.registry import PRESETS, Dataset

TUNED: Mapping[str, Any] = {
    "drop_last": False,
    "weight_decay": 0.0,
    "turn_yaw": "auto",
    "takes": True,
    "features": "tuned",
    "preprocessing": {"max_frames": 32, "normalization": "clip"},
    "encoder": {"input_gain": 3.0},
    "cml": {
        "epochs_cml": 150,
        "optimizer_cml": "adam",
        "lr_cml": 1e-3,
        "schedule_cml": "one-cycle",
        "velocity_scale": 10.0,
    },
    "ser": {
        "epochs_ser": 80,
        "optimizer_ser": "adam",
        "lr_ser": 2e-3,
        "schedule_ser": "one-cycle",
        "decoder_hidden": 256,
        "distill_weight": 10.0,
    },
}
"""The settings in which `tuned` differs from `paper`, on every data set."""


def preset(dataset: Dataset = "synthetic", recipe: Recipe = "paper") -> Config:
    """The settings of a recipe on a data set.

    `paper` has the optimizer, schedule and sizes of Section IV-B. Both recipes apply the view transform wherever the
    joints it needs are known; the paper names it for NTU only.
    """
    facts = PRESETS[dataset]
    paper = Config(
        dataset=dataset,
        preprocessing=Preprocessing(facts.max_frames, view_joints=facts.view_joints),
        cml=ContrastConfig(lr_cml=facts.lr_cml),
        ser=ReconstructionConfig(lr_ser=facts.lr_ser),
    )
    return paper if recipe == "paper" else _with(replace(paper, recipe=recipe), TUNED)


def _with(settings: Any, changes: Mapping[str, Any]) -> Any:
    """The settings with those in `changes` replaced; a mapping changes settings within a group."""
    changed = {
        name: _with(getattr(settings, name), value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return replace(settings, **changed)
