"""Files of COCO's 17 joints: every form, written by hand to its public description, and every way one may be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import coco
from crrl.errors import CrrlError

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

Points = np.ndarray
"""[T, N, 17, 3]: x, y and score of N people in T frames."""


def walk(frames: int, people: int = 1, seed: int = 0) -> Points:
    """People who stand 400 pixels apart and drift, no more than a pixel a frame."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(0, 100, (people, 17, 2)) + 400 * np.arange(people)[:, None, None] + 50
    drift = rng.uniform(-1, 1, (frames, people, 17, 2)) + np.arange(frames)[:, None, None, None] / 2
    return np.concatenate([pose + drift, rng.uniform(0.5, 1, (frames, people, 17, 1))], axis=3).round(3)


def instance(person: np.ndarray) -> dict[str, Any]:
    """As MMPose writes a person; its box stands in a tuple."""
    joints = {"keypoints": person[:, :2].tolist(), "keypoint_scores": person[:, 2].tolist()}
    return {**joints, "bbox": [[1.5, 2.5, 30.0, 40.0]], "bbox_score": 0.9}


def mmpose(points: Points) -> Any:
    frames = [{"frame_id": number, "instances": list(map(instance, frame))} for number, frame in enumerate(points, 1)]
    return {"meta_info": {"dataset_name": "coco", "num_keypoints": 17}, "instance_info": frames}


def inferencer(points: Points) -> Any:
    return [frame["instances"] for frame in mmpose(points)["instance_info"]]


def ultralytics(points: Points) -> Any:
    return [
        [
            {
                "name": "person",
                "class": 0,
                "confidence": 0.91,
                "box": {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
                "keypoints": dict(zip(("x", "y", "visible"), person.T.tolist(), strict=True)),
            }
            for person in frame
        ]
        for frame in points
    ]


def rtmlib(points: Points) -> Any:
    return [[frame[..., :2].tolist(), frame[..., 2].tolist()] for frame in points]


def rtmlib_by_name(points: Points) -> Any:
    return [{"keypoints": keypoints, "scores": scores} for keypoints, scores in rtmlib(points)]


def results(points: Points, name: str = "{}") -> Any:
    """COCO's results; name "{}": with numbers for image_id."""
    return [
        {
            "image_id": number if name == "{}" else name.format(number),
            "category_id": 1,
            "keypoints": person.ravel().tolist(),
            "score": 0.8,
        }
        for number, frame in enumerate(points)
        for person in frame
    ]


def alphapose(points: Points) -> Any:
    return results(points, "clip_2_frame_{:06}.jpg")


FORMS = [
    mmpose, lambda points: mmpose(points)["instance_info"], inferencer, ultralytics, rtmlib, rtmlib_by_name, results,
    alphapose,
]  # fmt: skip
NAMES = ["mmpose", "frames", "inferencer", "ultralytics", "rtmlib", "rtmlib-by-name", "results", "alphapose"]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def as_clip(points: Points) -> np.ndarray:
    """What the joints of [T, 17, 3] are read as."""
    clip = np.zeros_like(points)
    clip[..., 0], clip[..., 1] = points[..., 0], -points[..., 1]
    return clip.astype(np.float32)


def whole(points: Points, joints: int) -> Points:
    """With more joints after COCO's, far away and sure."""
    more = np.full((*points.shape[:2], joints - 17, 3), 5000.0)
    more[..., 2] = 1
    return np.concatenate([points, more], axis=2)


@pytest.mark.parametrize("joints", [17, 26, 133, 136])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_each_form_is_read_and_of_more_joints_the_first(
    tmp_path: Path, form: Callable[[Points], Any], joints: int
) -> None:
    """26, 133 and 136 are rtmlib's BodyWithFeet and Wholebody, and AlphaPose's Halpe."""
    points = walk(9)
    clip = coco.read_clip(write(tmp_path / "a.json", form(whole(points, joints))))
    np.testing.assert_array_equal(clip, as_clip(points[:, 0]))
    assert clip.dtype == np.float32


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_two_people_of_each_form_lie_side_by_side(tmp_path: Path, form: Callable[[Points], Any]) -> None:
    points = walk(12, people=2)
    shuffled = np.stack([frame[:: 1 if t % 2 else -1] for t, frame in enumerate(points)])
    clip = coco.read_clip(write(tmp_path / "a.json", form(shuffled))).reshape(12, 2, 17, 3)
    order = [1, 0]  # as the first frame has them
    np.testing.assert_array_equal(clip, as_clip(points[:, order]))


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_joint_of_low_score_is_filled_in(tmp_path: Path, form: Callable[[Points], Any]) -> None:
    points = walk(5)
    points[2, 0, 7] = (9999, 9999, 0.1)
    clip = coco.read_clip(write(tmp_path / "a.json", form(points)))
    np.testing.assert_allclose(clip[2, 7], (clip[1, 7] + clip[3, 7]) / 2, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS[:6], ids=NAMES[:6])
def test_frames_without_people_keep_their_time(tmp_path: Path, form: Callable[[Points], Any]) -> None:
    points = walk(7)
    value = form(points)
    frames = value["instance_info"] if isinstance(value, dict) else value
    nobody = form(np.zeros((1, 0, 17, 3)))
    frames[0] = (nobody["instance_info"] if isinstance(nobody, dict) else nobody)[0]
    clip = coco.read_clip(write(tmp_path / "a.json", value))
    assert not clip[0].any()
    np.testing.assert_array_equal(clip[1:], as_clip(points[1:, 0]))


def test_keypoints_without_visible_are_all_seen_but_those_at_the_origin(tmp_path: Path) -> None:
    """A model that does not tell scores writes (0, 0) for a joint that it does not see."""
    points = walk(5)
    points[1, 0, 4] = points[2, 0, 4] = 0
    value = ultralytics(points)
    for frame in value:
        del frame[0]["keypoints"]["visible"]
    clip = coco.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_allclose(clip[1, 4], (2 * clip[0, 4] + clip[3, 4]) / 3, rtol=1e-6)


def test_results_may_come_in_any_order_and_leave_images_out(tmp_path: Path) -> None:
    points = walk(9)
    rows = [row for row in results(points) if row["image_id"] not in (3, 4)]
    clip = coco.read_clip(write(tmp_path / "a.json", rows[::-1]))
    assert len(clip) == 9
    np.testing.assert_allclose(clip[3], (2 * clip[2] + clip[5]) / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (
            ("a_1.jpg", "a_2.jpg", "b_1.jpg"),
            r"result 2: image_id 'b_1.jpg' differs from 'a_1.jpg' in more than its last",
        ),
        (("1_cam2.jpg", "2_cam2.jpg", "3_cam2.jpg"), "result 1: image_id '2_cam2.jpg' differs from '1_cam2.jpg' in mo"),
        ((1, 2, "3.jpg"), "result 2: image_id '3.jpg' differs from 1 in more than its last number"),
    ],
)
def test_images_of_two_videos_are_not_one_video(tmp_path: Path, images: tuple[Any, ...], problem: str) -> None:
    rows = [{**row, "image_id": image} for row, image in zip(results(walk(3)), images, strict=True)]
    with pytest.raises(CrrlError, match=problem):
        coco.read_clip(write(tmp_path / "a.json", rows))


