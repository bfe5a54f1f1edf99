"""A small data set of a user's own clips, and the options that train on it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 clips of 1 to 14 frames, 5 joints, 2 classes; 40 of them train."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for i in range(50):
        walk = rng.normal(size=(1 + i % 14, 5, 3)).cumsum(axis=0) + 3 * (i % 2)
        np.save(folder / f"{i:02}.npy", walk.astype(np.float32))
        lines.append(f"{i:02}.npy,{'left' if i % 2 else 'right'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def options(clip_folder: Path) -> list[str]:
    """5 steps an epoch, 3 epochs of CML and 2 of SER, checkpoints in mid-epoch."""
    return [
        *("--dataset", "folder", "--data", str(clip_folder), "--device", "cpu"),
        *("--batch-size", "8", "--hidden-size", "8", "--queue-size", "12", "--checkpoint-every", "3"),
        *("--epochs-cml", "3", "--epochs-ser", "2"),
    ]
