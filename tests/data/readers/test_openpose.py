"""OpenPose's folders of frames: both skeletons, names and order, data sets of folders, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import openpose
from crrl.errors import CrrlError


def walk(frames: int, joints: int = 25, people: int = 1, seed: int = 0) -> np.ndarray:
    """[T, N, J, 3]: x, y and confidence of people who stand 400 pixels apart and drift."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(0, 100, (people, joints, 2)) + 400 * np.arange(people)[:, None, None] + 50
    drift = rng.uniform(-1, 1, (frames, people, joints, 2))
    return np.concatenate([pose + drift, rng.uniform(0.5, 1, (frames, people, joints, 1))], axis=3).round(4)


def body(person: np.ndarray, **more: Any) -> dict[str, Any]:
    empty = {f"{part}_keypoints_2d": [] for part in ("face", "hand_left", "hand_right")}
    return {"person_id": [-1], "pose_keypoints_2d": person.ravel().tolist(), **empty, **more}


def write(root: Path, points: np.ndarray, name: str = "video_{:012}_keypoints.json") -> Path:
    """A clip's folder."""
    root.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(points):
        people = [body(person) for person in frame]
        (root / name.format(number)).write_text(json.dumps({"version": 1.3, "people": people}))
    return root


def as_clip(points: np.ndarray) -> np.ndarray:
    clip = np.zeros_like(points)
    clip[..., 0], clip[..., 1] = points[..., 0], -points[..., 1]
    return clip.astype(np.float32)


@pytest.mark.parametrize("joints", [25, 18])
def test_both_skeletons_are_read(tmp_path: Path, joints: int) -> None:
    points = walk(6, joints)
    np.testing.assert_array_equal(openpose.read_clip(write(tmp_path, points)), as_clip(points[:, 0]))


def test_frames_are_ordered_by_their_numbers_not_their_names(tmp_path: Path) -> None:
    points = walk(12)
    clip = openpose.read_clip(write(tmp_path, points, "my video 7_{}_keypoints.json"))
    np.testing.assert_array_equal(clip, as_clip(points[:, 0]))


def test_other_files_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    (write(tmp_path, walk(3)) / "notes.json").write_text("3")
    assert len(openpose.read_clip(tmp_path)) == 3


def test_frames_that_lack_between_others_show_nobody(tmp_path: Path) -> None:
    points = walk(9)
    write(tmp_path, points)
    for number in (3, 4):
        (tmp_path / f"video_{number:012}_keypoints.json").unlink()
    clip = openpose.read_clip(tmp_path)
    assert len(clip) == 9
    np.testing.assert_array_equal(clip[5:], as_clip(points[5:, 0]))
    np.testing.assert_allclose(clip[3], (2 * clip[2] + clip[5]) / 3, rtol=1e-5)


def test_of_a_video_of_which_every_fifth_frame_is_there_no_frame_lacks(tmp_path: Path) -> None:
    points = walk(4)
    write(tmp_path, points)
    for number in (3, 2, 1):
        (tmp_path / f"video_{number:012}_keypoints.json").rename(tmp_path / f"video_{5 * number:012}_keypoints.json")
    np.testing.assert_array_equal(openpose.read_clip(tmp_path), as_clip(points[:, 0]))


def test_two_frames_far_apart_take_no_memory(tmp_path: Path) -> None:
    points = walk(3)
    write(tmp_path, points)
    (tmp_path / "video_000000000002_keypoints.json").rename(tmp_path / f"video_{10**9}_keypoints.json")
    with pytest.raises(CrrlError, match="1,000,000,001 frames from the first to the last"):
        openpose.read_clip(tmp_path)


def test_a_joint_not_found_is_filled_in(tmp_path: Path) -> None:
    points = walk(3)
    points[1, 0, 10] = 0
    clip = openpose.read_clip(write(tmp_path, points))
    np.testing.assert_allclose(clip[1, 10], (clip[0, 10] + clip[2, 10]) / 2, rtol=1e-6)


