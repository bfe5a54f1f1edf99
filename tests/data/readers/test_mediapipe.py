"""MediaPipe's landmarks: results of JavaScript and Python as JSON, both tables, world and image, what is refused."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import mediapipe
from crrl.errors import CrrlError
from tests.data.readers.changes import swap

AXES = ("x", "y", "z", "visibility")


def walk(frames: int, people: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image and world, [T, N, 33, 4] each, of people who stand side by side; in the world hips are at the origin."""
    rng = np.random.default_rng(seed)
    world = rng.uniform(-0.8, 0.8, (1, people, 33, 3)) + rng.uniform(-0.02, 0.02, (frames, people, 33, 3))
    world -= world[:, :, mediapipe.HIPS].mean(axis=2, keepdims=True)
    image = 0.1 * world + (0.2, 0.5, 0) + 0.5 * np.arange(people)[:, None, None] * (1, 0, 0)
    score = rng.uniform(0.5, 1, (frames, people, 33, 1))
    return np.concatenate([image, score], 3).round(6), np.concatenate([world, score], 3).round(6)


def named(person: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(AXES, landmark, strict=True)) for landmark in person.tolist()]


def javascript(image: np.ndarray, world: np.ndarray | None) -> Any:
    frames = [{"landmarks": [named(person) for person in frame]} for frame in image]
    for frame, people in zip(frames, [] if world is None else world, strict=world is not None):
        frame["worldLandmarks"] = [named(person) for person in people]
    return frames


def javascript_of_one(image: np.ndarray, world: np.ndarray | None) -> Any:
    """The older API: one person, no list of people."""
    names = {"landmarks": "poseLandmarks", "worldLandmarks": "poseWorldLandmarks"}
    return [{names[key]: people[0] for key, people in frame.items()} for frame in javascript(image, world)]


def python(image: np.ndarray, world: np.ndarray | None) -> Any:
    names = {"landmarks": "pose_landmarks", "worldLandmarks": "pose_world_landmarks"}
    return [{names[key]: people for key, people in frame.items()} for frame in javascript(image, world)]


def message(image: np.ndarray, world: np.ndarray | None) -> Any:
    """The older API in Python: protocol buffers as dicts."""
    return [{key: {"landmark": people[0]} for key, people in frame.items()} for frame in python(image, world)]


def plain(image: np.ndarray, world: np.ndarray | None) -> Any:
    both = {"pose_landmarks": image, "pose_world_landmarks": world}
    return [{key: each[t].tolist() for key, each in both.items() if each is not None} for t in range(len(image))]


def dataclass(image: np.ndarray, world: np.ndarray | None) -> Any:
    """`[dataclasses.asdict(result) for ...]` of the tasks' Python: presence and a name beside, and null for masks."""
    frames = python(image, world)
    for frame in frames:
        for people in frame.values():
            for person in people:
                for landmark in person:
                    landmark |= {"presence": 0.01, "name": None}
        frame["segmentation_masks"] = None
    return frames


FORMS = [javascript, javascript_of_one, python, message, plain, dataclass]


def wide(people: np.ndarray, first: int = 0, score: str = "v") -> str:
    """A row a frame of [T, 33, 4]."""
    names = [f"{axis}{number}" for number in range(first, 33 + first) for axis in ("x", "y", "z", score)]
    rows = [",".join(map(repr, person.ravel().tolist())) for person in people]
    return "\n".join([",".join(["frame", *names]), *(f"{t},{row}" for t, row in enumerate(rows)), ""])


def long(people: np.ndarray) -> str:
    rows = [
        f"{frame},{number},{','.join(map(repr, landmark.tolist()))}"
        for frame, person in enumerate(people, 5)
        for number, landmark in enumerate(person)
    ]
    return "\n".join(["frame,landmark,x,y,z,visibility", *rows, ""])


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def of_world(world: np.ndarray) -> np.ndarray:
    return (world[..., :3] * (1, -1, -1)).astype(np.float32)


