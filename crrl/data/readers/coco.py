"""Poses of COCO's 17 joints, one clip a JSON file; labels.csv lists the files as for a folder of arrays.

Four formats are recognised by their content, each a list of frames except the last:

- MMPose's inferencer and demos: {"frame_id", "instances"}, the list alone or as "instance_info"; an instance has
  "keypoints", [17][2], and "keypoint_scores", [17] (mmpose.readthedocs.io, user_guides/inference). The frame_id gives a
  frame's time; numbers that are skipped show nobody.
- Ultralytics: `Results.to_json` of each frame, a list of objects whose "keypoints" have "x", "y" and, if the model
  gives it, "visible", each [17] (docs.ultralytics.com, reference/engine/results).
- rtmlib and RTMPose: the result of each frame, keypoints [N][17][2] and scores [N][17], as a pair or as
  {"keypoints", "scores"} (github.com/Tau-J/rtmlib).
- COCO's results, also written by AlphaPose: {"image_id", "keypoints"} for each person, x, y, score of 17 joints in one
  row (cocodataset.org, format of results). An image_id is the number of a frame, or a name that ends in it
  (frame_12.jpg) and is otherwise always the same. Numbers that are skipped show nobody.

Joints: nose, left eye, right eye, ears, shoulders, elbows, wrists, hips, knees and ankles, left before right. Of larger
skeletons the first 17 are read: Halpe's 26 and 136 (rtmlib's BodyWithFeet, AlphaPose) and COCO-WholeBody's 133
(rtmlib's Wholebody, MMPose). Track numbers are not read: people are followed as in `poses`. Ultralytics' text files
(save_txt) are not read: their coordinates are shares of an image of unknown size.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, FloatArray
from crrl.data.readers import folder, poses
from crrl.data.readers.arrays import described
from crrl.data.readers.poses import Frame, Matrix, fields, frame_in_image, items, row_of, table
from crrl.errors import CrrlError
from crrl.files import read_json

NUM_JOINTS = 17
MORE = (26, 133, 136)
"""Joint counts of skeletons whose first 17 joints are COCO's."""

find_files = partial(folder.find_files, endings=(".json",))


def load(files: list[Path]) -> Clips:
    """Read the clips that `find_files` found, with classes and splits as in `folder`, and joints as in `poses`.

    Raises:
        CrrlError: a file is damaged, of another format or skeleton, or shows nobody.
    """
    found = poses.load(files, read_clip, "read coco")
    poses.warn_of_parts(found.frames)
    return found


def read_clip(path: Path, bodies: int | None = None) -> FloatArray:
    """One clip, float32 [T, bodies·17, 3] in pixels, y up; bodies None: 1 or 2, as found.

    Raises:
        CrrlError: the file is damaged, of another format or skeleton, or shows nobody.
    """
    return poses.clip_in(path, _frames(path, read_json(path)), path.stat().st_size, bodies)


def _frames(path: Path, content: Any) -> list[Frame]:
    if isinstance(content, dict):
        content = content.get("instance_info", content)
    frames = items(content, str(path), "a list of frames, or of COCO's results, or instance_info, which is one")
    if frames and all(isinstance(each, dict) and "image_id" in each for each in frames):
        return _of_results(path, frames)
    if any(isinstance(each, dict) and "keypoints" in each and "scores" not in each for each in frames):
        raise CrrlError(f"{path} holds the people of one image: a clip is a list of such lists, one for each frame")
    found = [frame_of(each, f"{path}, frame {number}") for number, each in enumerate(frames)]
    if not any(isinstance(each, dict) and "frame_id" in each for each in frames):
        return found
    seen: dict[int, Frame] = {}
    for place, (each, frame) in enumerate(zip(frames, found, strict=True)):
        number = each.get("frame_id") if isinstance(each, dict) else None
        if type(number) is not int or not 0 <= number < 10**15 or number in seen:
            twice = " again" if number in seen else ""
            raise CrrlError(
                f"{path}, frame {place}: frame_id is {described(number)}{twice}, not a number of its own: restore it"
            )
        seen[number] = frame
    return poses.at_their_times(path, seen, path.stat().st_size)


def frame_of(value: Any, where: str) -> Frame:
    """A frame of MMPose, Ultralytics or rtmlib; else a CrrlError names `where`."""
    if isinstance(value, dict) and "instances" in value:
        value = value["instances"]
    elif isinstance(value, dict) and "scores" in value:
        return _of_arrays(value.get("keypoints"), value["scores"], where)
    people = items(value, where, "a list of people, or an object with instances, or with keypoints and scores")
    if len(people) == 2 and all(isinstance(each, list) for each in people):
        return _of_arrays(people[0], people[1], where)
    found = [_person(each, f"{where}, person {number}") for number, each in enumerate(people)]
    return frame_in_image(found, NUM_JOINTS)


