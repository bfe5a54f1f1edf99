"""Forward kinematics over all frames at once, shared by the readers of ASF/AMC and BVH."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crrl.data.clips import FloatArray, mark_present
from crrl.errors import CrrlError

Matrix = npt.NDArray[np.float64]

PIECE = 1 << 17
"""Joints times frames whose positions are computed at a time; each takes some 300 bytes."""
MOST_JOINTS = 1000
SPARSE = 1 << 16
"""Joints times frames that a file may have beyond its size in bytes: joints that do not move take no bytes."""
SAME_RATE = 1.01
"""Frame rates within this factor count as the same, as 29.97 and 30 do."""


def euler_rotation(angles: Matrix, axes: str) -> Matrix:
    """Rotations about fixed axes, one after the other: angles [..., K] in radians, `axes` as "xyz" (about x first).

    The result, [..., 3, 3], multiplies column vectors from the left. Rotations about axes that turn with the body are
    the same in reverse order.
    """
    total = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for place, axis in enumerate("xyz".index(name) for name in axes):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.zeros(total.shape)
        rotation[..., axis, axis] = 1
        rotation[..., first, first] = rotation[..., second, second] = np.cos(angles[..., place])
        rotation[..., second, first] = np.sin(angles[..., place])
        rotation[..., first, second] = -rotation[..., second, first]
        total = rotation @ total
    return total


def in_pieces(place: Callable[[Matrix], FloatArray], motion: Matrix, joints: int) -> FloatArray:
    """place(motion), float32 [T, J, 3] of a motion [T, D], computed some frames at a time."""
    step = max(1, PIECE // joints)
    return np.concatenate([place(motion[first : first + step]) for first in range(0, len(motion), step)])


def check_size(path: Path, joints: int, frames: int) -> None:
    """Raise if there are too many joints for a body, or more joints and frames than the file `path` can hold."""
    if joints > MOST_JOINTS:
        raise CrrlError(f"{path} has more than {MOST_JOINTS} joints: this is no body; give another file")
    if joints * frames > SPARSE and joints * frames > path.stat().st_size + SPARSE:
        raise CrrlError(
            f"{path}: {joints} joints in {frames} frames are more than so small a file can move: take out those that "
            f"do not move, or restore the file"
        )


def warn_of_rates(rates: Sequence[tuple[Path, float]]) -> None:
    """Warn if files differ in frames a second, because then their velocities (Eq. 2) cannot be compared."""
    groups: list[list[tuple[Path, float]]] = []
    for path, rate in sorted(rates, key=lambda item: item[1]):  # of equal rates the first file stays first
        if groups and rate <= SAME_RATE * groups[-1][0][1]:
            groups[-1].append((path, rate))
        else:
            groups.append([(path, rate)])
    if len(groups) > 1:
        listed = ", ".join(f"{group[0][1]:.4g} in {len(group)} ({group[0][0]}, ...)" for group in groups[:5])
        warnings.warn(
            f"files differ in frames a second, {listed}: velocities (Eq. 2) do not compare; resample them to one rate",
            stacklevel=2,
        )


def joint_positions(parents: Sequence[int], rotations: Matrix, shifts: Matrix) -> FloatArray:
    """The positions of the joints, float32 [T, J, 3].

    Args:
        parents: the parent of each joint, which comes before it; -1 for the root, the first.
        rotations: [T, J, 3, 3], of each joint relative to its parent. shifts: [T, J, 3], from the parent in the
            parent's axes; the root's in space.
    """
    turned = rotations.copy()
    positions = shifts.copy()
    for joint, parent in enumerate(parents):
        if parent >= 0:
            turned[:, joint] = turned[:, parent] @ rotations[:, joint]
            positions[:, joint] = positions[:, parent] + apply_rotation(turned[:, parent], shifts[:, joint])
    frames = positions.astype(np.float32)
    mark_present(frames, np.ones(frames.shape[:2], bool))
    return frames


def apply_rotation(rotations: Matrix, vectors: Matrix) -> Matrix:
    """rotations [..., 3, 3] times vectors [..., 3]."""
    return np.asarray((rotations @ vectors[..., None])[..., 0])
