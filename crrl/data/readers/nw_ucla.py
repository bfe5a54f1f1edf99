"""North-Western UCLA skeletons: the `all_sqe` JSON files; views 1 and 2 train, view 3 tests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, IntArray, Split
from crrl.errors import CrrlError
from crrl.files import content_hash, read_json

ACTIONS = {
    1: "pick up with one hand",
    2: "pick up with two hands",
    3: "drop trash",
    4: "walk around",
    5: "sit down",
    6: "stand up",
    8: "donning",
    9: "doffing",
    11: "throw",
    12: "carry",
}
NUM_JOINTS = 20
HELD_OUT = ((1, 5, 9), (2, 6, 10), (3, 4, 7, 8))
"""The subjects that the folds of the training views hold out: all ten, in three parts."""

SUBJECTS, VIEWS = 10, 3

_NAME = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)\.json", re.ASCII)
_NEAR = re.compile(r"a\d+_s\d+_e\d+_v\d+.*\.json", re.ASCII | re.IGNORECASE)
"""Names that are, or are almost, a clip's."""


def find_files(root: Path) -> list[Path]:
    """The files of the clips, sorted by name, in `root`, `root/all_sqe` or `root/nw_ucla/all_sqe`.

    Raises:
        CrrlError: there are none, or one has almost the name of a clip.
    """
    for folder in (root, root / "all_sqe", root / "nw_ucla" / "all_sqe"):
        near = sorted(path for path in folder.glob("*.*") if _NEAR.match(path.name))
        if any(_NAME.fullmatch(path.name) for path in near):
            for path in near:
                _numbers(path)
            return near
    raise CrrlError(
        f"no NW-UCLA clips (aAA_sSS_eEE_vVV.json) in {root}: point --data or CRRL_DATA at the folder that holds all_sqe"
    )


def _numbers(path: Path) -> tuple[int, ...]:
    """Action, subject, environment and view in the name of a clip."""
    match = _NAME.fullmatch(path.name)
    action, subject, environment, view = map(int, match.groups()) if match else (0, 0, 0, 0)
    if action not in ACTIONS or not 1 <= subject <= SUBJECTS or not 1 <= view <= VIEWS:
        raise CrrlError(
            f"{path} is not named like an NW-UCLA clip, aAA_sSS_eEE_vVV.json (AA: {', '.join(map(str, ACTIONS))}; SS: "
            f"1 to {SUBJECTS}; VV: 1 to {VIEWS}): rename or remove it"
        )
    return action, subject, environment, view


def load(files: Iterable[Path]) -> Clips:
    """Read the clips, with the split "cross-view" (the paper's) and others to choose settings without the test view.

    The test sets of "cross-view" are "all" and "clean", which leaves out exact copies of training clips. Within the
    training views, "validation-view" trains on view 1 and tests on view 2. The folds "validation-1" to "validation-6"
    train on one view without a part of the subjects (HELD_OUT) and test on these subjects in the other view, so that
    each clip is tested once, with its view and subject unseen.

    Raises:
        CrrlError: a file is damaged or its skeletons are not [T, 20, 3] finite numbers.
    """
    files = list(files)
    facts = np.array([_numbers(path) for path in files])
    classes = {action: label for label, action in enumerate(ACTIONS)}
    clips = Clips.from_arrays(
        map(read_clip, files),
        labels=[classes[action] for action in facts[:, 0]],
        names=[path.stem for path in files],
        places=list(map(str, files)),
        class_names=list(ACTIONS.values()),
        subjects=facts[:, 1],
        views=facts[:, 3],
    )
    return replace(clips, splits=_splits(clips))


def read_clip(path: Path) -> list[Any]:
    """The skeletons of one file, lists of [T, 20, 3] numbers.

    Raises:
        CrrlError: the file is damaged or of another format.
    """
    value = read_json(path)
    frames = value.get("skeletons") if isinstance(value, dict) else None
    if not isinstance(frames, list) or any(not isinstance(f, list) or len(f) != NUM_JOINTS for f in frames):
        raise CrrlError(f'{path} has no "skeletons" of [frames, {NUM_JOINTS}, 3]: the file is damaged; restore it')
    return frames


def _splits(clips: Clips) -> dict[str, Split]:
    subjects, views = clips.subjects, clips.views
    train, test = np.flatnonzero(views != 3), np.flatnonzero(views == 3)
    splits = {
        "cross-view": Split(train, {"all": test, "clean": without_copies(clips, test, train)}),
        "validation-view": Split.of(views == 1, views == 2),
    }
    for number, (people, view) in enumerate(product(HELD_OUT, (1, 2)), 1):
        held_out = np.isin(subjects, people)
        splits[f"validation-{number}"] = Split.of(~held_out & (views == view), held_out & (views == 3 - view))
    return splits


def without_copies(clips: Clips, test: IntArray, train: IntArray) -> IntArray:
    """The clips of `test` that are no exact copy of a clip of `train`."""
    known = {content_hash([clips.clip(i).tobytes()]) for i in train}
    return np.array([i for i in test if content_hash([clips.clip(i).tobytes()]) not in known], np.int64)
