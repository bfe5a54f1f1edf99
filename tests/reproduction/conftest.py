"""Plans on data sets that need no files, and run folders filled with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from crrl.data import Preprocessing
from crrl.errors import CrrlError
from crrl.reproduction import TARGETS, Settings, TargetName, make_plan
from crrl.reproduction.plan import Finder, Material, Plan, Run
from crrl.reproduction.results import HEADLINES


@pytest.fixture
def plan_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plans in which the data sets named are at hand, all others are not; nothing is read."""

    def make(name: TargetName, *at_hand: str, datasets: Sequence[str] = (), **settings: object) -> Plan:
        def look(self: Finder, dataset: str, split: str, steps: Preprocessing) -> Material:
            if dataset not in at_hand:
                raise CrrlError(f"no files of {dataset}")
            folds = ("validation-1", "validation-2") if dataset == "synthetic" else ()
            return Material(None, f"fingerprint of {dataset}", 100, {"all": 40, "clean": 30}, folds)

        monkeypatch.setattr(Finder, "_look", look)
        return make_plan(name, TARGETS[name], datasets or (), replace(Settings(), **settings))

    return make


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a finished run below tmp_path, evaluated as crrl.evaluate leaves it; returns tmp_path."""

    def make(run: Run, protocol: str, accuracy: float, random: float = 50.0, raw: float | None = None) -> Path:
        method, reading = run.config.method, HEADLINES[protocol]
        rows = {
            f"{method}, {reading}": {"all": accuracy, "clean": accuracy - 5},
            f"random encoder, {reading}": {"all": random, "clean": random - 1},
        }
        if raw is not None:  # files of before it was tested have none
            rows[f"raw, {reading}"] = {"all": raw, "clean": raw - 2}
        if protocol == "linear":  # the best epoch is 2 points above the last
            best = "best epoch on test"
            rows[f"{method}, {best}"] = {"all": accuracy + 2, "clean": accuracy - 3}
            rows[f"random encoder, {best}"] = {"all": random + 2, "clean": random + 1}
        folder = tmp_path / run.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.safetensors").touch()
        content = {"accuracy_percent": rows, "test_clips": {"all": 40, "clean": 30}}
        (folder / f"evaluation-{protocol}.json").write_text(json.dumps(content))
        return tmp_path

    return make