def of_image(image: np.ndarray) -> np.ndarray:
    return (image[..., :3] * (1, -1, 0)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_world", [True, False])
def test_world_coordinates_are_taken_where_they_are_there_else_the_images_without_z(
    tmp_path: Path, form: Callable[..., Any], in_world: bool
) -> None:
    image, world = walk(7)
    clip = mediapipe.read_clip(write(tmp_path / "a.json", form(image, world if in_world else None)))
    np.testing.assert_array_equal(clip, of_world(world[:, 0]) if in_world else of_image(image[:, 0]))


def test_a_frame_without_world_coordinates_makes_all_those_of_the_image(tmp_path: Path) -> None:
    image, world = walk(7)
    value = javascript(image, world)
    del value[3]["worldLandmarks"]
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_array_equal(clip, of_image(image[:, 0]))


def test_world_coordinates_alone_will_do(tmp_path: Path) -> None:
    _, world = walk(7)
    value = [{"worldLandmarks": [named(frame[0])]} for frame in world]
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_array_equal(clip, of_world(world[:, 0]))


def test_people_in_world_coordinates_are_told_apart_in_the_image(tmp_path: Path) -> None:
    image, world = walk(8, people=2)
    order = [slice(None, None, 1 if t % 2 else -1) for t in range(8)]
    value = python(*(np.stack([each[t][order[t]] for t in range(8)]) for each in (image, world)))
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value)).reshape(8, 2, 33, 3)
    np.testing.assert_array_equal(clip, of_world(world[:, ::-1]))


@pytest.mark.parametrize("nobody", [None, {}, {"landmarks": []}, {"landmarks": None, "worldLandmarks": []}])
def test_a_frame_of_nobody_is_filled_in(tmp_path: Path, nobody: Any) -> None:
    image, world = walk(5)
    value = javascript(image, world)
    value[2] = nobody
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_allclose(clip[2], (clip[1] + clip[3]) / 2, atol=1e-6)


def test_a_landmark_that_is_hidden_is_filled_in(tmp_path: Path) -> None:
    image, world = walk(5)
    world[2, 0, 15] = (9, 9, 9, 0.1)
    clip = mediapipe.read_clip(write(tmp_path / "a.json", javascript(image, world)))
    np.testing.assert_allclose(clip[2, 15], (clip[1, 15] + clip[3, 15]) / 2, atol=1e-6)


def test_landmarks_without_visibility_are_seen(tmp_path: Path) -> None:
    image, _ = walk(3)
    value = [{"landmarks": [frame[0][:, :3].tolist()]} for frame in image]
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_array_equal(clip, of_image(image[:, 0]))


def test_a_visibility_that_is_not_set_is_seen(tmp_path: Path) -> None:
    """The tasks' Python leaves it None where a model does not tell it."""
    image, world = walk(3)
    value = dataclass(image, world)
    for frame in value:
        for landmark in frame["pose_world_landmarks"][0]:
            landmark["visibility"] = None
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_array_equal(clip, of_world(world[:, 0]))


def test_frames_may_say_more_than_landmarks(tmp_path: Path) -> None:
    image, world = walk(4)
    value = [{"frame": t, "timestamp_ms": 33 * t, **frame} for t, frame in enumerate(python(image, world))]
    value[1]["pose_landmarks"] = value[1]["pose_world_landmarks"] = []
    clip = mediapipe.read_clip(write(tmp_path / "a.json", value))
    np.testing.assert_allclose(clip[1], (clip[0] + clip[2]) / 2, atol=1e-6)


TABLES = [wide, lambda people: wide(people, 1, "visibility"), long]


@pytest.mark.parametrize("table", TABLES, ids=["wide", "wide-from-1", "long"])
@pytest.mark.parametrize("where", ["world", "image"])
def test_tables_are_read(tmp_path: Path, table: Callable[[np.ndarray], str], where: str) -> None:
    """By where the hips are a table is told to be in the world, or in the image."""
    image, world = walk(9)
    people = (world if where == "world" else image)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = mediapipe.read_clip(write(tmp_path / "a.csv", table(people)))
    np.testing.assert_array_equal(clip, of_world(people) if where == "world" else of_image(people))


