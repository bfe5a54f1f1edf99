"""The pickles of pyskl and MMAction2: {"split": {name: [clip names]}, "annotations": [{...}]}, skeletons in 3D or 2D.

An annotation has, as pyskl's tools/data/README.md says, frame_dir (the clip's name), label, total_frames, keypoint
[M, T, V, C] and, in 2D, keypoint_score [M, T, V]. MMAction2 0.x has two files in place of "split", each a list of
annotations alone: ntu60_xsub_train.pkl and ntu60_xsub_val.pkl, say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from crrl.data.arrays import (
    all_joints_of,
    check_unique,
    join_bodies,
    leave_out_empty,
    ntu_facts,
    ntu_split,
    only_file,
    warn_if_coarse,
)
from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.pickles import read_pickle
from crrl.errors import CrrlError

BODIES = 2
"""Bodies kept of each clip."""
SIDES = ("val", "test")
"""What the side of a split that is not for training is called."""

Array = npt.NDArray[Any]


def find_files(root: Path) -> list[Path]:
    """The one .pkl file in `root`, or `root` itself; or the two of MMAction2 0.x, that for training first.

    Raises:
        CrrlError: there is none, or several: one of them is to be named itself.
    """
    for train in root.glob("*train.pkl"):
        others = {train.with_name(re.sub(r"train\.pkl$", f"{side}.pkl", train.name)) for side in SIDES}
        rest = set(root.glob("*.pkl")) - {train}
        if len(rest) == 1 and rest <= others:
            return [train, *rest]
    return [only_file(root, ["*.pkl"], "pyskl annotation file (ntu60_3danno.pkl, say)", itself=True)]


def load(files: list[Path]) -> Clips:
    """Read the one or two files that `find_files` found: [ΣT, M·V, 3], M = 2 if any clip shows two bodies, else 1.

    Of more bodies the two that move most are kept. A 2D joint becomes (x, y, 0) in pixels; one of score 0 is absent. A
    clip that shows no body in any frame is left out, with a warning.
    The splits are the file's: "xsub_train" with "xsub_val" (or "xsub_test") is called "cross-subject", xview
    "cross-view", xset "cross-setup", others as they are; "train" with "val" "default". Two files are one split, called
    so by what their names hold of these, else "default".

    Raises:
        CrrlError: a file is damaged, holds something that a restricted unpickler refuses, or does not keep to the
            format; no clip shows a body.
    """
    source = files[0] if len(files) == 1 else files[0].parent
    places, annotations, split = _of_one_file(*files) if len(files) == 1 else _of_two_files(*files)
    counts = [_check(*item) for item in zip(places, annotations, strict=True)]
    names: list[str] = [item["frame_dir"] for item in annotations]
    labels = np.array([item["label"] for item in annotations], np.int64)
    check_unique(source, names)
    splits = _splits(source, split, names)
    warn_if_coarse(source, min((item["keypoint"].dtype for item in annotations), key=lambda dtype: dtype.itemsize))
    bodies = min(max(counts), BODIES)
    clips = Clips.from_arrays(
        _clips(annotations, bodies),
        labels=labels,
        names=[f"{place} ({name})" for place, name in zip(places, names, strict=True)],
        class_names=[str(number) for number in range(1, int(labels.max()) + 2)],
        **ntu_facts(names),
        allow_empty=True,
    )
    return leave_out_empty(source, replace(clips, names=tuple(names), splits=splits))


def _of_one_file(path: Path) -> tuple[list[str], list[Any], object]:
    """Where each annotation lies, for messages; the annotations; the members of each split by name."""
    content = read_pickle(path)
    if _is_list(content):
        raise CrrlError(
            f"{path} is a list of annotations, as MMAction2 0.x has one for training and one for validation: give "
            f"--data a folder with these two alone (NAME_train.pkl, NAME_val.pkl)"
        )
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(annotations, list) or not annotations:
        raise CrrlError(f'{path} is no pyskl pickle: a dict with "split" and a list of "annotations" is needed')
    return [f"{path}, annotations[{place}]" for place in range(len(annotations))], annotations, content.get("split")


def _of_two_files(*files: Path) -> tuple[list[str], list[Any], object]:
    """The same of the two lists of MMAction2 0.x."""
    places, annotations, split = [], [], {}
    called = next((word for word in files[0].stem.split("_") if ntu_split(word, "")), "")
    for path, side in zip(files, ("train", "val"), strict=True):
        content = read_pickle(path)
        if not _is_list(content):
            raise CrrlError(
                f"{path} is no list of annotations, as MMAction2 0.x has them beside each other: restore it"
            )
        places += [f"{path}, [{place}]" for place in range(len(content))]
        annotations += content
        split[f"{called}_{side}"] = [item.get("frame_dir") for item in content]
    return places, annotations, split


def _is_list(content: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(content, list) and len(content) > 0 and all(isinstance(item, dict) for item in content)


def _check(where: str, item: object) -> int:
    """The bodies of an annotation, 1 where it shows none, after checking all that is read of it."""
    if not isinstance(item, dict):
        raise CrrlError(f"{where} is no dict: restore the file")
    name, label, frames = item.get("frame_dir"), item.get("label"), item.get("total_frames")
    keypoint: Any = item.get("keypoint")
    score: Any = item.get("keypoint_score")
    if not isinstance(name, str) or not name:
        raise CrrlError(f"{where} has no name (frame_dir): restore the file")
    if type(label) is not int or not 0 <= label < 10000:
        raise CrrlError(f"{where} ({name[:80]}) has no label that is a class's number: restore the file")
    if not _is_float(keypoint, 4) or keypoint.shape[3] not in (2, 3) or keypoint.shape[2] == 0:
        raise CrrlError(
            f"{where} ({name[:80]}) has no keypoint [M, T, V, 2 or 3] of numbers: restore the file (pyskl's list of "
            f"Kinetics, whose skeletons lie in other files, is not read)"
        )
    if type(frames) is not int or frames != keypoint.shape[1]:
        raise CrrlError(f"{where} ({name[:80]}): total_frames and keypoint do not fit each other: restore the file")
    if keypoint.shape[3] == 2 and (not _is_float(score, 3) or score.shape != keypoint.shape[:3]):
        raise CrrlError(f"{where} ({name[:80]}) is 2D without a keypoint_score [M, T, V]: restore the file")
    return len(keypoint) if _shows_body(keypoint, score) else 1


def _is_float(value: object, axes: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == axes and value.dtype.kind == "f"


def _clips(annotations: list[Any], bodies: int) -> Iterator[FloatArray]:
    """The clips one after the other; an annotation's arrays are let go once they are read."""
    for item in annotations:
        yield _clip(item.pop("keypoint"), item.pop("keypoint_score", None), bodies)


