"""Folds of training clips: no subject on both sides, about equally many clips in each, none where one would be left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crrl.data import Preprocessing, prepare
from crrl.data.folds import fold_names, validation_folds
from crrl.data.packing import prepare_folder
from crrl.data.readers import folder
from tests.clips import write_clips


def dealt(subjects: list[int], labels: list[int] | None = None) -> list[list[int]]:
    """The clips that each fold tests, of clips that all train."""
    train = np.arange(len(subjects))
    folds = validation_folds(train, np.array(labels or [0] * len(subjects)), np.array(subjects))
    assert list(folds) == [f"validation-{number}" for number in range(1, len(folds) + 1)]
    for fold in folds.values():
        assert sorted([*fold.train, *fold.test["all"]]) == train.tolist()
    return [fold.test["all"].tolist() for fold in folds.values()]


def test_a_fold_holds_out_whole_subjects() -> None:
    assert dealt([7, 3, 7, 3, 9]) == [[1, 3], [0, 2], [4]]


def test_folds_hold_about_equally_many_clips() -> None:
    counts = {1: 10, 2: 9, 3: 6, 4: 5, 5: 4, 6: 4, 7: 2}
    folds = dealt([subject for subject, count in counts.items() for _ in range(count)])
    assert sorted(map(len, folds)) == [9, 10, 10, 11]


@pytest.mark.parametrize(("subjects", "folds"), [(1, 0), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_there_are_as_many_folds_as_subjects_but_four_at_most_and_none_of_one(subjects: int, folds: int) -> None:
    assert len(dealt([number for number in range(subjects) for _ in range(3)])) == folds


@pytest.mark.parametrize("subjects", [[-1] * 16, [1, 2, 3, 4] * 3 + [-1] * 4], ids=["none known", "some unknown"])
def test_where_subjects_are_not_known_every_class_is_spread_evenly(subjects: list[int]) -> None:
    labels = [2] * 4 + [0] * 7 + [1] * 5
    for held_out in dealt(subjects, labels):
        counts = np.bincount(np.array(labels)[held_out], minlength=3)
        assert len(held_out) == 4
        assert counts[2] == 1
        assert counts[0] in (1, 2)
        assert counts[1] in (1, 2)


@pytest.mark.parametrize(("clips", "folds"), [(1, 0), (3, 3)])
def test_of_fewer_clips_than_folds_each_is_one(clips: int, folds: int) -> None:
    assert len(dealt([-1] * clips)) == folds


def test_only_training_clips_are_folded() -> None:
    train = np.array([1, 4, 5, 8])
    folds = validation_folds(train, np.zeros(10, np.int64), np.arange(10) % 5)
    assert [fold.test["all"].tolist() for fold in folds.values()] == [[5], [1], [8], [4]]
    assert folds["validation-1"].train.tolist() == [1, 4, 8]
    subject_alone = validation_folds(train, np.zeros(10, np.int64), np.array([1, 2, *[2] * 8]))
    assert subject_alone == {}, "the other subject tests"


def test_names_of_folds_are_told_from_other_splits() -> None:
    names = ["cross-view", "validation", "validation-view", "validation-1", "validation-2", "fold-1"]
    assert fold_names(names) == ("validation-1", "validation-2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve clips of two classes, six subjects of which the last two test."""
    split, subject = ["train"] * 8 + ["test"] * 4, [number // 2 for number in range(12)]
    return write_clips(tmp_path / "raw", ["a", "b"] * 6, split=split, subject=subject)


def test_a_folder_of_clips_has_folds_of_its_training_clips(root: Path) -> None:
    clips = folder.load(folder.find_files(root))
    assert list(clips.splits) == ["default", "validation-1", "validation-2", "validation-3", "validation-4"]
    assert clips.split("validation-2").test["all"].tolist() == [2, 3]
    assert clips.split("validation-2").train.tolist() == [0, 1, 4, 5, 6, 7]
    assert clips.split("default").test["all"].tolist() == [8, 9, 10, 11]


def test_a_folder_without_subjects_is_folded_by_class(root: Path) -> None:
    rows = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join(row.rsplit(",", 1)[0] for row in rows) + "\n")
    clips = folder.load(folder.find_files(root))
    held_out = [clips.labels[clips.split(f"validation-{number}").test["all"]].tolist() for number in range(1, 5)]
    assert held_out == [[0, 1]] * 4


def test_folds_share_what_is_prepared_and_go_into_a_prepared_folder(root: Path, tmp_path: Path) -> None:
    steps = Preprocessing(max_frames=4)

    def fingerprints(data: Path, *splits: str) -> list[str]:
        return [prepare("folder", data, split, steps).fingerprint for split in splits]

    raw = fingerprints(root, "default", "validation-1", "validation-2")
    assert len(set(raw)) == 3
    prepare_folder("folder", root, tmp_path / "out")
    assert fingerprints(tmp_path / "out", "default", "validation-1", "validation-2") == raw
