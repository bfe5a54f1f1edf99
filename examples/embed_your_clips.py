"""Vectors of your own clips from a trained encoder, and which clip is most like which.

    python examples/embed_your_clips.py RUN a.npy b.npy c.json ...

A clip is an array [frames, joints, 3] (.npy), or what a pose estimator wrote (.json of COCO's joints, .csv of
MediaPipe's, a folder of OpenPose's), of the joints that RUN was trained on. No labels are needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tyro

import crrl
from crrl.data import coco, folder, mediapipe, openpose
from crrl.data.clips import FloatArray
from crrl.errors import CrrlError, run_command

READERS = {".npy": folder.read_clip, ".json": coco.read_clip, ".csv": mediapipe.read_clip, "": openpose.read_clip}


def read(path: Path) -> FloatArray:
    """A clip, [T, J, 3]."""
    if path.suffix not in READERS:
        raise CrrlError(f"{path} is no clip: give .npy, .json, .csv, or a folder of OpenPose's files")
    return READERS[path.suffix](path)


def main(arguments: list[str] | None = None) -> int:
    """Print each clip's nearest other clip, by cosine."""
    run, *clips = tyro.cli(tyro.conf.Positional[tuple[Path, ...]], args=arguments)
    if len(clips) < 2:
        raise CrrlError("give two clips at least: each is compared with the others")
    features = crrl.load(run).embed([read(path) for path in clips])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    likeness = features @ features.T
    np.fill_diagonal(likeness, -1)
    print(f"{len(clips)} clips, {features.shape[1]} features each")
    for path, row in zip(clips, likeness, strict=True):
        print(f"{path}  is most like  {clips[row.argmax()]}  ({row.max():.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