def _of_arrays(keypoints: Any, scores: Any, where: str) -> Frame:
    people = items(keypoints, where, "a list of people's keypoints")
    if len(items(scores, where, "a list of people's scores")) != len(people):
        raise CrrlError(f"{where}: keypoints of {len(people)} people, but scores of {len(scores)}: save both as given")
    both = [_scored(*each, f"{where}, person {number}") for number, each in enumerate(zip(people, scores, strict=True))]
    return frame_in_image(both, NUM_JOINTS)


def _person(value: Any, where: str) -> Matrix:
    """An instance of MMPose or an object of Ultralytics, [17, 3]."""
    person = fields(value, where, "an object with keypoints")
    keypoints = person.get("keypoints")
    if not isinstance(keypoints, dict):
        return _scored(keypoints, person.get("keypoint_scores"), where)
    visible = [1.0] * _joints(keypoints.get("x")) if len(keypoints) == 2 else keypoints.get("visible")
    columns = {"x": keypoints.get("x"), "y": keypoints.get("y"), "visible": visible}
    joints = _joints(columns["x"])
    rows = [row_of(column, joints, f"{where}, keypoints, {name}") for name, column in columns.items()]
    return np.stack(rows, axis=1)[:NUM_JOINTS]


def _scored(keypoints: Any, scores: Any, where: str) -> Matrix:
    if isinstance(keypoints, list) and keypoints and isinstance(keypoints[0], list) and len(keypoints[0]) == 3:
        raise CrrlError(
            f"{where}: keypoints of three numbers are not read, as estimates in 3D are of other joints than COCO's: "
            f"give x and y, and the scores apart; or save clips as arrays [frames, joints, 3] (.npy)"
        )
    joints = _joints(keypoints)
    points = table(keypoints, joints, 2, f"{where}, keypoints")
    return np.column_stack([points, row_of(scores, joints, f"{where}, keypoint scores")])[:NUM_JOINTS]


def _joints(values: Any, numbers: int = 1) -> int:
    """The expected joint count of a list with `numbers` entries for each joint: 17, or one of MORE."""
    return next((more for more in MORE if isinstance(values, list) and len(values) == more * numbers), NUM_JOINTS)


def _of_results(path: Path, results: list[dict[str, Any]]) -> list[Frame]:
    """The frames of COCO's results, from the first to the last."""
    people: dict[int, list[Matrix]] = {}
    kinds = [(_rest(result["image_id"]), result.get("category_id")) for result in results]
    for number, (result, (rest, category)) in enumerate(zip(results, kinds, strict=True)):
        where = f"{path}, result {number}"
        image = _number(result["image_id"], where)
        if rest != kinds[0][0]:
            raise CrrlError(
                f"{where}: image_id {result['image_id']!r:.60} differs from {results[0]['image_id']!r:.60} in more "
                f"than its last number: give each video a file, and images names that end in their numbers"
            )
        if category != kinds[0][1]:
            said = f"category_id is {described(category)}, of the first {described(kinds[0][1])}"
            raise CrrlError(f"{where}: {said}: keep only people in the file")
        keypoints = result.get("keypoints")
        row = row_of(keypoints, 3 * _joints(keypoints, 3), f"{where} (image {image}), keypoints")
        people.setdefault(image, []).append(row.reshape(-1, 3)[:NUM_JOINTS])
    seen = {image: frame_in_image(rows, NUM_JOINTS) for image, rows in people.items()}
    return poses.at_their_times(path, seen, path.stat().st_size)


def _rest(image: Any) -> tuple[str, ...]:
    """An image_id without its frame number: the text before and after it."""
    return tuple(re.split(r"\d+(?=\D*$)", image, maxsplit=1, flags=re.ASCII)) if isinstance(image, str) else ()


def _number(image: Any, where: str) -> int:
    """The frame number of an image_id: the id itself, or the last number in it."""
    digits = re.findall(r"\d{1,15}", image, re.ASCII) if isinstance(image, str) else []
    if type(image) is int and 0 <= image < 10**15:
        return image
    if not digits:
        raise CrrlError(f"{where}: image_id is {described(image)}, not the number of a frame: give it one")
    return int(digits[-1])
