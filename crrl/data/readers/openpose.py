"""OpenPose's output, one clip a folder with a JSON file for each frame; labels.csv lists the folders.

A file is called NAME_000000000012_keypoints.json, NAME for the video and the number for the frame. Each of its "people"
has "pose_keypoints_2d" ("pose_keypoints" in the first version), a row of x, y and confidence for each joint, 25 of
BODY_25 or 18 of COCO (doc/02_output.md of CMU-Perceptual-Computing-Lab/openpose), in pixels unless --keypoint_scale
changes that. Faces, hands, person_id and 3D are not read. The numbers give the times of the frames, with any constant
step; a frame that is missing between others shows nobody.
"""

from __future__ import annotations

import math
import re
from itertools import groupby
from pathlib import Path

from crrl.data.clips import Clips, FloatArray
from crrl.data.naming import files_below
from crrl.data.readers import folder, poses
from crrl.data.readers.poses import Matrix, fields, frame_in_image, items, row_of
from crrl.errors import CrrlError
from crrl.files import explain_os_errors, read_bytes, read_json, shown

JOINTS = (25, 18)
"""Joint counts of BODY_25 and of COCO."""

_NAME = re.compile(r"(.*?)(\d{1,15})_keypoints\.json", re.ASCII | re.DOTALL)
_NEAR = re.compile(r"[^.].*\d_keypoints.*json", re.IGNORECASE | re.DOTALL)
"""Names that are, or are almost, a frame's."""


def is_frame(path: Path) -> bool:
    """Whether a file has the name of a frame and holds people; other clips may have such names too."""
    return bool(_NAME.fullmatch(path.name)) and b'"people"' in read_bytes(path)


def find_files(root: Path) -> list[Path]:
    """labels.csv, then the frame files of the folders that it lists, in its order; without it those of all folders.

    Raises:
        CrrlError: there is neither; a folder does not hold OpenPose's files of one video.
    """
    if not folder.has_labels(root):
        found = dict.fromkeys(path.parent for path in files_below(root, ".json") if _NAME.fullmatch(path.name))
        if not found:
            raise folder.no_clips(root, "folder of OpenPose's files (NAME_000000000000_keypoints.json)")
        return [path for each in found for path in frame_files(each)]
    folders = [root / row["file"] for row in folder.read_labels(root)]
    return [root / folder.LABELS, *(path for each in folders for path in frame_files(each))]


def frame_files(clip: Path) -> list[Path]:
    """The frame files of a clip, by their numbers.

    Raises:
        CrrlError: `clip` is no folder, or holds no frames, or those of two videos.
    """
    with explain_os_errors(clip, "read"):
        names = sorted(path.name for path in clip.iterdir()) if clip.is_dir() else []
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    strange = next((name for name in names if _NEAR.match(name) and not _NAME.fullmatch(name)), "")
    if not found:
        raise CrrlError(
            f"{clip} is no folder of OpenPose's files (NAME_000000000000_keypoints.json), one for each frame: a clip "
            f"is one folder"
        )
    if strange:
        raise CrrlError(f"{clip / strange} is not named as OpenPose names a frame's file: rename or remove it")
    numbers = {int(match[2]): clip / match[0] for match in found}
    if others := {match[1] for match in found} - {found[0][1]}:
        raise CrrlError(
            f"{clip} holds frames of two videos, {shown(found[0][1])!r} and {shown(min(others))!r}: give each a folder"
        )
    if len(numbers) < len(found):
        raise CrrlError(f"{clip} holds two files of one frame: remove one of them")
    return [numbers[number] for number in sorted(numbers)]


def load(files: list[Path]) -> Clips:
    """Read the clips that `find_files` found, with classes and splits as in `folder`, and joints as in `poses`.

    Raises:
        CrrlError: a file is damaged or of another format or skeleton, or a clip shows nobody.
    """
    by_clip = groupby(folder.apart(files)[1], key=lambda path: path.parent)
    found = poses.load(files, _clip, "read openpose", {clip: tuple(frames) for clip, frames in by_clip})
    poses.warn_of_parts(found.frames)
    return found


def read_clip(path: Path, bodies: int | None = None) -> FloatArray:
    """The clip of a folder, float32 [T, bodies·V, 3], V 25 or 18, y up; bodies None: 1 or 2, as found.

    Raises:
        CrrlError: a file is damaged or of another format or skeleton, or no frame shows a person.
    """
    return _clip(*frame_files(path), bodies=bodies)


def _clip(*files: Path, bodies: int | None) -> FloatArray:
    rows = [_rows(file) for file in files]
    joints = next((len(row) // 3 for each in rows for row in each), JOINTS[0])
    for file, each in zip(files, rows, strict=True):
        if other := next((len(row) // 3 for row in each if len(row) != 3 * joints), 0):
            raise CrrlError(f"{file} has people of {other} joints, frames before it of {joints}: one kind per clip")
    numbers, size = [_number(file) for file in files], sum(file.stat().st_size for file in files)
    seen = {number: frame_in_image(each, joints) for number, each in zip(numbers, rows, strict=True)}
    step = math.gcd(*(number - numbers[0] for number in numbers)) or 1
    return poses.clip_in(files[0].parent, poses.at_their_times(files[0].parent, seen, size, step), size, bodies)


def _number(file: Path) -> int:
    """The frame number in a file's name."""
    match = _NAME.fullmatch(file.name)
    assert match
    return int(match[2])


def _rows(path: Path) -> list[Matrix]:
    """The rows of numbers of the people in a frame that have a body, each [75] or [54]."""
    content = fields(read_json(path), str(path), "an object with people")
    people = items(content.get("people"), f"{path}, people", "a list")
    rows = []
    for number, value in enumerate(people):
        where = f"{path}, person {number}"
        person = fields(value, where, "an object with pose_keypoints_2d")
        keypoints = person.get("pose_keypoints_2d", person.get("pose_keypoints"))
        if keypoints == [] and person.get("pose_keypoints_3d"):
            raise CrrlError(f"{where} is in 3D alone, which is not read: run OpenPose without --3d, each camera apart")
        if keypoints == []:  # hands or a face alone
            continue
        is_coco = isinstance(keypoints, list) and len(keypoints) == 3 * JOINTS[1]
        rows.append(row_of(keypoints, 3 * JOINTS[is_coco], f"{where}, pose_keypoints_2d"))
    return rows
