"""Known skeletons: the bones by which clips are drawn, and which way is up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from crrl.data.clips import FloatArray, IntArray, Tree
from crrl.data.preprocessing import absent_joints

Bones = tuple[tuple[int, int], ...]

PROBED = 500
"""Frames by which a skeleton is recognised, evenly spaced over those that are given."""
SHORT = 0.6
"""Bones are shorter, in the mean, than so much of the mean distance between any two joints: 0.25 to 0.5 of it on real
recordings, 0.64 and more where the joints are another skeleton's, or in another order."""


@dataclass(frozen=True)
class Skeleton:
    """How the joints of a body hang together.

    Attributes:
        name: what records such skeletons. joints: how many there are. bones: pairs of joints.
        base, head: the joints, at the hips and in the head, that tell which way is up; None: not known.
    """

    name: str
    joints: int
    bones: Bones
    base: int | None = None
    head: int | None = None

    def twice(self) -> Skeleton:
        """Two such bodies side by side, as clips of two people have them."""
        second = tuple((a + self.joints, b + self.joints) for a, b in self.bones)
        return Skeleton(f"two of {self.name}", 2 * self.joints, self.bones + second, self.base, self.head)


def _known(name: str, joints: int, base: int, head: int, chains: str) -> Skeleton:
    """A skeleton from chains of joints, each a bone from one to the next."""
    ways = [[int(joint) for joint in chain.split("-")] for chain in chains.split()]
    return Skeleton(name, joints, tuple(pair for way in ways for pair in pairwise(way)), base, head)


KNOWN = (
    _known(
        *("Kinect v1, hips first (NW-UCLA)", 20, 0, 3),
        "0-1-2-3 2-4-5-6-7 2-8-9-10-11 0-12-13-14-15 0-16-17-18-19",
    ),
    _known(
        *("Kinect v1, head first (UTD-MHAD)", 20, 3, 0),
        "3-2-1-0 1-4-5-6-7 1-8-9-10-11 3-12-13-14-15 3-16-17-18-19",
    ),
    _known(
        *("Kinect v2 (NTU RGB+D, PKU-MMD)", 25, 0, 3),
        "0-1-20-2-3 20-4-5-6-7-21 7-22 20-8-9-10-11-23 11-24 0-12-13-14-15 0-16-17-18-19",
    ),
    _known("Florence 3D", 15, 2, 0, "2-1-0 1-3-4-5 1-6-7-8 2-9-10-11 2-12-13-14"),
    _known("COCO", 17, 11, 0, "0-1-3 0-2-4 5-6 5-7-9 6-8-10 5-11-13-15 6-12-14-16 11-12"),
    _known("COCO with a neck (OpenPose)", 18, 8, 0, "1-0-14-16 0-15-17 1-2-3-4 1-5-6-7 1-8-9-10 1-11-12-13"),
    _known(
        *("BODY_25 (OpenPose)", 25, 8, 0),
        "8-1-0-15-17 0-16-18 1-2-3-4 1-5-6-7 8-9-10-11-22-23 11-24 8-12-13-14-19-20 14-21",
    ),
    _known(
        *("BlazePose (MediaPipe)", 33, 23, 0),
        "0-1-2-3-7 0-4-5-6-8 9-10 11-12 11-13-15-17-19-15-21 12-14-16-18-20-16-22 "
        "11-23-24-12 23-25-27-29-31-27 24-26-28-30-32-28",
    ),
    _known(
        *("CMU mocap", 31, 0, 16),
        "0-1-2-3-4-5 0-6-7-8-9-10 0-11-12-13-14-15-16 13-17-18-19-20-21-22 20-23 13-24-25-26-27-28-29 27-30",
    ),
)


def skeleton_of(frames: FloatArray, tree: Tree | None) -> Skeleton:
    """What frames [F, J, 3] show: the tree that their files say, whose head is the first joint that is called so; else
    what is recognised.
    """
    if tree is None:
        return recognise(frames)
    bones = tuple((parent, joint) for joint, parent in enumerate(tree.parents) if parent >= 0)
    head = next((joint for joint, name in enumerate(tree.names) if "head" in name.casefold()), None)
    return Skeleton("the files' own", len(tree.names), bones, 0, head)


def recognise(frames: FloatArray) -> Skeleton:
    """Which skeleton frames [F, J, 3] show: of the known ones of J joints, or twice J/2, that with the shortest bones.

    Where none fits, or none shows all its bones, it is one without bones, whose joints are drawn as points.
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
    """The mean length of bones in frames [F, J, 3], against the mean distance of any two joints; NaN: none are seen."""
    pairs = np.argwhere(np.tri(frames.shape[1], k=-1))
    return _mean_distance(frames, np.array(bones)) / _mean_distance(frames, pairs)


def _mean_distance(frames: FloatArray, pairs: IntArray) -> float:
    """Of joints [P, 2] in frames [F, J, 3] that both are there; NaN where none are."""
    one, other = frames[:, pairs[:, 0]], frames[:, pairs[:, 1]]
    there = ~(absent_joints(one) | absent_joints(other))
    distances = np.linalg.norm(one.astype(np.float64) - other, axis=2)[there]
    return float(distances.mean()) if len(distances) and distances.any() else float("nan")


def up_of(skeleton: Skeleton, frames: FloatArray) -> tuple[int, int] | None:
    """The axis (0 to 2) that points up, with its sign: the one along which the head is farthest from the hips in frames
    [F, J, 3], in the mean. None: the skeleton's hips and head are not known, or never seen.
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