def test_results_of_something_else_than_people_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "category_id": 1 + place % 2} for place, row in enumerate(results(walk(3)))]
    with pytest.raises(CrrlError, match="result 1: category_id is 2, of the first 1: keep only people"):
        coco.read_clip(write(tmp_path / "a.json", rows))


def test_a_frame_stands_where_its_number_says(tmp_path: Path) -> None:
    points = walk(9)
    value = mmpose(points)
    frames = value["instance_info"]
    whole = coco.read_clip(write(tmp_path / "a.json", value))
    value["instance_info"] = frames[::-1]
    np.testing.assert_array_equal(coco.read_clip(write(tmp_path / "a.json", value)), whole)
    del frames[3:5]
    value["instance_info"] = frames
    clip = coco.read_clip(write(tmp_path / "a.json", value))
    assert len(clip) == 9
    np.testing.assert_array_equal(clip[5:], whole[5:])
    np.testing.assert_allclose(clip[3], (2 * clip[2] + clip[5]) / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("number", "problem"),
    [(1, "1 again, not a number of its own"), (2.0, "2.0, not a number"), (None, "nothing, not a number")],
)
def test_a_frames_number_that_is_none_is_refused(tmp_path: Path, number: Any, problem: str) -> None:
    value = mmpose(walk(3))
    value["instance_info"][1]["frame_id"] = number
    with pytest.raises(CrrlError, match=f"frame 1: frame_id is {problem}"):
        coco.read_clip(write(tmp_path / "a.json", value))


def test_results_of_images_of_many_videos_are_refused(tmp_path: Path) -> None:
    rows = results(walk(4))
    for row, image in zip(rows, (139, 785, 397133, 581781), strict=True):
        row["image_id"] = image
    with pytest.raises(CrrlError, match=r"a\.json has 581,643 frames .* of one video\? Cut it, and give"):
        coco.read_clip(write(tmp_path / "a.json", rows))


@pytest.mark.parametrize("value", [[], [[], []], [[[], []]], {"instance_info": [{"instances": []}]}])
def test_nobody_is_one_clear_line(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CrrlError, match=r"^no person in .*a\.json: none of its \d frames shows a joint"):
        coco.read_clip(write(tmp_path / "a.json", value))


