"""What somebody does before a camera, or in a video, named while it goes on.

    pip install crrl[webcam]
    python examples/webcam.py RUN                # the first camera
    python examples/webcam.py RUN --video a.mp4

RUN was trained on skeletons of the `coco` reader and evaluated by --protocol linear, which leaves a classifier there:

    python -m crrl.prepare coco --data RECORDINGS --out clips
    python -m crrl.train --dataset prepared --data clips --recipe tuned --fused --out RUN
    python -m crrl.evaluate RUN --protocol linear

Frames come one at a time and are let go; what is carried on is the joints of the last few seconds. rtmlib fetches the
weights of its pose estimator when it is first used.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import crrl
from crrl.data import coco, poses
from crrl.data.clips import FloatArray
from crrl.errors import CrrlError, run_command


@dataclass(frozen=True)
class Options:
    """Name the action in each window of a video, or of what a camera sees."""

    run: tyro.conf.Positional[Path]
    """Run folder, with its classifier."""
    video: str = "0"
    """A file, or the number of a camera."""
    window: float = 2.0
    """Seconds that are looked at, as many as a training clip has."""
    hop: float = 0.5
    """Seconds from one answer to the next."""


def see(video: str) -> Iterator[tuple[float, poses.Frame]]:
    """Frames a second, and the people in each frame, one frame after the other.

    Raises:
        CrrlError: rtmlib is not there, or the video cannot be opened.
    """
    try:
        import cv2
        import rtmlib
    except ImportError as error:
        raise CrrlError(f"{error.name} is not installed: pip install crrl[webcam]") from error
    camera = cv2.VideoCapture(int(video) if video.isdecimal() else video)
    if not camera.isOpened():
        raise CrrlError(f"{video} cannot be opened: give a video, or the number of a camera")
    estimate = rtmlib.PoseTracker(rtmlib.Body, mode="lightweight", tracking=False, to_openpose=False)
    rate = camera.get(cv2.CAP_PROP_FPS) or 30.0
    while True:
        there, picture = camera.read()
        if not there:
            return
        keypoints, scores = estimate(picture)
        yield rate, coco.frame_of([np.asarray(keypoints).tolist(), np.asarray(scores).tolist()], video)


@dataclass
class Windows:
    """The last `size` frames, as a clip every `hop` frames.

    Attributes:
        bodies: 1 or 2, laid side by side.
    """

    size: int
    hop: int
    bodies: int

    def __post_init__(self) -> None:
        self.frames: deque[poses.Frame] = deque(maxlen=self.size)
        self.count = 0

    def add(self, frame: poses.Frame) -> FloatArray | None:
        """The clip [T, bodies·17, 3] that this frame completes; T is 0 where it shows nobody; None: none yet."""
        self.frames.append(frame)
        self.count += 1
        if self.count < self.size or (self.count - self.size) % self.hop:
            return None
        return poses.clip_of(list(self.frames), self.bodies)


def name(encoder: Any, clip: FloatArray) -> str:
    """The most probable action, in words."""
    if not len(clip):
        return "nobody"
    ((label, probability),) = encoder.predict([clip]).top(1)[0]
    return f"{label} ({probability:.0%})"


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each window."""
    options = tyro.cli(Options, args=arguments)
    encoder = crrl.load(options.run)
    bodies, rest = divmod(encoder.preprocessor.num_joints, coco.NUM_JOINTS)
    if rest or bodies not in (1, poses.BODIES):
        raise CrrlError(f"{options.run} was trained on {encoder.preprocessor.num_joints} joints, not COCO's 17 (or 34)")
    windows = None
    for rate, frame in see(options.video):
        windows = windows or Windows(max(2, round(options.window * rate)), max(1, round(options.hop * rate)), bodies)
        clip = windows.add(frame)
        if clip is not None:
            print(f"{windows.count / rate:7.1f} s  {name(encoder, clip)}", flush=True)
    if windows is None or windows.count < windows.size:
        raise CrrlError(f"{options.video} is over before a window of {options.window:g} s: give a shorter --window")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
