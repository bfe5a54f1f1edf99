"""Folders of made-up clips of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_clips(
    folder: Path, labels: Sequence[object], frames: int = 6, joints: int = 5, **columns: Sequence[object]
) -> Path:
    """N.npy for each label, float32 [frames, joints, 3] drawn by its number, and labels.csv with these columns more."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(["file", "label", *columns])]
    for number, values in enumerate(zip(labels, *columns.values(), strict=True)):
        clip = np.random.default_rng(number).normal(size=(frames, joints, 3))
        np.save(folder / f"{number}.npy", clip.astype(np.float32))
        lines.append(",".join(map(str, (f"{number}.npy", *values))))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_walks(folder: Path) -> Path:
    """50 clips of 1 to 14 frames, 5 joints, 2 classes; 40 of them train."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for i in range(50):
        walk = rng.normal(size=(1 + i % 14, 5, 3)).cumsum(axis=0) + 3 * (i % 2)
        np.save(folder / f"{i:02}.npy", walk.astype(np.float32))
        lines.append(f"{i:02}.npy,{'left' if i % 2 else 'right'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
