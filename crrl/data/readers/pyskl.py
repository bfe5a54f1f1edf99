"""The pickles of pyskl and MMAction2: {"split": {name: [clip names]}, "annotations": [{...}]}, skeletons in 3D or 2D.

By pyskl's tools/data/README.md an annotation has frame_dir (the clip's name), label, total_frames, keypoint [M, T, V,
C] and, in 2D, keypoint_score [M, T, V]. MMAction2 0.x has no "split" but two files, each a list of annotations:
ntu60_xsub_train.pkl and ntu60_xsub_val.pkl, say.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.readers import arrays
from crrl.data.readers.arrays import described
from crrl.data.readers.pickles import read_pickle
from crrl.errors import CrrlError
from crrl.files import shown

BODIES = 2
"""Bodies kept of each clip, at most."""
SIDES = ("val", "test")
"""The names of the test side of a split."""

MOST_SPLITS, MOST_JOINTS = 100, 1000
"""Files have far fewer of these, but a pickle can name one list or array any number of times."""

Array = npt.NDArray[Any]


def find_files(root: Path) -> list[Path]:
    """The one .pkl file in `root`, or `root` itself; or the two of MMAction2 0.x, the training one first.

    Raises:
        CrrlError: there is none, or several, so that one of them must be given itself.
    """
    for train in root.glob("*train.pkl"):
        others = {train.with_name(re.sub(r"train\.pkl$", f"{side}.pkl", train.name)) for side in SIDES}
        rest = set(root.glob("*.pkl")) - {train}
        if len(rest) == 1 and rest <= others:
            return [train, *rest]
    return [arrays.only_file(root, ["*.pkl"], "pyskl annotation file (ntu60_3danno.pkl, say)", itself=True)]


def load(files: list[Path]) -> Clips:
    """Read the one or two files that `find_files` found: [ΣT, M·V, 3], M = 2 if any clip shows two bodies, else 1.

    Of more bodies the two that move most are kept. A 2D joint becomes (x, y, 0) in pixels; a joint of score 0 is
    absent. Joints (x, y, score) are recognised as 2D, with a warning, if their third number equals keypoint_score or
    lies between 0 and 1.5 while x and y are pixels. A clip that shows no body is left out, with a warning.

    The splits are the file's: "xsub_train" with "xsub_val" (or "xsub_test") becomes "cross-subject", xview
    "cross-view", xset "cross-setup", "train" with "val" "default"; other names stay. Two files are one split, named by
    these words in their names, else "default". A warning names the splits, and counts the clips, that are not used.

    Raises:
        CrrlError: a file is damaged, holds something that the restricted unpickler refuses, has another format, or
            names one array so often that it would be larger than the file; no clip shows a body.
    """
    source = files[0] if len(files) == 1 else files[0].parent
    places, annotations, split = _of_one_file(*files) if len(files) == 1 else _of_two_files(*files)
    for place, item in zip(places, annotations, strict=True):
        _check(place, item)
    total = sum(item["keypoint"].nbytes for item in annotations)
    if total > max(arrays.UNPACKED, sum(path.stat().st_size for path in files)):
        raise CrrlError(
            f"{source} has {total:,} bytes of keypoints, more than it can hold: the annotations are of the same few "
            f"arrays many times; restore it, or write each clip once"
        )
    names: list[str] = [item["frame_dir"] for item in annotations]
    labels = np.array([item["label"] for item in annotations], np.int64)
    arrays.check_unique(source, names)
    arrays.warn_of_actions(source, names, labels.tolist())
    splits = _splits(source, split, names)
    _take_scores(source, annotations)
    for dtype in sorted({item["keypoint"].dtype.name for item in annotations}):
        arrays.warn_if_coarse(source, dtype)
    seen = (item["keypoint"] for item in annotations if _shows_body(item["keypoint"], item["keypoint_score"]))
    bodies = max(map(len, seen), default=1)
    clips = Clips.from_arrays(
        _clips(annotations, min(bodies, BODIES)),
        labels=labels,
        names=names,
        places=[f"{place} ({name})" for place, name in zip(places, names, strict=True)],
        class_names=[str(number) for number in range(1, int(labels.max()) + 2)],
        splits=splits,
        **arrays.ntu_facts(names),
        allow_empty=True,
    )
    return arrays.leave_out_empty(source, clips)


def _of_one_file(path: Path) -> tuple[list[str], list[Any], object]:
    """The place of each annotation, for messages; the annotations; and the clip names of each split."""
    content = read_pickle(path)
    if _is_list(content):
        raise CrrlError(
            f"{path} is a list of annotations, as MMAction2 0.x has one for training and one for validation: give "
            f"--data a folder with only these two (NAME_train.pkl, NAME_val.pkl)"
        )
    annotations = arrays.as_list(content.get("annotations")) if isinstance(content, dict) else None
    if not annotations:
        found = f"a dict of {_keys(content)}" if isinstance(content, dict) else described(content)
        raise CrrlError(
            f'{path} is not a pyskl pickle: a dict with "split" and a list of "annotations" is needed, found {found}'
        )
    return [f"{path}, annotations[{place}]" for place in range(len(annotations))], annotations, content.get("split")


def _keys(content: dict[Any, Any]) -> str:
    return ", ".join(shown(str(key)) for key in list(content)[:9]) or "nothing"


def _of_two_files(*files: Path) -> tuple[list[str], list[Any], object]:
    """The same for the two lists of MMAction2 0.x."""
    places, annotations, split = [], [], {}
    called = next((word for word in files[0].stem.split("_") if arrays.ntu_split(word, "")), "")
    for path, side in zip(files, ("train", "val"), strict=True):
        content = read_pickle(path)
        if not _is_list(content):
            raise CrrlError(
                f"{path} is not a list of annotations, as MMAction2 0.x has them beside each other: restore it"
            )
        places += [f"{path}, [{place}]" for place in range(len(content))]
        annotations += content
        split[f"{called}_{side}"] = [item.get("frame_dir") for item in content]
    return places, annotations, split


def _is_list(content: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(content, list) and len(content) > 0 and all(isinstance(item, dict) for item in content)


def _check(where: str, item: object) -> None:
    """Check what is read of an annotation, and set its score to [M, T, V] or None."""
    if not isinstance(item, dict):
        raise CrrlError(f"{where} is not a dict, but {described(item)}: write each annotation as one")
    name, label = item.get("frame_dir"), item.get("label")
    if not isinstance(name, str) or not name:
        raise CrrlError(f"{where} has no name (frame_dir), but {described(name)}: add it to its {_keys(item)}")
    where = f"{where} ({shown(name)})"
    if type(label) is not int or not 0 <= label < arrays.MOST_CLASSES:
        least_and_most = f"0 to {arrays.MOST_CLASSES - 1}"
        raise CrrlError(
            f"{where} has no label that is a class's number, {least_and_most}, but {described(label)}: give it one"
        )
    keypoint = _keypoint(where, item.get("keypoint"))
    _check_frames(where, item.get("total_frames"), keypoint)
    item["keypoint_score"] = _score(where, item.get("keypoint_score"), keypoint)


def _keypoint(where: str, keypoint: object) -> Array:
    """Check that the keypoint is an array of the right shape, and return it."""
    remedy = "give it that shape"
    if not isinstance(keypoint, np.ndarray) or keypoint.dtype.kind not in "fiu":
        remedy = "make it an array, np.asarray(keypoint, np.float32)"
        if keypoint is None:
            remedy = "add it (pyskl's list of Kinetics, whose skeletons lie in other files, is not read)"
    elif keypoint.ndim == 4 and keypoint.shape[3] in (2, 3) and 0 < keypoint.shape[2] <= MOST_JOINTS:
        return keypoint
    elif keypoint.ndim == 3 and keypoint.shape[2] in (2, 3):
        remedy = "the axis of persons is missing, keypoint[None] has it"
    raise CrrlError(
        f"{where} has no keypoint [M, T, V, 2 or 3] of numbers (persons, frames, joints, x y or x y z), but "
        f"{described(keypoint)}: {remedy}"
    )


def _check_frames(where: str, frames: object, keypoint: Array) -> None:
    """Check that total_frames is T of [M, T, V, C]; without total_frames, that M is not larger than T."""
    persons, count = keypoint.shape[:2]
    if frames is None and (persons <= count or count == 0):
        return
    if type(frames) is not int or frames != count:
        swapped = persons > count if frames is None else type(frames) is int and frames == persons
        remedy = "swap its first two axes, if they are" if swapped else "correct one of them"
        raise CrrlError(
            f"{where}: total_frames and keypoint do not fit each other, {described(frames)} and {described(keypoint)}, "
            f"which is {persons} persons in {count} frames: {remedy}"
        )


def _score(where: str, score: object, keypoint: Array) -> Array | None:
    """The score as [M, T, V]; None if there is none, which is allowed for 3D skeletons."""
    shape = keypoint.shape[:3]
    if score is None and keypoint.shape[3] == 3:
        return None
    if isinstance(score, np.ndarray) and score.shape == (*shape, 1):
        score = score[..., 0]
    if not isinstance(score, np.ndarray) or score.dtype.kind not in "fiub" or score.shape != shape:
        raise CrrlError(
            f"{where} is {keypoint.shape[3]}D without a keypoint_score [M, T, V], here {list(shape)}, but with "
            f"{described(score)}: give it that shape (np.ones where all joints were seen)"
        )
    if not np.isfinite(score).all():
        raise CrrlError(f"{where}: keypoint_score holds NaN or infinity: write 0 for a joint that was not seen")
    return score


def _take_scores(source: Path, annotations: list[dict[str, Any]]) -> None:
    """If the third numbers of joints are scores, make the joints 2D in all annotations, with a warning."""
    items = [item for item in annotations if item["keypoint"].shape[3] == 3 and item["keypoint"].size]
    if not items:
        return
    thirds = [item["keypoint"][..., 2] for item in items]
    low, high = min(float(third.min()) for third in thirds), max(float(third.max()) for third in thirds)
    farthest = max(float(np.abs(item["keypoint"][..., :2]).max()) for item in items)
    scores = [item["keypoint_score"] for item in items]
    again = all(
        score is not None and score.any() and np.allclose(third, score, rtol=1e-3)  # rounded, perhaps
        for third, score in zip(thirds, scores, strict=True)
    )
    if not again and not arrays.is_score(low, high, farthest):
        return
    why = "is keypoint_score again" if again else f"is {low:.3g} to {high:.3g} where x and y reach {farthest:.4g}"
    warnings.warn(
        f"{source}: the third channel of keypoint {why}: it is taken for a score, not for z, which is 0; a joint of "
        f"score 0 is absent",
        stacklevel=3,
    )
    for item, third in zip(items, thirds, strict=True):
        item["keypoint"], item["keypoint_score"] = item["keypoint"][..., :2], third


def _clips(annotations: list[Any], bodies: int) -> Iterator[FloatArray]:
    """The clips one after the other; the arrays of an annotation are released once it is read."""
    for item in annotations:
        yield _clip(item.pop("keypoint"), item.pop("keypoint_score", None), bodies)


def _clip(keypoint: Array, score: Array | None, bodies: int) -> FloatArray:
    """[M, T, V, C] as float32 [T, bodies·V, 3]; T is 0 if it shows nobody."""
    if not _shows_body(keypoint, score):
        return np.zeros((0, bodies * keypoint.shape[2], 3), np.float32)
    present = arrays.all_joints_of(keypoint) if score is None else score > 0
    points = np.zeros((*keypoint.shape[:3], 3), np.float32)
    points[..., : keypoint.shape[3]] = np.where(present[..., None], keypoint, 0)
    if len(points) > bodies:
        kept = np.sort(np.argsort(-_motion(points), kind="stable")[:bodies])
        points, present = points[kept], present[kept]
    lacking = ((0, bodies - len(points)), (0, 0), (0, 0))
    points, present = np.pad(points, (*lacking, (0, 0))), np.pad(present, lacking)
    return arrays.join_bodies(points.transpose(1, 0, 2, 3), present.transpose(1, 0, 2))


def _shows_body(keypoint: Array, score: Array | None) -> bool:
    """Whether keypoints [M, T, V, C] and their scores show anybody."""
    return bool(keypoint.any() and (score is None or (score > 0).any()))


def _motion(points: FloatArray) -> npt.NDArray[np.float64]:
    """The motion of each body, [M]: the variances of its coordinates over the frames that show it, added."""
    variances = [body[body.any(axis=(1, 2))].astype(np.float64) for body in points]
    return np.array([body.var(axis=0).sum() if len(body) else 0.0 for body in variances])


def _splits(path: Path, split: object, names: list[str]) -> dict[str, Split]:
    if not isinstance(split, dict) or not all(isinstance(name, str) for name in split):
        raise CrrlError(f'{path} has no "split" by name, but {described(split)}: write it as a dict of lists')
    if len(split) > MOST_SPLITS:
        raise CrrlError(f"{path} has {len(split):,} splits, more than {MOST_SPLITS}: leave those that are needed")
    place = {name: number for number, name in enumerate(names)}
    sides = {name: _members(path, name, members, place) for name, members in split.items()}
    splits = {}
    used: list[str] = []
    for name in filter(lambda name: "train" in name, sides):
        other = next((other for side in SIDES if (other := name.replace("train", side)) in sides), None)
        if other is None:
            raise CrrlError(f"{path}: split {shown(name)!r} has no counterpart for testing (val or test); add it")
        if np.intersect1d(sides[name], sides[other]).size:
            raise CrrlError(f"{path}: split {shown(name)!r} and its counterpart for testing share clips; separate them")
        called = re.sub(r"[_-]?train[_-]?", "", name) or "default"
        splits[arrays.ntu_split(called, called)] = Split(sides[name], {"all": sides[other]})
        used += [name, other]
    if not splits:
        raise CrrlError(f'{path}: "split" names no training clips (xsub_train, train, ...): add them')
    _tell_unused(path, sides, used, len(names))
    return splits


def _tell_unused(path: Path, sides: dict[str, IntArray], used: list[str], clips: int) -> None:
    """Warn of splits and clips that are not used."""
    if others := [shown(name) for name in sides if name not in used]:
        said = f"split {', '.join(others)} is not used, but {', '.join(map(shown, used))}"
        warnings.warn(f"{path}: {said}", stacklevel=4)
    if lost := clips - len(np.unique(np.concatenate([sides[name] for name in used]))):
        warnings.warn(f"{path}: {lost} of {clips} clips are in no split that is used", stacklevel=4)


def _members(path: Path, name: str, members: object, place: dict[str, int]) -> IntArray:
    listed = arrays.as_list(members)
    if listed is None:
        raise CrrlError(
            f"{path}: split {shown(name)!r} is not a list of clips, but {described(members)}: list their names"
        )
    for member in listed:
        if not isinstance(member, str) or member not in place:
            what = repr(member[:80]) if isinstance(member, str) else described(member)
            raise CrrlError(
                f"{path}: split {shown(name)!r} names {what}, which has no annotation: add it, or remove it"
            )
    if len(set(listed)) != len(listed):
        raise CrrlError(f"{path}: split {shown(name)!r} names clips twice: remove the copies")
    return np.array([place[member] for member in listed], np.int64)