def test_people_below_the_score_are_nobody(tmp_path: Path) -> None:
    points = walk(3)
    points[..., 2] = 0.2
    with pytest.raises(CrrlError, match=r"no person in .*none of its 3 frames shows a joint with a score of 0\.3"):
        coco.read_clip(write(tmp_path / "a.json", mmpose(points)))


def test_a_video_of_mmposes_inferencer_is_read_as_it_writes_it(tmp_path: Path) -> None:
    """pred_out_dir holds NAME.json: frame_id from 0, a box within a tuple, no people in some frames, strangers."""
    points = walk(8)
    shown = [list(frame) for frame in points]
    shown[3], shown[5] = [], [walk(1, seed=1)[0, 0] + (3000, 0, 0), *shown[5]]
    frames = [{"frame_id": number, "instances": list(map(instance, people))} for number, people in enumerate(shown)]
    clip = coco.read_clip(write(tmp_path / "a.json", frames))
    assert clip.shape == (8, 17, 3)
    kept = np.arange(8) != 3
    np.testing.assert_array_equal(clip[kept], as_clip(points[kept, 0]))
    np.testing.assert_allclose(clip[3], (clip[2] + clip[4]) / 2, rtol=1e-6)


def test_tracks_of_ultralytics_do_not_matter(tmp_path: Path) -> None:
    """`[json.loads(result.to_json()) for result in model.track(...)]`: numbers of tracks come and change."""
    points = walk(9)
    value = ultralytics(points)
    for number, frame in enumerate(value):
        frame[0]["track_id"] = 1 + number // 4
    del value[6][0]["track_id"]
    value[7] = []
    clip = coco.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_array_equal(clip[[0, 6, 8]], as_clip(points[[0, 6, 8], 0]))


def test_a_tracker_of_rtmlib_that_lost_everybody_gives_empty_lists(tmp_path: Path) -> None:
    points = walk(4)
    value = rtmlib(points)
    value[1] = [[], []]
    clip = coco.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_allclose(clip[1], (clip[0] + clip[2]) / 2, rtol=1e-6)


def put(value: Any) -> Callable[[Any], Any]:
    return lambda content: value


def person(**changes: Any) -> Callable[[Any], Any]:
    """The person of frame 2 of MMPose's file with these fields."""

    def change(content: Any) -> Any:
        content["instance_info"][2]["instances"][0].update(changes)
        return content

    return change


ODD = [
    (put(3), r": expected a list of frames, .* found 3: restore"),
    (put("text"), ": expected a list of frames, .* found the text 'text'"),
    (put({"frames": []}), ": expected a list of frames, .* found an object of frames"),
    (put({"0.jpg": {"version": "AlphaPose v0.3", "people": []}}), r": expected a list .* found an object of 0\.jpg"),
    (put([{"keypoints": [[1, 2]] * 17, "keypoint_scores": [1] * 17}]), " holds the people of one image: a clip is a l"),
    (put([1]), ", frame 0: expected a list of people, or an object with instances.* found 1"),
    (put(["[]"]), r", frame 0: expected a list of people.* found the text '\[\]'"),
    (put([{"x\n": 1}]), ", frame 0: expected a list of people.* found an object of x\\?"),
    (put([[5]]), ", frame 0, person 0: expected an object with keypoints, found 5"),
    (put([[{}]]), ", frame 0, person 0, keypoints: expected 17 joints of 2 numbers, found nothing"),
    (person(keypoints=[[1, 2]] * 134), ", frame 2, person 0, keypoints: expected 17 .* found a list of 134, each of 2"),
    (person(keypoints=[[1, 2]] * 133), ", frame 2, person 0, keypoint scores: expected 133 numbers, found a list"),
    (person(keypoints=[[1, 2, 3]] * 17), ", frame 2, person 0: keypoints of three numbers are not read, as .* 3D"),
    (person(keypoints=[[1, 2]] * 16 + [[1]]), ", frame 2, person 0, keypoints: expected .* found a list of 17:"),
    (person(keypoints=[[1, "2"]] * 17), ", frame 2, person 0, keypoints: the text '2' is not a finite number"),
    (person(keypoints=[[1, True]] * 17), ", frame 2, person 0, keypoints: True is not a finite number"),
    (person(keypoints=[[1, None]] * 17), ", frame 2, person 0, keypoints: nothing is not a finite number"),
    (person(keypoints=[[1, float("nan")]] * 17), ", frame 2, person 0, keypoints: nan is not a finite number"),
    (person(keypoints=[[1, 10**400]] * 17), ", frame 2, person 0, keypoints: a int is not a finite number"),
    (person(keypoints=[[1, 1e39]] * 17), r", frame 2, person 0, keypoints: 1e\+39 is not a finite number"),
    (person(keypoint_scores=[0.5] * 16), ", frame 2, person 0, keypoint scores: expected 17 numbers, found a list"),
    (person(keypoint_scores=None), ", frame 2, person 0, keypoint scores: expected 17 numbers, found nothing"),
    (put([[{"keypoints": {"x": [1] * 17}}]]), ", frame 0, person 0, keypoints, y: expected 17 numbers, found nothing"),
    (
        put([[{"keypoints": {"x": [1] * 17, "y": [1] * 17, "visibel": [1] * 17}}]]),
        ", frame 0, person 0, keypoints, visible: expected 17 numbers, found nothing",
    ),
    (put([{"keypoints": [], "scores": [[1] * 17]}]), ", frame 0: keypoints of 0 people, but scores of 1"),
    (put([{"keypoints": [[[1, 2]] * 17], "scores": 3}]), ", frame 0: expected a list of people's scores, found 3"),
    (put([{"image_id": None}]), ", result 0: image_id is nothing, not the number of a frame"),
    (put([{"image_id": "a.jpg"}]), r", result 0: image_id is the text 'a\.jpg', not"),
    (put([{"image_id": -1}]), ", result 0: image_id is -1, not"),
    (put([{"image_id": 7, "keypoints": [1] * 54}]), r", result 0 \(image 7\), keypoints: expected 51 .* a list of 54"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), ODD)
