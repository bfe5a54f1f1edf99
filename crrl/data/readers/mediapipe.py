"""Saved results of MediaPipe's pose landmarker, one clip a JSON or CSV file; labels.csv lists the files.

A frame has 33 landmarks of each person, each x, y, z and visibility: in the image (shares of its width and height), and
in the world (metres from the middle between the hips); see ai.google.dev/edge/mediapipe/solutions/vision/
pose_landmarker. MediaPipe itself writes no files. These are read:

- JSON: a list of frames. Each is a result with the field names of JavaScript (landmarks, worldLandmarks; older:
  poseLandmarks, poseWorldLandmarks) or Python (pose_landmarks, pose_world_landmarks). A field holds a list of people,
  or one person's landmarks, alone or as {"landmark": [...]}. A landmark is an object, or a list of the four numbers;
  "presence", which Python adds, is not read. A frame without anybody has an empty list, null, or none of these fields.
- CSV of one person: a row for each frame with columns x0, y0, z0, v0 to v32 (or from 1 to 33; "visibility0" for v0),
  empty where nobody is seen; or a row for each landmark, with columns frame, landmark (0 to 32), x, y, z, visibility.

World coordinates are used if a file has them in every frame that shows somebody. Otherwise image coordinates are used
without their z, which is a guess: (x, y, 0), x in widths and y in heights, so that shapes are stretched unless the
image is square. A CSV file holds world coordinates if the middle between its hips (23 and 24) stays at the origin.
People are followed by their image coordinates where these are known, because in the world everybody is at the origin.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, FloatArray
from crrl.data.readers import folder, poses
from crrl.data.readers.folder import read_rows
from crrl.data.readers.poses import Frame, Matrix, fields, items, not_as_expected, row_of
from crrl.data.readers.text import Line, line_error, numbers
from crrl.errors import CrrlError
from crrl.files import read_bytes, read_json, shown

NUM_JOINTS = 33
HIPS = [23, 24]
AT_ORIGIN = 0.02
"""Largest median distance, in metres, of the middle between the hips from the origin in world coordinates."""
IMAGE = ("landmarks", "pose_landmarks", "poseLandmarks")
WORLD = ("worldLandmarks", "pose_world_landmarks", "poseWorldLandmarks")
BESIDE = ("segmentationMasks", "segmentation_masks", "segmentationMask", "segmentation_mask", "image", "timestamp")
"""Other fields of a result; a frame without anybody may have only these."""
SCORES = ("v", "visibility")
"""Column names of a landmark's visibility in a table with a row for each frame, before its number."""
LONG = ("frame", "landmark", "x", "y", "z", "visibility")
MOST_FRAMES = 10**9

find_files = partial(folder.find_files, endings=(".json", ".csv"))


def load(files: list[Path]) -> Clips:
    """Read the clips that `find_files` found, with classes and splits as in `folder`, and joints as in `poses`.

    Raises:
        CrrlError: a file is damaged, of another format or skeleton, or shows nobody.
    """
    return poses.load(files, read_clip, "read mediapipe")


def read_clip(path: Path, bodies: int | None = None) -> FloatArray:
    """One clip, float32 [T, bodies·33, 3], y up; metres in world coordinates; bodies None: 1 or 2, as found.

    Raises:
        CrrlError: the file is damaged, of another format or skeleton, or shows nobody.
    """
    frames = _of_csv(path) if path.suffix.lower() == ".csv" else _of_json(path)
    return poses.clip_in(path, frames, path.stat().st_size, bodies)


def _of_json(path: Path) -> list[Frame]:
    frames = items(read_json(path), str(path), "a list of frames")
    results = [_result(value, f"{path}, frame {number}") for number, value in enumerate(frames)]
    if all(len(world) >= len(image) for image, world in results):
        return [Frame(world, image[..., :3] if len(image) == len(world) else None) for image, world in results]
    return [Frame(_flat(image)) for image, _ in results]


def _flat(points: Matrix) -> Matrix:
    """Points with z = 0."""
    return points * (1, 1, 0, 1)


def _result(value: Any, where: str) -> tuple[Matrix, Matrix]:
    """The people of a frame in the image and in the world, [N, 33, 4] each; N is 0 without the field."""
    frame = fields({} if value is None else value, where, "an object with landmarks, or null")
    if frame and not frame.keys() & {*IMAGE, *WORLD, *BESIDE}:
        raise not_as_expected(where, "one of " + ", ".join(WORLD + IMAGE), value)
    image, world = (
        _people(next((frame[name] for name in names if name in frame), None), f"{where}, {names[0]}")
        for names in (IMAGE, WORLD)
    )
    return image, world


def _people(value: Any, where: str) -> Matrix:
    """A list of people, or one person alone, or null, as [N, 33, 4]."""
    people = [value] if _is_person(value) else items([] if value is None else value, where, "a list of people")
    found = [_landmarks(person, f"{where}, person {number}") for number, person in enumerate(people)]
    return np.array(found).reshape(-1, NUM_JOINTS, 4)


def _is_person(value: Any) -> bool:
    """Whether these are the landmarks of one person, not a list of people."""
    if isinstance(value, dict):
        return True
    first = value[0] if isinstance(value, list) and value else None
    return (isinstance(first, dict) and "landmark" not in first) or (isinstance(first, list) and len(first) in (3, 4))


