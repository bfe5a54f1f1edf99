"""The compact form of clips that a page draws: turned upright, with fewer frames and one byte per coordinate."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import FloatArray
from crrl.data.preprocessing import absent_joints, downsample
from crrl.data.skeletons import Skeleton

MOST_FRAMES = 32
"""A page keeps at most so many frames of a clip, evenly spaced."""
STEPS = 127
"""Steps of a packed coordinate in half the largest range of a clip's axes."""
ABSENT = -128
"""The packed coordinates of a missing joint."""
AXES = "xyz"

# By the axis and sign that point up: the axes and signs shown as right, up and towards the eye; proper rotations.
_UPRIGHT: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (0, 1): ((1, -1), (0, 1), (2, 1)),
    (0, -1): ((1, 1), (0, -1), (2, 1)),
    (1, 1): ((0, 1), (1, 1), (2, 1)),
    (1, -1): ((0, 1), (1, -1), (2, -1)),
    (2, 1): ((0, 1), (2, 1), (1, -1)),
    (2, -1): ((0, 1), (2, -1), (1, 1)),
}


def upright(frames: FloatArray, up: tuple[int, int] | None) -> tuple[FloatArray, tuple[str, str, str]]:
    """Frames [F, J, 3] turned so that y is up, and the former names of their axes, such as ("x", "z", "-y").

    Args:
        up: the axis that points up, and its sign, as `up_of` gives them; None: unknown, y is assumed.
    """
    axes = _UPRIGHT[up or (1, 1)]
    turned = np.stack([sign * frames[..., axis] for axis, sign in axes], axis=-1)
    right, above, near = (("-" if sign < 0 else "") + AXES[axis] for axis, sign in axes)
    return turned, (right, above, near)


def pack(clips: Sequence[FloatArray], skeleton: Skeleton, like: Sequence[FloatArray] | None = None) -> dict[str, Any]:
    """Upright clips, each [T, J, 3], for JSON: at most MOST_FRAMES frames of each, at one scale for all its axes.

    Args:
        like: clips that give the scale and middle of each of `clips`; None: the clips themselves.

    Returns:
        "joints" and "bones"; "lengths", the frames of each clip; "frames", those of all clips, int8 in base64.
    """
    lengths = [len(clip) for clip in clips]
    frames, offsets = downsample(
        np.concatenate(clips), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), MOST_FRAMES
    )
    thinned = [frames[first:last] for first, last in pairwise(offsets)]
    pieces = [_steps(*pair) for pair in zip(thinned, like or thinned, strict=True)]
    return {
        "joints": skeleton.joints,
        "bones": [list(bone) for bone in skeleton.bones],
        "lengths": np.diff(offsets).tolist(),
        "frames": base64.b64encode(np.concatenate(pieces).tobytes()).decode(),
    }


def _steps(clip: FloatArray, like: FloatArray) -> npt.NDArray[np.int8]:
    """A clip [T, J, 3] in whole steps from the middle of the range of `like`; ABSENT for missing joints."""
    absent = absent_joints(clip)
    shown = like[~absent_joints(like)].reshape(-1, 3)
    if not len(shown):
        return np.full(clip.shape, ABSENT, np.int8)
    low, high = shown.min(axis=0), shown.max(axis=0)
    half = float((high - low).max()) / 2 or 1.0
    steps = np.rint((clip - (low + high) / 2) / half * STEPS).clip(-STEPS, STEPS)
    return np.where(absent[:, :, None], ABSENT, steps).astype(np.int8)