def test_what_is_not_understood_is_refused_with_file_and_frame(
    tmp_path: Path, change: Callable[[Any], Any], problem: str
) -> None:
    path = write(tmp_path / "a.json", change(mmpose(walk(4))))
    with pytest.raises(CrrlError) as caught:
        coco.read_clip(path)
    assert re.match(re.escape(str(path)) + problem, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_small_file_of_many_empty_frames_takes_no_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    one = json.dumps(inferencer(walk(1))[0])
    (tmp_path / "a.json").write_text(f"[{one}, {'[],' * 50_000} {one}]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CrrlError, match=r"50,002 frames from the first to the last, of which almost none shows"):
        coco.read_clip(tmp_path / "a.json")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def data_set(root: Path, people: list[int]) -> Path:
    """A labelled folder, a clip for each of `people`, how many it shows."""
    for number, each in enumerate(people):
        write(root / f"{number}.json", FORMS[number % len(FORMS)](walk(4 + number, each, number)))
    rows = [f"{number}.json,{'ab'[number % 2]},{number % 3}\n" for number in range(len(people))]
    (root / "labels.csv").write_text("".join(["file,label,subject\n", *rows]))
    return root


def load(root: Path) -> Clips:
    return coco.load(coco.find_files(root))


def test_a_data_set_of_one_body_each(tmp_path: Path) -> None:
    clips = load(data_set(tmp_path, [1] * 12))
    assert clips.num_joints == 17
    assert clips.lengths.tolist() == list(range(4, 16))
    assert (clips.class_names, clips.subjects.tolist()) == (("a", "b"), [0, 1, 2] * 4)
    assert clips.names[3] == "3.json"
    assert clips.split("default").test["all"].tolist() == [8, 9]
    for number in range(12):
        np.testing.assert_array_equal(clips.clip(number), as_clip(walk(4 + number, 1, number)[:, 0]))


def test_a_data_set_has_two_bodies_where_any_clip_shows_two(tmp_path: Path) -> None:
    clips = load(data_set(tmp_path, [1] * 11 + [2]))
    assert clips.num_joints == 34
    assert not clips.clip(0)[:, 17:].any()
    assert clips.clip(11)[:, 17:].any()


def test_a_clip_that_shows_nobody_is_named(tmp_path: Path) -> None:
    write(data_set(tmp_path, [1] * 12) / "5.json", [])
    with pytest.raises(CrrlError, match=r"no person in .*5\.json"):
        load(tmp_path)


@given(data=st.data())
@settings(max_examples=50)
def test_a_damaged_byte_gives_a_clip_or_the_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(FORMS))
    content = bytearray(json.dumps(form(walk(2))).encode())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(content)
    with suppress(CrrlError):
        clip = coco.read_clip(path)
        assert clip.shape[1:] in ((17, 3), (34, 3))
        assert np.isfinite(clip).all()
        assert not clip[..., 2].any()


def test_without_a_list_all_files_below_are_clips(tmp_path: Path) -> None:
    listed = load(data_set(tmp_path, [1] * 5))
    (tmp_path / "labels.csv").unlink()
    clips = load(tmp_path)
    assert (clips.names, clips.class_names, clips.split("default").test) == (listed.names, (), {})
    np.testing.assert_array_equal(clips.frames, listed.frames)
