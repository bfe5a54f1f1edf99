"""Known skeletons: the bones to draw, and which way is up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from crrl.data.clips import FloatArray, IntArray, Tree
from crrl.data.preprocessing import absent_joints

Bones = tuple[tuple[int, int], ...]

PROBED = 500
"""Frames, evenly spaced, from which a skeleton is recognised."""
SHORT = 0.6
"""The mean bone length of a matching skeleton is below this share of the mean distance between joints: 0.25 to 0.5 of
it in real recordings, at least 0.64 if the joints belong to another skeleton or are in another order.
"""


@dataclass(frozen=True)
class Skeleton:
    """The bones of a body.

    Attributes:
        name: what records such skeletons. joints: their number. bones: pairs of joints.
        base, head: joints at the hips and in the head, which show the way up; None: unknown.
    """

    name: str
    joints: int
    bones: Bones
    base: int | None = None
    head: int | None = None

    def twice(self) -> Skeleton:
        """Two such bodies side by side, as in clips of two people."""
        second = tuple((a + self.joints, b + self.joints) for a, b in self.bones)
        return Skeleton(f"two of {self.name}", 2 * self.joints, self.bones + second, self.base, self.head)


_CHAINS = {
    ("Kinect v1, hips first (NW-UCLA)", 20, 0, 3): "0-1-2-3 2-4-5-6-7 2-8-9-10-11 0-12-13-14-15 0-16-17-18-19",
    ("Kinect v1, head first (UTD-MHAD)", 20, 3, 0): "3-2-1-0 1-4-5-6-7 1-8-9-10-11 3-12-13-14-15 3-16-17-18-19",
    ("Kinect v2 (NTU RGB+D, PKU-MMD)", 25, 0, 3): (
        "0-1-20-2-3 20-4-5-6-7-21 7-22 20-8-9-10-11-23 11-24 0-12-13-14-15 0-16-17-18-19"
    ),
    ("Florence 3D", 15, 2, 0): "2-1-0 1-3-4-5 1-6-7-8 2-9-10-11 2-12-13-14",
    ("COCO", 17, 11, 0): "0-1-3 0-2-4 5-6 5-7-9 6-8-10 5-11-13-15 6-12-14-16 11-12",
    ("COCO with a neck (OpenPose)", 18, 8, 0): "1-0-14-16 0-15-17 1-2-3-4 1-5-6-7 1-8-9-10 1-11-12-13",
    ("BODY_25 (OpenPose)", 25, 8, 0): (
        "8-1-0-15-17 0-16-18 1-2-3-4 1-5-6-7 8-9-10-11-22-23 11-24 8-12-13-14-19-20 14-21"
    ),
    ("BlazePose (MediaPipe)", 33, 23, 0): (
        "0-1-2-3-7 0-4-5-6-8 9-10 11-12 11-13-15-17-19-15-21 12-14-16-18-20-16-22 "
        "11-23-24-12 23-25-27-29-31-27 24-26-28-30-32-28"
    ),
    ("CMU mocap", 31, 0, 16): (
        "0-1-2-3-4-5 0-6-7-8-9-10 0-11-12-13-14-15-16 13-17-18-19-20-21-22 20-23 13-24-25-26-27-28-29 27-30"
    ),
}
"""Name, joint count, base and head of each known skeleton; consecutive joints of its chains are bones."""
KNOWN = tuple(
    Skeleton(name, joints, tuple(bone for way in chains.split() for bone in pairwise(map(int, way.split("-")))), *ends)
    for (name, joints, *ends), chains in _CHAINS.items()
)


def skeleton_of(frames: FloatArray, tree: Tree | None) -> Skeleton:
    """The skeleton of frames [F, J, 3]: the tree of their files if there is one, else recognised.

    The head of a tree is the first joint with "head" in its name.
    """
    if tree is None:
        return recognise(frames)
    bones = tuple((parent, joint) for joint, parent in enumerate(tree.parents) if parent >= 0)
    head = next((joint for joint, name in enumerate(tree.names) if "head" in name.casefold()), None)
    return Skeleton("the files' own", len(tree.names), bones, 0, head)


def recognise(frames: FloatArray) -> Skeleton:
    """The known skeleton of J joints, or of two bodies of J/2, whose bones are the shortest in frames [F, J, 3].

    If none fits, or none has all its bones visible, the result has no bones, and its joints are drawn as points.
    """
    probed = frames[:: max(1, len(frames) // PROBED)]
    for bodies in (1, 2):
        fitting = {
            length: known
            for known in KNOWN
            if bodies * known.joints == frames.shape[1]
            and (length := _relative_length(probed[:, : known.joints], known.bones)) < SHORT
        }
        if fitting:
            best = fitting[min(fitting)]
            return best if bodies == 1 else best.twice()
    return Skeleton("unknown", frames.shape[1], ())


def _relative_length(frames: FloatArray, bones: Bones) -> float:
    """The mean bone length in frames [F, J, 3] over the mean distance of any two joints; NaN: none are visible."""
    pairs = np.argwhere(np.tri(frames.shape[1], k=-1))
    return _mean_distance(frames, np.array(bones)) / _mean_distance(frames, pairs)


def _mean_distance(frames: FloatArray, pairs: IntArray) -> float:
    """The mean distance of joint pairs [P, 2] over frames [F, J, 3], where both are present; NaN where none are."""
    one, other = frames[:, pairs[:, 0]], frames[:, pairs[:, 1]]
    there = ~(absent_joints(one) | absent_joints(other))
    distances = np.linalg.norm(one.astype(np.float64) - other, axis=2)[there]
    return float(distances.mean()) if len(distances) and distances.any() else float("nan")


def up_of(skeleton: Skeleton, frames: FloatArray) -> tuple[int, int] | None:
    """The axis (0 to 2) that points up, and its sign: along it the head is farthest from the hips in frames [F, J, 3].

    None: the skeleton's hips or head are unknown or never visible.
    """
    if skeleton.base is None or skeleton.head is None:
        return None
    base, head = frames[:, skeleton.base], frames[:, skeleton.head]
    seen = ~absent_joints(np.stack([base, head], axis=1)).any(axis=1)
    rise = (head[seen].astype(np.float64) - base[seen]).sum(axis=0)
    if not rise.any():
        return None
    axis = int(np.abs(rise).argmax())
    return axis, int(np.sign(rise[axis]))