def test_two_people_lie_side_by_side(tmp_path: Path) -> None:
    points = walk(6, people=2)
    shuffled = np.stack([frame[:: 1 if t % 2 else -1] for t, frame in enumerate(points)])
    clip = openpose.read_clip(write(tmp_path, shuffled)).reshape(6, 2, 25, 3)
    np.testing.assert_array_equal(clip, as_clip(points[:, ::-1]))


def test_the_first_version_calls_them_pose_keypoints(tmp_path: Path) -> None:
    points = walk(1, 18)
    old = {"version": 0.1, "people": [{"pose_keypoints": points[0, 0].ravel().tolist()}]}
    (tmp_path / "a_0_keypoints.json").write_text(json.dumps(old))
    np.testing.assert_array_equal(openpose.read_clip(tmp_path), as_clip(points[:, 0]))


def test_hands_without_a_body_are_nobody(tmp_path: Path) -> None:
    points = walk(3)
    path = write(tmp_path, points) / "video_000000000001_keypoints.json"
    hands = body(points[1, 0], pose_keypoints_2d=[], hand_left_keypoints_2d=[1.0] * 63)
    path.write_text(json.dumps({"people": [hands, body(points[1, 0])]}))
    np.testing.assert_array_equal(openpose.read_clip(tmp_path), as_clip(points[:, 0]))


def test_nobody_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=rf"^no person in {re.escape(str(tmp_path))}: none of its 4 frames"):
        openpose.read_clip(write(tmp_path, walk(4, people=0)))


def test_frames_are_read_as_openpose_writes_them(tmp_path: Path) -> None:
    """Version 1.3 of a video: a person's number is -1, fields of faces, hands and 3D are there and empty; no indent."""
    points = walk(5)
    path = write(tmp_path, points)
    for number, frame in enumerate(points):
        parts = {f"{part}_keypoints_{d}d": [] for part in ("pose", "face", "hand_left", "hand_right") for d in (2, 3)}
        people = [{"person_id": [-1], **parts, "pose_keypoints_2d": person.ravel().tolist()} for person in frame]
        text = json.dumps({"version": 1.3, "people": [] if number == 2 else people}, separators=(",", ":"))
        (path / f"video_{number:012}_keypoints.json").write_text(text)
    clip = openpose.read_clip(path)
    np.testing.assert_array_equal(clip[[0, 1, 3, 4]], as_clip(points[[0, 1, 3, 4], 0]))
    np.testing.assert_allclose(clip[2], (clip[1] + clip[3]) / 2, rtol=1e-6)


def test_images_may_have_given_frames_their_names(tmp_path: Path) -> None:
    """--image_dir: a file is called as its image."""
    points = walk(3)
    np.testing.assert_array_equal(
        openpose.read_clip(write(tmp_path, points, "{:06}_keypoints.json")), as_clip(points[:, 0])
    )


ODD = [
    (
        {"people": [{"pose_keypoints_2d": [], "pose_keypoints_3d": [1] * 100}]},
        ", person 0 is in 3D alone, which is not",
    ),
    ([], ": expected an object with people, found a list of 0: restore"),
    ({}, ", people: expected a list, found nothing"),
    ({"people": {}}, ", people: expected a list, found an object of nothing"),
    ({"people": [3]}, ", person 0: expected an object with pose_keypoints_2d, found 3"),
    ({"people": [{}]}, ", person 0, pose_keypoints_2d: expected 75 numbers, found nothing"),
    ({"people": [{"pose_keypoints_2d": [1] * 45}]}, ", person 0, pose_keypoints_2d: expected 75 .* a list of 45"),
    ({"people": [{"pose_keypoints_2d": [1] * 74 + ["1"]}]}, ", person 0, pose_keypoints_2d: the text '1' is no"),
    ({"people": [{"pose_keypoints_2d": [1] * 54}]}, " has people of 18 joints, frames before it of 25: one kind"),
]


