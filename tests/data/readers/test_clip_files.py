"""Files that are a clip each: every format is read as its data set reads it, and what is no clip is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import Tree
from crrl.data.readers import bvh, cmu, ntu, nw_ucla
from crrl.data.readers.clip_files import READERS, find_clip_files, read_body, read_clip_file
from crrl.data.skeletons import skeleton_of
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


CLIP = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def skeleton(bodies: int) -> str:
    """A .skeleton file of two frames with so many bodies in each."""
    joints = "".join(f"{joint} 1 2{' 0' * 9}\n" for joint in range(1, 26))
    frame = f"{bodies}\n" + "".join(f"{number}{' 0' * 9}\n25\n{joints}" for number in range(bodies))
    return "2\n" + 2 * frame


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    np.savez(tmp_path / "b.npz", CLIP)
    assert isinstance(read_clip_file(tmp_path / "a.npy"), np.memmap)
    for name in ("a.npy", "b.npz"):
        found, tree = read_body(tmp_path / name)
        np.testing.assert_array_equal(found, CLIP)
        assert tree is None


def test_text_is_read_as_its_data_set_reads_it(tmp_path: Path) -> None:
    for name, text in (("a.bvh", BVH), ("b.skeleton", skeleton(1)), ("c.json", '{"skeletons": [%s]}')):
        frames = str(np.ones((20, 3)).tolist())
        (tmp_path / name).write_text(text % frames if "%s" in text else text)
    found = {path.suffix: np.asarray(read_clip_file(path)) for path in find_clip_files([tmp_path])}
    np.testing.assert_array_equal(found[".bvh"], bvh.positions(*bvh.read_file(tmp_path / "a.bvh")))
    np.testing.assert_array_equal(found[".skeleton"], ntu.read((tmp_path / "b.skeleton").read_bytes())[0])
    assert found[".skeleton"].shape == (2, 50, 3)
    np.testing.assert_array_equal(found[".json"], nw_ucla.read_clip(tmp_path / "c.json"))


def test_a_bvh_file_says_its_own_tree(tmp_path: Path) -> None:
    path = tmp_path / "walk.BVH"
    path.write_text(BVH)
    clip, tree = read_body(path)
    np.testing.assert_allclose(clip[1], [[1, 2, 4], [1, 7, 4], [1, 8, 4]])
    assert tree == Tree(("Hips", "Head", "Head_end"), (-1, 0, 1))
    skeleton = skeleton_of(clip, tree)
    assert skeleton.bones == ((0, 1), (1, 2))
    assert (skeleton.base, skeleton.head) == (0, 1)


def test_pose_estimators_json_is_told_apart_by_what_it_holds(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(1, 9, (3, 17, 2))
    people = [{"instances": [{"keypoints": frame.tolist(), "keypoint_scores": [1.0] * 17}]} for frame in points]
    landmark = [{"x": 0.5, "y": 0.25, "z": 0.0, "visibility": 1.0}] * 33
    for name, content, joints in (("a.json", people, 17), ("b.json", [{"landmarks": [landmark]}] * 3, 33)):
        (tmp_path / name).write_text(json.dumps(content))
        assert read_body(tmp_path / name)[0].shape == (3, joints, 3)


def people(frames: int, count: int = 1, joints: int = 17) -> np.ndarray:
    """[T, N, J, 3]: x, y and score of people who stand side by side."""
    pose = np.random.default_rng(0).uniform(50, 150, (count, joints, 2)) + 400 * np.arange(count)[:, None, None]
    still = np.repeat(pose[None], frames, 0) + np.arange(frames)[:, None, None, None]
    return np.concatenate([still, np.ones((frames, count, joints, 1))], axis=3)


def write_coco(path: Path, points: np.ndarray) -> Path:
    path.write_text(json.dumps([[frame[..., :2].tolist(), frame[..., 2].tolist()] for frame in points]))
    return path


def write_openpose(folder: Path, points: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(points):
        value = {"people": [{"pose_keypoints_2d": person.ravel().tolist()} for person in frame]}
        (folder / f"walk_{number:012}_keypoints.json").write_text(json.dumps(value))
    return folder


def write_mediapipe(path: Path, frames: int) -> Path:
    names = ",".join(f"{axis}{number}" for number in range(33) for axis in "xyzv")
    row = ",".join(f"{value:.3f}" for value in np.random.default_rng(0).uniform(0.2, 0.8, 132) + 0.2)
    path.write_text("\n".join([names, *[row] * frames]) + "\n")
    return path


def test_folders_of_frames_and_tables_are_clips(tmp_path: Path) -> None:
    walk = write_openpose(tmp_path / "b" / "walk", people(4, joints=25))
    (walk / "notes.json").write_text("3")
    (walk / "zoo.json").write_text("3")
    (walk / "labels.csv").write_text("file,label\n")
    write_mediapipe(tmp_path / "a.csv", 5)
    write_coco(tmp_path / "c.json", people(6))
    (tmp_path / "labels.csv").write_text("file,label\na.csv,any\n")
    found = find_clip_files([tmp_path, walk])
    assert found == [tmp_path / "a.csv", tmp_path / "c.json", walk]
    assert [np.shape(read_clip_file(path)) for path in found] == [(5, 33, 3), (6, 17, 3), (4, 25, 3)]
    assert find_clip_files([walk]) == [walk]
    assert read_body(walk)[0].shape == (4, 25, 3)


@pytest.mark.parametrize("count", [1, 2])
def test_as_many_people_are_taken_as_the_joints_say(tmp_path: Path, count: int) -> None:
    files = [
        (write_coco(tmp_path / "a.json", people(4, count)), 17),
        (write_openpose(tmp_path / "b", people(4, count, 18)), 18),
    ]
    for path, joints in files:
        assert np.shape(read_clip_file(path)) == (4, count * joints, 3)
        one, two = (np.asarray(read_clip_file(path, bodies * joints)) for bodies in (1, 2))
        assert (one.shape, two.shape) == ((4, joints, 3), (4, 2 * joints, 3))
        np.testing.assert_array_equal(two[:, :joints], one)
        assert two[:, joints:].any() == (count == 2)


def test_a_frame_in_place_of_its_folder_is_told(tmp_path: Path) -> None:
    walk = write_openpose(tmp_path / "walk", people(2, joints=25))
    with pytest.raises(CrrlError, match=r"_keypoints\.json is a frame of OpenPose's: give the folder .*/walk$"):
        find_clip_files([walk / "walk_000000000000_keypoints.json"])


def test_a_clip_may_be_called_as_a_frame_is(tmp_path: Path) -> None:
    for number in range(2):
        write_coco(tmp_path / f"walk_{number}_keypoints.json", people(3 + number))
    found = find_clip_files([tmp_path, tmp_path / "walk_0_keypoints.json"])
    assert [len(np.asarray(read_clip_file(path))) for path in found] == [3, 4]


def test_parts_of_an_image_are_told(tmp_path: Path) -> None:
    points = people(4) / [999, 999, 1]
    with pytest.warns(UserWarning, match="keypoints are parts of the image's width and height, at most 1, not pixels"):
        read_clip_file(write_coco(tmp_path / "a.json", points))


def test_a_motion_of_cmu_is_read_with_the_skeleton_beside_it(real_data: Path) -> None:
    path = next((real_data / "cmu").rglob("*.amc"), None)
    if path is None:
        pytest.skip("needs CMU's files")
    clip = np.asarray(read_clip_file(path))
    assert clip.shape[1:] == (31, 3)
    assert np.ptp(clip[0, :, 1]) == pytest.approx(1.6, abs=0.4), "metres"
    np.testing.assert_array_equal(clip, cmu.read_clip(path))
    body, tree = read_body(path)
    assert tree is not None
    assert len(skeleton_of(body, tree).bones) == 30


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.skeleton", "nothing\n", "line 1"),
        ("a.skeleton", skeleton(0), "shows nobody"),
        ("a.skeleton", "2\n1\n", r", line 3: .*: restore the file or leave it out"),
        ("a.bvh", "HIERARCHY", "no HIERARCHY followed by a MOTION"),
        ("a.amc", "nothing\n", "a.asf"),
        ("a.txt", "nothing\n", "are read"),
        ("a.csv", "nothing\n", "has no column x1 or y1 or z1: its first line"),
        ("a.json", "nothing\n", "not valid JSON"),
        ("a.json", "{}", "expected a list of frames"),
        ("a01_s01_e01_v01.json", json.dumps({"skeletons": np.ones((2, 21, 3)).tolist()}), 'no "skeletons"'),
        ("a.npz", "PK", "is not a .npy or .npz array"),
    ],
)
def test_what_is_no_clip_is_named(tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    for read in (read_body, read_clip_file):
        with pytest.raises(CrrlError, match=rf"{path.stem}.*{problem}"):
            read(path)


def test_files_come_once_in_the_order_given_and_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("below/b.npy", "below/a.NPY", "below/labels.csv", "below/.hidden.npy", "c.bvh"):
        (tmp_path / name).touch()
    given = [tmp_path / "c.bvh", tmp_path / "below", tmp_path / "below" / "b.npy"]
    names = [str(path.relative_to(tmp_path)) for path in find_clip_files(given)]
    assert names == ["c.bvh", "below/a.NPY", "below/b.npy"]


def test_a_folder_without_clips_a_prepared_one_and_another_ending_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    with pytest.raises(CrrlError, match=f"{tmp_path} holds no clip: {', '.join(READERS)}, .* frames are read"):
        find_clip_files([tmp_path])
    with pytest.raises(CrrlError, match=r"labels\.csv is not a clip file"):
        find_clip_files([tmp_path / "labels.csv"])
    for name in ("manifest.json", "meta.json", "frames.npy"):
        (tmp_path / name).touch()
    with pytest.raises(CrrlError, match="is a prepared set: give --dataset prepared --data"):
        find_clip_files([tmp_path])
