"""Folds of the training clips, to choose settings without the test clips of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from crrl.data.clips import IntArray, Split

FOLDS = 4
UNKNOWN = -1
"""The subject of a clip whose subject is not known."""

_NAME = re.compile(r"validation-\d+")


def validation_folds(train: IntArray, labels: IntArray, subjects: IntArray) -> dict[str, Split]:
    """The splits "validation-1", "validation-2", ...: each tests on one fold of `train` and trains on the other folds.

    There are FOLDS of them, or fewer if there are fewer subjects (or clips). A subject's clips are all in one fold, and
    folds hold about equally many clips. If the subject of a training clip is unknown, each class is spread evenly
    instead. The same clips always give the same folds.

    Args:
        train: int64 [M], the clips to fold, ascending.
        labels, subjects: int64 [N], of all clips; an unknown subject is UNKNOWN.

    Returns:
        No splits if there is only one fold, as with one subject.
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
    """The names among `splits` that are folds of training clips."""
    return tuple(name for name in splits if _NAME.fullmatch(name))


def by_subject(subjects: IntArray, folds: int) -> IntArray:
    """The fold of each clip, int64 [N]: subjects go, most clips first, to the fold with the fewest clips so far.

    Args:
        subjects: int64 [N], all known. folds: how many; at most one for each subject.
    """
    _, person, clips = np.unique(subjects, return_inverse=True, return_counts=True)
    homes, filled = np.zeros(len(clips), np.int64), np.zeros(min(folds, len(clips)), np.int64)
    for each in np.argsort(-clips, kind="stable"):
        homes[each] = filled.argmin()
        filled[homes[each]] += clips[each]
    return homes[person]


def by_class(labels: IntArray, folds: int) -> IntArray:
    """The fold of each clip, int64 [N]: the clips of each class in labels, int64 [N], are dealt out in turn."""
    fold = np.empty(len(labels), np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    return fold
