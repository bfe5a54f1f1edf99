"""Forward kinematics, over all frames at once: what the readers of ASF/AMC and of BVH share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crrl.data.clips import FloatArray, mark_present

Matrix = npt.NDArray[np.float64]


def euler_rotation(angles: Matrix, axes: str) -> Matrix:
    """Rotations about fixed axes, one after the other: angles [..., K] in radians, `axes` as "xyz" (about x first).

    The result, [..., 3, 3], multiplies column vectors from the left. About axes that turn along with the body, the same
    rotation has the reverse order.
    """
    total = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for place, axis in enumerate(axes):
        total = _axis_rotation(angles[..., place], "xyz".index(axis)) @ total
    return total


def _axis_rotation(angle: Matrix, axis: int) -> Matrix:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((*angle.shape, 3, 3))
    rotation[..., axis, axis] = 1
    rotation[..., first, first] = rotation[..., second, second] = np.cos(angle)
    rotation[..., second, first] = np.sin(angle)
    rotation[..., first, second] = -np.sin(angle)
    return rotation


def joint_positions(parents: Sequence[int], rotations: Matrix, shifts: Matrix) -> FloatArray:
    """Where the joints are, float32 [T, J, 3].

    Args:
        parents: the parent of each joint, -1 for the root, which comes first; a parent comes before its children.
        rotations: [T, J, 3, 3], of each joint against its parent. shifts: [T, J, 3], from the parent's joint, in the
            parent's axes (the root: in space).
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
    product: Matrix = (rotations @ vectors[..., None])[..., 0]
    return product
