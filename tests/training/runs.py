"""What runs have kept, and how a test stops one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crrl.training.ranks import Share
from crrl.training.step import Step


def metrics(run: Path) -> list[dict[str, float | str]]:
    """The lines of metrics.jsonl without the speed, which differs from run to run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "clips_per_second"} for record in records]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs have the same encoder to the bit."""
    weights, others = (load_file(run / "encoder.safetensors") for run in (one, other))
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, stop: Callable[[], object]) -> None:
    """Call `stop` before the step of this number that this process makes from now on."""
    original, made = Step.__call__, []

    def step(self: Step, share: Share, full: bool) -> None:
        made.append(1)
        if len(made) == steps:
            stop()
        original(self, share, full)

    monkeypatch.setattr(Step, "__call__", step)