@pytest.mark.parametrize(("value", "problem"), ODD)
def test_what_is_not_understood_is_refused_with_its_file(tmp_path: Path, value: Any, problem: str) -> None:
    path = write(tmp_path, walk(4)) / "video_000000000002_keypoints.json"
    path.write_text(json.dumps(value))
    with pytest.raises(CrrlError) as caught:
        openpose.read_clip(tmp_path)
    assert re.match(re.escape(str(path)) + problem, str(caught.value))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("other_000000000002_keypoints.json", "holds frames of two videos, 'other_' and 'video_': give each a folder"),
        ("video_2_keypoints.json", "holds two files of one frame: remove one"),
        ("video_000000000001_keypoints (1).json", r"1\).json is not named as OpenPose names a frame's file"),
        ("video_000000000003_KEYPOINTS.JSON", "3_KEYPOINTS.JSON is not named as OpenPose names a frame's file"),
    ],
)
def test_a_file_that_is_no_frame_of_the_clip_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (write(tmp_path, walk(4)) / name).write_text("{}")
    with pytest.raises(CrrlError, match=f"{tmp_path}.*{problem}"):
        openpose.read_clip(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("{}"), lambda path: None])
def test_what_is_no_folder_of_frames_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "clip")
    with pytest.raises(CrrlError, match=r"clip is no folder of OpenPose's files \(NAME_0+_keypoints\.json\), one for"):
        openpose.read_clip(tmp_path / "clip")


def data_set(root: Path, people: list[int]) -> Path:
    for number, each in enumerate(people):
        write(root / "clips" / f"{number}", walk(3 + number, people=each, seed=number))
    rows = [f"clips/{number},{'ab'[number % 2]}\n" for number in range(len(people))]
    (root / "labels.csv").write_text("".join(["file,label\n", *rows]))
    return root


def load(root: Path) -> Clips:
    return openpose.load(openpose.find_files(root))


def test_a_data_set_is_a_folder_of_folders(tmp_path: Path) -> None:
    files = openpose.find_files(data_set(tmp_path, [1] * 10))
    assert len(files) == 1 + sum(range(3, 13))
    clips = openpose.load(files)
    assert (clips.num_joints, clips.lengths.tolist()) == (25, list(range(3, 13)))
    assert clips.names[7] == "clips/7"
    np.testing.assert_array_equal(clips.clip(7), as_clip(walk(10, seed=7)[:, 0]))


def test_a_data_set_of_two_bodies(tmp_path: Path) -> None:
    clips = load(data_set(tmp_path, [1] * 9 + [2]))
    assert clips.num_joints == 50
    assert not clips.clip(0)[:, 25:].any()


def test_clips_of_both_skeletons_are_no_data_set(tmp_path: Path) -> None:
    write(data_set(tmp_path, [1] * 10) / "clips" / "3", walk(6, 18))
    with pytest.raises(CrrlError, match=r"clips/3 has 36 joints, but .*clips/0 has 50: one count per data set"):
        load(tmp_path)


def test_parts_of_an_image_are_told_once_for_a_data_set(tmp_path: Path) -> None:
    """As --keypoint_scale 3 writes them."""
    root = data_set(tmp_path, [1] * 10)
    load(root)  # in pixels nothing is said: a warning is an error here
    for path in root.rglob("*_keypoints.json"):
        content = json.loads(path.read_text())
        for person in content["people"]:
            person["pose_keypoints_2d"] = (np.array(person["pose_keypoints_2d"]) / ([999, 999, 1] * 25)).tolist()
        path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="keypoints are parts of the image's width and height") as told:
        load(root)
    assert len(told) == 1


def test_without_a_list_every_folder_of_frames_is_a_clip(tmp_path: Path) -> None:
    data_set(tmp_path, [1, 1, 1])
    listed = load(tmp_path)
    (tmp_path / "labels.csv").unlink()
    clips = load(tmp_path)
    assert (clips.names, clips.class_names, clips.split("default").test) == (("0", "1", "2"), (), {})
    np.testing.assert_array_equal(clips.frames, listed.frames)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrrlError, match=r"empty holds neither a labels\.csv, .* nor any folder of OpenPose's files"):
        load(tmp_path / "empty")