def test_a_table_without_scores_is_all_seen(tmp_path: Path) -> None:
    image, _ = walk(3)
    text = wide(image[:, 0])
    rows = [[field for place, field in enumerate(row.split(",")) if place % 4 or not place] for row in text.split("\n")]
    clip = mediapipe.read_clip(write(tmp_path / "a.csv", "\n".join(",".join(row) for row in rows)))
    np.testing.assert_array_equal(clip, of_image(image[:, 0]))


def test_an_empty_row_of_a_table_shows_nobody(tmp_path: Path) -> None:
    image, _ = walk(5)
    rows = wide(image[:, 0]).split("\n")
    rows[3] = "2" + "," * 132
    clip = mediapipe.read_clip(write(tmp_path / "a.csv", "\n".join(rows)))
    np.testing.assert_allclose(clip[2], (clip[1] + clip[3]) / 2, atol=1e-6)


def test_frames_and_landmarks_that_a_long_table_leaves_out_are_missing(tmp_path: Path) -> None:
    image, _ = walk(6)
    header, *rows = long(image[:, 0]).splitlines()
    kept = [row for row in rows if not row.startswith(("7,", "8,4,"))]
    clip = mediapipe.read_clip(write(tmp_path / "a.csv", "\n".join([header, *kept[::-1]])))
    whole = of_image(image[:, 0])
    np.testing.assert_allclose(clip[2, 5], (whole[1, 5] + whole[3, 5]) / 2, atol=1e-6)
    np.testing.assert_allclose(clip[3, 4], (whole[1, 4] + 2 * whole[4, 4]) / 3, atol=1e-6)
    np.testing.assert_array_equal(clip[5], whole[5])


LANDMARKS = [[0.1, 0.2, 0.3, 1]] * 33
ODD = [
    ({}, ": expected a list of frames, found an object of nothing: restore"),
    ([3], ", frame 0: expected an object with landmarks, or null, found 3"),
    ([None, {"landmarks": 3}], ", frame 1, landmarks: expected a list of people, found 3"),
    ([{"landmarks": [3]}], ", frame 0, landmarks, person 0: expected a list of landmarks, found 3"),
    ([{"landmarks": LANDMARKS[:21]}], ", frame 0, landmarks, person 0: 21 landmarks, not the 33 of a pose"),
    ([{"poseWorldLandmarks": {"x": 1}}], ", frame 0, worldLandmarks, person 0: expected a list of .* found nothing"),
    ([{"landmarks": [[*LANDMARKS[:32], 3]]}], ", frame 0, landmarks, person 0: some landmarks have other fields"),
    ([{"landmarks": [[{"x": 1}] * 33]}], ", .*person 0, landmark 0: nothing is not a finite number"),
    ([{"landmarks": [[*LANDMARKS[:32], [1, 2, "3", 1]]]}], ", .*, landmark 32: the text '3' is not a finite number"),
    ([{"landmarks": [[*LANDMARKS[:32], {"x": 1, "y": 2, "z": 3, "visibilty": 0}]]}], ", .*32: nothing is not a finite"),
    ([{"landmarks": [[*LANDMARKS[:32], [1, 2]]]}], ", .*person 0: some landmarks have other fields than others"),
    ([{"landmarks": [[*LANDMARKS[:32], [1, 2, 3]]]}], ", .*person 0: some landmarks have other fields than others"),
    ([{"landmarks": [[[1, 2]] * 33]}], ", .*, landmark 0: expected 4 numbers, found a list of 2"),
    ([None, {"landMarks": [LANDMARKS]}], ", frame 1: expected one of worldLandmarks, .*found an object of landMarks"),
]


@pytest.mark.parametrize(("value", "problem"), ODD)
def test_what_is_not_understood_is_refused_with_file_and_frame(tmp_path: Path, value: Any, problem: str) -> None:
    path = write(tmp_path / "a.json", value)
    with pytest.raises(CrrlError) as caught:
        mediapipe.read_clip(path)
    assert re.match(re.escape(str(path)) + problem, str(caught.value))


