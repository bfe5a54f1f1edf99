"""Clips as a page has them: upright, and a byte a coordinate."""

from __future__ import annotations

import base64
from itertools import product

import numpy as np
import pytest

from crrl.data.clips import FloatArray
from crrl.data.skeletons import Skeleton
from crrl.reporting.motion import ABSENT, MOST_FRAMES, STEPS, pack, upright

BODY = Skeleton("a body", 4, ((0, 1), (1, 2)))


def unpacked(packed: dict) -> np.ndarray:
    """The frames of all clips, [ΣT, J, 3]."""
    return np.frombuffer(base64.b64decode(packed["frames"]), np.int8).reshape(-1, packed["joints"], 3)


def clip(frames: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(frames, 4, 3)).astype(np.float32)


@pytest.mark.parametrize(("axis", "sign"), [*product(range(3), (1, -1))])
def test_upright_is_a_rotation_that_turns_the_axis_up(axis: int, sign: int) -> None:
    turned, labels = upright(np.eye(3, dtype=np.float32), (axis, sign))
    assert np.linalg.det(turned) == pytest.approx(1)
    assert turned[axis, 1] == sign
    assert labels[1] == ("-" if sign < 0 else "") + "xyz"[axis]
    for place, label in enumerate(labels):
        assert turned["xyz".index(label[-1]), place] == (-1 if label[0] == "-" else 1)


def test_coordinates_are_whole_steps_of_each_clips_own_range() -> None:
    clips = [clip(5), 100 + 50 * clip(9, seed=1)]
    packed = pack(clips, BODY)
    assert packed["lengths"] == [5, 9]
    assert packed["bones"] == [[0, 1], [1, 2]]
    for own, steps in zip(clips, np.split(unpacked(packed).astype(float), [5]), strict=True):
        middle = (own.min((0, 1)) + own.max((0, 1))) / 2
        half = np.ptp(own, (0, 1)).max() / 2
        np.testing.assert_allclose(steps / STEPS * half + middle, own, atol=0.51 * half / STEPS)


def test_long_clips_keep_their_first_and_last_frame_and_few_between() -> None:
    own = clip(200)
    packed = pack([own, clip(3)], BODY)
    assert packed["lengths"] == [MOST_FRAMES, 3]
    steps = unpacked(packed)[:MOST_FRAMES]
    kept = np.rint(np.linspace(0, 199, MOST_FRAMES)).astype(int)
    np.testing.assert_array_equal(steps[[0, -1]], unpacked(pack([own[kept], clip(3)], BODY))[[0, MOST_FRAMES - 1]])


def test_missing_joints_are_marked_and_do_not_count() -> None:
    own = 5 + clip(6)
    own[2, 3] = own[:, 1] = 0
    steps = unpacked(pack([own], BODY))
    assert (steps == ABSENT).all(2).sum() == 7
    assert np.abs(steps[steps != ABSENT].astype(int)).max() == STEPS
    assert (unpacked(pack([np.zeros((2, 4, 3), np.float32)], BODY)) == ABSENT).all()


def test_one_clip_may_be_shown_in_the_scale_of_another() -> None:
    own = clip(6)
    half = unpacked(pack([own / 2], BODY, like=[own]))
    assert 50 < np.abs(half.astype(int)).max() < 90
    far = unpacked(pack([own * 9], BODY, like=[own]))
    assert (far.min(), far.max()) == (-STEPS, STEPS)
