"""Folds of training clips alone, by which settings are chosen without a look at a data set's test clips."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from crrl.data.clips import IntArray, Split

FOLDS = 4
UNKNOWN = -1
"""The subject of a clip of which it is not known."""

_NAME = re.compile(r"validation-\d+")


def validation_folds(train: IntArray, labels: IntArray, subjects: IntArray) -> dict[str, Split]:
    """The splits "validation-1", "validation-2", ...: each tests on one fold of `train` and trains on its other folds.

    There are FOLDS of them, or as many as subjects, or clips, if these are fewer. Subjects are dealt so that the folds
    hold about equally many clips; where the subject of a training clip is unknown, clips are dealt so that every class
    is spread evenly. The same clips are dealt the same way.

    Args:
        train: int64 [M], the clips to fold, in ascending order.
        labels, subjects: int64 [N], of all clips; subject UNKNOWN: not known.

    Returns:
        None of them where there would be one alone, as with one subject.
    """
    known = not np.any(subjects[train] == UNKNOWN)
    fold = by_subject(subjects[train], FOLDS) if known else by_class(labels[train], FOLDS)
    numbers = range(fold.max(initial=0) + 1)
    if len(numbers) == 1:
        return {}
    return {
        f"validation-{number + 1}": Split(train[fold != number], {"all": train[fold == number]}) for number in numbers
    }


def fold_names(splits: Iterable[str]) -> tuple[str, ...]:
    """Those of the names of splits that are folds of training clips: "validation-1", "validation-2", ..."""
    return tuple(name for name in splits if _NAME.fullmatch(name))


def by_subject(subjects: IntArray, folds: int) -> IntArray:
    """The fold of each clip, int64 [N]: subjects, those of most clips first, go to the fold that has the fewest so far.

    Args:
        subjects: int64 [N], all of them known. folds: how many; with fewer subjects, as many as these.
    """
    _, person, clips = np.unique(subjects, return_inverse=True, return_counts=True)
    homes, filled = np.zeros(len(clips), np.int64), np.zeros(min(folds, len(clips)), np.int64)
    for each in np.argsort(-clips, kind="stable"):
        homes[each] = filled.argmin()
        filled[homes[each]] += clips[each]
    return homes[person]


def by_class(labels: IntArray, folds: int) -> IntArray:
    """The fold of each clip, int64 [N]: class by class, labels int64 [N], they are dealt out in turn."""
    fold = np.empty(len(labels), np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    return fold