def _landmarks(value: Any, where: str) -> Matrix:
    """x, y, z and visibility of one person, [33, 4]."""
    points = items(value.get("landmark") if isinstance(value, dict) else value, where, "a list of landmarks")
    if len(points) != NUM_JOINTS:
        raise CrrlError(f"{where}: {len(points)} landmarks, not the {NUM_JOINTS} of a pose: give MediaPipe's pose")
    if len({len(point) if isinstance(point, list | dict) else 0 for point in points}) > 1:
        raise CrrlError(f"{where}: some landmarks have other fields than others, as visibility: restore the file")
    return np.stack([_landmark(point, f"{where}, landmark {number}") for number, point in enumerate(points)])


def _landmark(value: Any, where: str) -> Matrix:
    """One landmark, [4]; without visibility, or where it is null, the landmark counts as seen."""
    if isinstance(value, dict):
        seen = len(value) == 3 or value.get("visibility", 0) is None
        value = [value.get(name) for name in (LONG[2:5] if seen else LONG[2:])]
    if isinstance(value, list) and len(value) == 3:
        value = [*value, 1.0]
    return row_of(value, 4, where)


def _of_csv(path: Path) -> list[Frame]:
    first = read_bytes(path, "a table (CSV)").partition(b"\n")[0].lower()
    people = _by_landmark(path) if b"landmark" in first else _by_frame(path)
    seen = people[:, HIPS, 3].min(axis=1, initial=1) > 0
    middle = np.linalg.norm(people[seen][:, HIPS, :3].mean(axis=1), axis=1)
    if not len(middle) or np.median(middle) > AT_ORIGIN:
        people = _flat(people)
    return [Frame(person[None]) for person in people]


def _by_frame(path: Path) -> Matrix:
    """A table with a row for each frame, [T, 33, 4]; zeros for a row without landmarks."""
    known = ["frame", *(f"{axis}{number}" for number in range(NUM_JOINTS + 1) for axis in ("x", "y", "z", *SCORES))]
    columns = "x0,y0,z0,v0 to v32, or frame,landmark,x,y,z,visibility (joints but MediaPipe's: save an array, .npy)"
    rows = read_rows(path, {"x1", "y1", "z1"}, known, columns)
    first = 0 if "x0" in rows[0][1] else 1
    score = next((name for name in SCORES if any(f"{name}{number}" in rows[0][1] for number in range(1, 33))), None)
    names = [
        f"{axis}{first + number}" for number in range(NUM_JOINTS) for axis in ("x", "y", "z", *filter(None, [score]))
    ]
    if missing := next((name for name in names if name not in rows[0][1]), None):
        raise CrrlError(f"{path} has no column {missing}: a pose has {NUM_JOINTS} landmarks, each x, y, z")
    lines = [_numbers_of(path, line, row, names) for line, row in rows]
    people = np.zeros((len(rows), NUM_JOINTS, 4))
    seen = [place for place, line in enumerate(lines) if line.text]
    values = numbers(path, [lines[place] for place in seen], len(names)).reshape(-1, NUM_JOINTS, 4 if score else 3)
    people[seen, :, 3] = 1
    people[seen, :, : values.shape[2]] = values
    return people


def _numbers_of(path: Path, line: int, row: dict[str, str], names: list[str]) -> Line:
    """The numbers in the columns `names` of a row, which has one in each of them, or nothing in any."""
    cells = [row[name].split() for name in names]
    wrong = next((place for place, cell in enumerate(cells) if len(cell) != 1), None)
    if wrong is not None and any(cells):
        found = shown(row[names[wrong]])
        raise line_error(path, line, f"column {names[wrong]} holds {found!r}, not one number", "restore the row")
    return Line(line, " ".join(cell[0] for cell in cells if cell))


def _by_landmark(path: Path) -> Matrix:
    """A table with a row for each landmark, [T, 33, 4]; zeros for a frame without rows."""
    rows = read_rows(path, set(LONG[:5]), LONG, ",".join(LONG))
    names = [name for name in LONG if name in rows[0][1]]
    values = numbers(path, [_numbers_of(path, line, row, names) for line, row in rows], len(names))
    frames, landmarks = values[:, 0], values[:, 1]
    whole = (values[:, :2] % 1 == 0) & (values[:, :2] >= 0) & (values[:, :2] < (MOST_FRAMES, NUM_JOINTS))
    if not whole.all():
        wrong = rows[int(whole.all(axis=1).argmin())][0]
        raise line_error(
            path, wrong, f"frame and landmark should be whole numbers, landmark from 0 to {NUM_JOINTS - 1}"
        )
    places = np.stack([frames - frames.min(), landmarks]).astype(np.int64)
    _, counts = np.unique(places, axis=1, return_counts=True)
    if (counts > 1).any():
        raise CrrlError(f"{path} has two rows for one landmark of a frame: files of one person are read")
    poses.check_length(path, int(places[0].max()) + 1, NUM_JOINTS, path.stat().st_size)
    people = np.zeros((int(places[0].max()) + 1, NUM_JOINTS, 4))
    people[*places, 3] = 1
    people[*places, : values.shape[1] - 2] = values[:, 2:]
    return people