def _clip(keypoint: Array, score: Array | None, bodies: int) -> FloatArray:
    """[M, T, V, C] as float32 [T, bodies·V, 3]; T is 0 where it shows nobody."""
    if not _shows_body(keypoint, score):
        return np.zeros((0, bodies * keypoint.shape[2], 3), np.float32)
    present = all_joints_of(keypoint) if keypoint.shape[3] == 3 or score is None else score > 0
    points = np.zeros((*keypoint.shape[:3], 3), np.float32)
    points[..., : keypoint.shape[3]] = np.where(present[..., None], keypoint, 0)
    kept = np.arange(len(points))
    if len(points) > bodies:
        kept = np.sort(np.argsort(-_motion(points), kind="stable")[:bodies])
    filled = np.zeros((bodies, *points.shape[1:]), np.float32)
    shown = np.zeros(filled.shape[:3], bool)
    filled[: len(kept)], shown[: len(kept)] = points[kept], present[kept]
    return join_bodies(filled.transpose(1, 0, 2, 3), shown.transpose(1, 0, 2))


def _shows_body(keypoint: Array, score: Array | None) -> bool:
    """Whether keypoints [M, T, V, C] show anybody: in 2D by their scores, too."""
    return bool(keypoint.any() and (keypoint.shape[3] == 3 or score is None or (score > 0).any()))


def _motion(points: FloatArray) -> npt.NDArray[np.float64]:
    """How much each body moves: the variances of its coordinates over the frames that show it, added up; [M]."""
    variances = [body[body.any(axis=(1, 2))].astype(np.float64) for body in points]
    return np.array([body.var(axis=0).sum() if len(body) else 0.0 for body in variances])


def _splits(path: Path, split: object, names: list[str]) -> dict[str, Split]:
    if not isinstance(split, dict) or not all(isinstance(name, str) for name in split):
        raise CrrlError(f'{path} has no "split" by name: restore the file')
    place = {name: number for number, name in enumerate(names)}
    sides = {name: _members(path, name, members, place) for name, members in split.items()}
    splits = {}
    for name, train in sides.items():
        if "train" not in name:
            continue
        others = (sides.get(name.replace("train", other)) for other in SIDES)
        test = next((other for other in others if other is not None), None)
        if test is None:
            raise CrrlError(f"{path}: split {name[:80]!r} has no counterpart for testing (val or test); add it")
        if np.intersect1d(train, test).size:
            raise CrrlError(
                f"{path}: split {name[:80]!r} and its counterpart for testing share clips; restore the file"
            )
        called = re.sub(r"[_-]?train[_-]?", "", name) or "default"
        splits[ntu_split(called, called)] = Split(train, {"all": test})
    if not splits:
        raise CrrlError(f'{path}: "split" names no training clips (xsub_train, train, ...): add them')
    return splits


def _members(path: Path, name: str, members: object, place: dict[str, int]) -> IntArray:
    if not isinstance(members, list | tuple | np.ndarray):
        raise CrrlError(f"{path}: split {name[:80]!r} is no list of clips: restore the file")
    for member in members:
        if not isinstance(member, str) or member not in place:
            what = repr(member[:80]) if isinstance(member, str) else f"a {type(member).__name__}"
            raise CrrlError(
                f"{path}: split {name[:80]!r} names {what}, which has no annotation: add it, or take it out"
            )
    return np.array([place[member] for member in members], np.int64)
