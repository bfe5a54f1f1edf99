"""Vectors of your own clips from a trained encoder, and which clip is most like which.

    python examples/embed_your_clips.py RUN a.npy b.npy c.json ...

A clip is an array [frames, joints, 3] (.npy), or what a pose estimator wrote (.json of COCO's joints, .csv of
MediaPipe's, a folder of OpenPose's frames), of the joints that RUN was trained on. No labels are needed. The command
crrl.embed writes such vectors to a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tyro
from crrl.data.clip_files import find_clip_files, read_clip_file

import crrl
from crrl.errors import CrrlError, run_command


def main(arguments: list[str] | None = None) -> int:
    """Print each clip's nearest other clip, by cosine."""
    run, *given = tyro.cli(tyro.conf.Positional[tuple[Path, ...]], args=arguments)
    clips = find_clip_files(given)
    if len(clips) < 2:
        raise CrrlError("give two clips at least: each is compared with the others")
    encoder = crrl.load(run)
    features = encoder.embed(read_clip_file(path, encoder.preprocessor.num_joints) for path in clips)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    likeness = features @ features.T
    np.fill_diagonal(likeness, -1)
    print(f"{len(clips)} clips, {features.shape[1]} features each")
    for path, row in zip(clips, likeness, strict=True):
        print(f"{path}  is most like  {clips[row.argmax()]}  ({row.max():.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
