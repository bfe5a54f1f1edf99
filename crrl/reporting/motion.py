"""Clips in the compact form in which a page draws them: turned upright, thinned out, a byte a coordinate."""

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
"""Frames that a page keeps of a clip, evenly spaced."""
STEPS = 127
"""A clip's larger half range is so many steps of a coordinate."""
ABSENT = -128
"""All three coordinates of a joint that is missing."""
AXES = "xyz"

# By which axes, with their signs, right, up and towards the eye are shown: proper rotations, for each axis that is up.
_UPRIGHT: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (0, 1): ((1, -1), (0, 1), (2, 1)),
    (0, -1): ((1, 1), (0, -1), (2, 1)),
    (1, 1): ((0, 1), (1, 1), (2, 1)),
    (1, -1): ((0, 1), (1, -1), (2, -1)),
    (2, 1): ((0, 1), (2, 1), (1, -1)),
    (2, -1): ((0, 1), (2, -1), (1, 1)),
}


def upright(frames: FloatArray, up: tuple[int, int] | None) -> tuple[FloatArray, tuple[str, str, str]]:
    """Frames [F, J, 3] turned so that y is up, and what their three axes were called before, as ("x", "z", "-y").

    Args:
        up: the axis that points up, with its sign, as `up_of` has it; None: not known, y is taken for it.
    """
    axes = _UPRIGHT[up or (1, 1)]
    turned = np.stack([sign * frames[..., axis] for axis, sign in axes], axis=-1)
    right, above, near = (("-" if sign < 0 else "") + AXES[axis] for axis, sign in axes)
    return turned, (right, above, near)


def pack(clips: Sequence[FloatArray], skeleton: Skeleton, like: Sequence[FloatArray] | None = None) -> dict[str, Any]:
    """Upright clips, each [T, J, 3], for JSON: each in its own isotropic scale, at most MOST_FRAMES frames of it.

    Args:
        like: clips by whose scales these are shown; None: each by its own.

    Returns:
        joints, bones, the length of each clip, and all frames in turn, int8 in base64.
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
    """A clip [T, J, 3] as whole steps from the middle of the range of `like`, ABSENT where a joint is missing."""
    absent = absent_joints(clip)
    shown = like[~absent_joints(like)].reshape(-1, 3)
    if not len(shown):
        return np.full(clip.shape, ABSENT, np.int8)
    low, high = shown.min(axis=0), shown.max(axis=0)
    half = float((high - low).max()) / 2 or 1.0
    steps = np.rint((clip - (low + high) / 2) / half * STEPS).clip(-STEPS, STEPS)
    return np.where(absent[:, :, None], ABSENT, steps).astype(np.int8)
