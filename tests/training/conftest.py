"""The options that train on a small data set of a user's own clips in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crrl.training import loop


@pytest.fixture
def options(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """5 steps an epoch, 3 epochs of CML and 2 of SER, checkpoints in mid-epoch (of this process)."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
    return [
        *("--dataset", "folder", "--data", str(clip_folder), "--device", "cpu", "--recipe", "paper"),
        *("--batch-size", "8", "--hidden-size", "8", "--queue-size", "12"),
        *("--epochs-cml", "3", "--epochs-ser", "2", "--no-fused", "--no-evaluate"),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """undisturbed(options): a run of these options that nothing stopped, trained once; not to be written to."""
    from crrl import train

    made: dict[tuple[str, ...], Path] = {}

    def run(options: list[str]) -> Path:
        if tuple(options) not in made:
            made[tuple(options)] = tmp_path_factory.mktemp("undisturbed") / "run"
            train.main([*options, "--out", str(made[tuple(options)])])
        return made[tuple(options)]

    return run