@pytest.mark.parametrize(
    ("table", "change", "problem"),
    [
        (wide, swap(("x20", "x_20")), r": column 'x_20' is almost 'x20': rename it to that"),
        (wide, swap(("z32,", "depth,")), " has no column z32: a pose has 33 landmarks, each x, y, z"),
        (wide, swap(("v0,", "w,")), " has no column v0: a pose has 33 landmarks"),
        (wide, swap(("x1,", "a,")), r" has no column x1: its first line names the columns, x0,y0,z0,v0 to v32, or"),
        (wide, swap(("\n1,", "\n1,nan,")), ", line 3: 134 fields, but the first line names 133 columns"),
        (wide, lambda text: re.sub(r"\n1,[^,]*", "\n1,nan", text), ", line 3: 'nan' is not a finite number"),
        (
            wide,
            lambda text: re.sub(r"\n1,[^,]*", "\n1,", text),
            ", line 3: column x0 holds '', not one number: restore the row",
        ),
        (wide, lambda text: re.sub(r"\n1,([^,]*),([^,]*),", r"\n1,\1 \2,,", text), ", line 3: column x0 holds '"),
        (long, swap(("\n5,7,", "\n5 7,,")), ", line 9: column frame holds '5 7', not one number"),
        (
            long,
            swap(("\n5,7,", "\n5,33,")),
            ", line 9: frame and landmark should be whole numbers, landmark from 0 to 32",
        ),
        (long, swap(("\n5,7,", "\n5,7.5,")), ", line 9: frame and landmark should be whole"),
        (long, swap(("\n5,7,", "\n-5,7,")), ", line 9: frame and landmark should be whole"),
        (long, swap(("\n5,7,", "\n5,6,")), " has two rows for one landmark of a frame: files of one person are read"),
        (long, swap(("\n5,7,", "\n5000000,7,")), " has 4,999,996 frames from the first to the last, of which almost"),
        (long, swap(("\n5,7,", "\n5,x,")), ", line 9: 'x' is not a finite number"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has columns that are not read")
def test_a_wrong_table_is_refused_with_its_line(
    tmp_path: Path, table: Callable[[np.ndarray], str], change: Callable[[str], str], problem: str
) -> None:
    path = write(tmp_path / "a.csv", change(table(walk(4)[0][:, 0])))
    with pytest.raises(CrrlError) as caught:
        mediapipe.read_clip(path)
    assert re.match(re.escape(str(path)) + problem, str(caught.value)), caught.value


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_nobody_is_one_clear_line(tmp_path: Path, name: str) -> None:
    image = walk(3)[0]
    image[..., 3] = 0.1
    value = javascript(image, None) if name == "a.json" else wide(image[:, 0])
    with pytest.raises(CrrlError, match=rf"^no person in .*{name}: none of its 3 frames"):
        mediapipe.read_clip(write(tmp_path / name, value))


def load(root: Path) -> Clips:
    return mediapipe.load(mediapipe.find_files(root))


def test_a_data_set_may_hold_json_and_csv(tmp_path: Path) -> None:
    walks = [walk(3 + number, seed=number) for number in range(10)]
    for number, (image, world) in enumerate(walks):
        if number % 2:
            write(tmp_path / f"{number}.csv", wide(world[:, 0]))
        else:
            write(tmp_path / f"{number}.json", FORMS[number // 2](image, world))
    rows = [f"{number}.{'csv' if number % 2 else 'json'},{'ab'[number // 5]}\n" for number in range(10)]
    (tmp_path / "labels.csv").write_text("".join(["file,label\n", *rows]))
    clips = load(tmp_path)
    assert clips.num_joints == 33
    for number, (_, world) in enumerate(walks):
        np.testing.assert_array_equal(clips.clip(number), of_world(world[:, 0]))
    (tmp_path / "labels.csv").unlink()
    unlisted = load(tmp_path)
    assert (unlisted.names, unlisted.class_names, unlisted.split("default").test) == (clips.names, (), {})
    np.testing.assert_array_equal(unlisted.frames, clips.frames)
