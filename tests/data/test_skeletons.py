"""Known skeletons, told by their bones; and which way is up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import FloatArray, Tree
from crrl.data.readers import asf, cmu, synthetic
from crrl.data.readers.folder import read_clip
from crrl.data.skeletons import KNOWN, Skeleton, recognise, skeleton_of, up_of

HIPS_FIRST = [0, 1, 20, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
HEAD_FIRST = [3, 20, 1, 0, *HIPS_FIRST[4:]]
"""Joints of Kinect v2 in the two orders of Kinect v1."""


@pytest.fixture(scope="module")
def body() -> FloatArray:
    """Frames [F, 25, 3] of a body that moves, y up."""
    return synthetic.generate().frames[::40]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_every_joint_of_a_known_skeleton_hangs_on_another(known: Skeleton) -> None:
    assert {joint for bone in known.bones for joint in bone} == set(range(known.joints))
    assert all(one != other for one, other in known.bones)
    assert len(set(map(frozenset, known.bones))) == len(known.bones)
    assert {known.base, known.head} <= set(range(known.joints))


def test_skeletons_of_one_joint_count_are_told_apart_by_their_bones(body: FloatArray) -> None:
    assert "Kinect v2" in recognise(body).name
    assert "hips first" in recognise(body[:, HIPS_FIRST]).name
    assert "head first" in recognise(body[:, HEAD_FIRST]).name


def test_two_bodies_side_by_side_are_recognised_also_where_the_second_is_absent(body: FloatArray) -> None:
    for second in (body + 1, np.zeros_like(body)):
        both = recognise(np.concatenate([body, second], axis=1))
        assert both.name.startswith("two of Kinect v2")
        assert both.joints == 50
        assert both.bones[24:] == tuple((a + 25, b + 25) for a, b in both.bones[:24])


def test_joints_in_another_order_are_points(body: FloatArray) -> None:
    mixed = np.random.default_rng(3).permutation(25)
    assert recognise(body[:, mixed]).bones == ()
    assert recognise(body[:, :7]).bones == ()
    assert recognise(np.zeros((4, 25, 3), np.float32)).bones == ()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_up_is_from_hips_to_head(body: FloatArray, axis: int, sign: int) -> None:
    turned = sign * np.roll(body, axis - 1, axis=2)
    assert up_of(recognise(turned), turned) == (axis, sign)


def test_up_is_not_known_without_hips_and_head(body: FloatArray) -> None:
    assert up_of(recognise(body[:, :7]), body[:, :7]) is None
    hidden = body.copy()
    hidden[:, 3] = 0
    assert up_of(recognise(body), hidden) is None


def test_a_file_that_says_its_tree_has_a_head_by_name() -> None:
    tree = Tree(("Hips", "Spine", "HeadTop", "Knee"), (-1, 0, 1, 0))
    found = skeleton_of(np.ones((1, 4, 3), np.float32), tree)
    assert found.bones == ((0, 1), (1, 2), (0, 3))
    assert (found.base, found.head) == (0, 2)


def test_without_a_tree_a_skeleton_is_recognised(body: FloatArray) -> None:
    assert skeleton_of(body, None) == recognise(body)


def test_cmus_bones_are_those_of_its_files(real_data: Path) -> None:
    path = next((real_data / "cmu" / "amc").rglob("*.asf"), None)
    if path is None:
        pytest.skip("needs CMU's files")
    body = asf.read_skeleton(path)
    own = {
        frozenset((cmu.JOINTS.index(body.names[parent]), cmu.JOINTS.index(name)))
        for name, parent in zip(body.names, body.parents, strict=True)
        if parent >= 0
    }
    (known,) = (known for known in KNOWN if known.joints == 31)
    assert set(map(frozenset, known.bones)) == own


@pytest.mark.parametrize(("name", "found"), [("utd_mhad", "head first"), ("florence3d", "Florence 3D")])
def test_recordings_are_recognised(real_data: Path, name: str, found: str) -> None:
    files = sorted((real_data / name).glob("*.npy"))[::40]
    if not files:
        pytest.skip(f"needs {name}")
    frames = np.concatenate([read_clip(path) for path in files])
    skeleton = recognise(frames)
    assert found in skeleton.name
    assert up_of(skeleton, frames) == (1, 1)
