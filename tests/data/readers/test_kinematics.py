"""Rotations and chains of them, against worked examples; the readers' tests hold them against scalar models."""

from __future__ import annotations

import numpy as np

from crrl.data.readers.kinematics import euler_rotation, joint_positions

QUARTER = np.pi / 2


def test_no_angles_are_no_rotation() -> None:
    np.testing.assert_array_equal(euler_rotation(np.zeros((5, 0)), ""), np.tile(np.eye(3), (5, 1, 1)))


def test_a_chain_adds_up_its_turns_and_leaves_its_arguments_alone() -> None:
    rotations = euler_rotation(np.full((1, 3, 1), QUARTER), "z")
    shifts = np.array([[[5.0, 0, 0], [1, 0, 0], [1, 0, 0]]])
    kept = rotations.copy(), shifts.copy()
    np.testing.assert_allclose(
        joint_positions([-1, 0, 1], rotations, shifts), [[[5, 0, 0], [5, 1, 0], [4, 1, 0]]], atol=1e-6
    )
    np.testing.assert_array_equal(rotations, kept[0])
    np.testing.assert_array_equal(shifts, kept[1])
