"""Rotations and chains of them, against worked examples; the readers' tests hold them against scalar models."""

from __future__ import annotations

import numpy as np
import pytest

from crrl.data.readers.kinematics import apply_rotation, euler_rotation, joint_positions

QUARTER = np.pi / 2


@pytest.mark.parametrize(
    ("axes", "start", "end"), [("x", [0, 1, 0], [0, 0, 1]), ("y", [0, 0, 1], [1, 0, 0]), ("z", [1, 0, 0], [0, 1, 0])]
)
def test_a_quarter_turn_is_right_handed(axes: str, start: list[int], end: list[int]) -> None:
    rotation = euler_rotation(np.array([[QUARTER]]), axes)
    np.testing.assert_allclose(apply_rotation(rotation, np.array([start], float)), [end], atol=1e-15)


def test_the_axis_named_first_turns_first() -> None:
    rotation = euler_rotation(np.array([QUARTER, QUARTER]), "xy")
    np.testing.assert_allclose(apply_rotation(rotation, np.array([0.0, 1.0, 0.0])), [1, 0, 0], atol=1e-15)


def test_no_angles_are_no_rotation() -> None:
    np.testing.assert_array_equal(euler_rotation(np.zeros((5, 0)), ""), np.tile(np.eye(3), (5, 1, 1)))


def test_rotations_are_orthogonal() -> None:
    rotations = euler_rotation(np.random.default_rng(0).uniform(-4, 4, size=(7, 3)), "zxy")
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (7, 1, 1)), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_a_chain_adds_up_its_turns_and_leaves_its_arguments_alone() -> None:
    rotations = euler_rotation(np.full((1, 3, 1), QUARTER), "z")
    shifts = np.array([[[5.0, 0, 0], [1, 0, 0], [1, 0, 0]]])
    kept = rotations.copy(), shifts.copy()
    np.testing.assert_allclose(
        joint_positions([-1, 0, 1], rotations, shifts), [[[5, 0, 0], [5, 1, 0], [4, 1, 0]]], atol=1e-6
    )
    np.testing.assert_array_equal(rotations, kept[0])
    np.testing.assert_array_equal(shifts, kept[1])
