"""One clip from one file, whatever its ending."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clip_files import read_body
from crrl.errors import CrrlError

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 3 Xposition Yposition Zposition
  JOINT Head
  {
    OFFSET 0 5 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 1 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.1
1 2 3 0 0 0
1 2 4 0 0 0
"""


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", clip)
    np.savez(tmp_path / "b.npz", clip)
    for name in ("a.npy", "b.npz"):
        found, skeleton = read_body(tmp_path / name)
        np.testing.assert_array_equal(found, clip)
        assert skeleton is None


def test_a_bvh_file_says_its_own_tree(tmp_path: Path) -> None:
    path = tmp_path / "walk.BVH"
    path.write_text(BVH)
    clip, skeleton = read_body(path)
    np.testing.assert_allclose(clip[1], [[1, 2, 4], [1, 7, 4], [1, 8, 4]])
    assert skeleton is not None
    assert skeleton.bones == ((0, 1), (1, 2))
    assert (skeleton.base, skeleton.head) == (0, 1)


def test_nw_uclas_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a01_s01_e01_v01.json"
    path.write_text(json.dumps({"skeletons": np.ones((2, 20, 3)).tolist()}))
    assert read_body(path)[0].shape == (2, 20, 3)
    path.write_text(json.dumps({"skeletons": np.ones((2, 21, 3)).tolist()}))
    with pytest.raises(CrrlError, match="a01_s01_e01_v01"):
        read_body(path)


def test_pose_estimators_json_is_told_apart_by_what_it_holds(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(1, 9, (3, 17, 2))
    people = [{"instances": [{"keypoints": frame.tolist(), "keypoint_scores": [1.0] * 17}]} for frame in points]
    landmark = [{"x": 0.5, "y": 0.25, "z": 0.0, "visibility": 1.0}] * 33
    for name, content, joints in (("a.json", people, 17), ("b.json", [{"landmarks": [landmark]}] * 3, 33)):
        (tmp_path / name).write_text(json.dumps(content))
        assert read_body(tmp_path / name)[0].shape == (3, joints, 3)


def test_a_motion_of_cmu_is_read_with_its_subjects_skeleton(real_data: Path) -> None:
    path = next((real_data / "cmu" / "amc").rglob("*.amc"), None)
    if path is None:
        pytest.skip("needs CMU's files")
    clip, skeleton = read_body(path)
    assert clip.shape[1:] == (31, 3)
    assert skeleton is not None
    assert len(skeleton.bones) == 30


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.skeleton", "line 1"), ("a.bvh", "a.bvh"), ("a.amc", "a.asf"), ("a.txt", "are read")],
)
def test_what_is_no_clip_is_refused_with_its_name(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("nothing\n")
    with pytest.raises(CrrlError, match=said):
        read_body(tmp_path / name)
