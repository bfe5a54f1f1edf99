"""North-Western UCLA: names, splits and copies on small files, damage, and the counts of the real data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import nw_ucla
from crrl.errors import CrrlError

ACTIONS = {
    "a01": "pick up with one hand",
    "a02": "pick up with two hands",
    "a03": "drop trash",
    "a04": "walk around",
    "a05": "sit down",
    "a06": "stand up",
    "a08": "donning",
    "a09": "doffing",
    "a11": "throw",
    "a12": "carry",
}


DEEP: object = 1.0
for _ in range(40):
    DEEP = [DEEP]


def skeletons(frames: int, seed: int, joints: int = 20) -> list[object]:
    content: list[object] = np.random.default_rng(seed).normal(size=(frames, joints, 3)).round(6).tolist()
    return content


def write(root: Path, name: str, content: object) -> Path:
    path = root / f"{name}.json"
    path.write_text(json.dumps({"file_name": name, "skeletons": content, "label": 1}))
    return path


def load(root: Path) -> Clips:
    return nw_ucla.load(nw_ucla.find_files(root))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two training clips, a copy of one of them and a clip of its own in the test view."""
    write(tmp_path, "a01_s01_e00_v01", skeletons(4, seed=1))
    write(tmp_path, "a12_s09_e00_v02", skeletons(1, seed=2))
    write(tmp_path, "a12_s09_e00_v03", skeletons(1, seed=2))
    write(tmp_path, "a11_s09_e01_v03", skeletons(3, seed=3))
    return tmp_path


def test_clips_are_sorted_by_name_with_their_facts(small: Path) -> None:
    clips = load(small)
    assert clips.names == ("a01_s01_e00_v01", "a11_s09_e01_v03", "a12_s09_e00_v02", "a12_s09_e00_v03")
    assert clips.subjects.tolist() == [1, 9, 9, 9]
    assert clips.views.tolist() == [1, 3, 2, 3]


def test_coordinates_are_those_of_the_file(small: Path) -> None:
    np.testing.assert_array_equal(load(small).clip(0), np.array(skeletons(4, seed=1), np.float32))


def test_a_clip_of_one_frame_is_kept(small: Path) -> None:
    assert load(small).lengths.tolist() == [4, 3, 1, 1]


def test_classes_follow_the_action_in_the_name_not_the_label_in_the_file(small: Path) -> None:
    clips = load(small)
    assert [clips.class_names[label] for label in clips.labels] == ["pick up with one hand", "throw", "carry", "carry"]


def test_the_third_view_tests(small: Path) -> None:
    split = load(small).split("cross-view")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([0, 2], [1, 3])


def test_a_copy_of_a_training_clip_is_not_clean(small: Path) -> None:
    assert load(small).split("cross-view").test["clean"].tolist() == [1]


def test_a_clip_that_differs_in_one_coordinate_is_clean(small: Path) -> None:
    almost = np.array(skeletons(1, seed=2))
    almost[0, 19, 2] += 1e-4
    write(small, "a12_s09_e00_v03", almost.tolist())
    assert load(small).split("cross-view").test["clean"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("validation-view", [0, 1], [3, 4]),
        ("validation-1", [], [3]),
        ("validation-2", [4], [0, 1]),
        ("validation-3", [0, 1], [4]),
        ("validation-4", [3], []),
        ("validation-5", [0, 1], []),
        ("validation-6", [3, 4], []),
    ],
)
def test_validation_takes_from_the_training_views_alone(
    tmp_path: Path, name: str, train: list[int], test: list[int]
) -> None:
    for clip, seen in enumerate(["s01_e00_v01", "s09_e00_v01", "s09_e00_v03", "s01_e00_v02", "s02_e00_v02"]):
        write(tmp_path, f"a0{clip + 1}_{seen}", skeletons(1, seed=clip))
    split = load(tmp_path).split(name)
    assert (split.train.tolist(), split.test["all"].tolist()) == (train, test)


@pytest.mark.parametrize("folder", [".", "all_sqe", "nw_ucla/all_sqe"])
def test_clips_are_found_in_the_usual_places(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    path = write(tmp_path / folder, "a01_s01_e00_v01", skeletons(1, seed=0))
    assert nw_ucla.find_files(tmp_path) == [path]


def test_a_folder_without_clips_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a01_s01_e00_v01_old", [])
    with pytest.raises(CrrlError, match=rf"no NW-UCLA clips .* in {tmp_path}: point --data or CRRL_DATA at"):
        nw_ucla.find_files(tmp_path)


OTHER_FORMS = {
    "19 joints": (skeletons(2, seed=0, joints=19), r"no \"skeletons\" of \[frames, 20, 3\]"),
    "one bad frame": ([*skeletons(1, seed=0), *skeletons(1, seed=0, joints=19)], 'no "skeletons"'),
    "null": (None, 'no "skeletons"'),
    "numbers for frames": ([1, 2], 'no "skeletons"'),
    "flat coordinates": ([[[0.0, 1.0]] * 20], r"shape \[1, 20, 2\]"),
    "no frames": ([], r"shape \[0\]"),
    "null coordinate": ([[[0.0, 1.0, None]] * 20], "NaN"),
    "true for a coordinate": ([[[0.0, 1.0, True]] * 20], "not an array of numbers .* bool"),
    "text for a coordinate": ([[[0.0, 1.0, "1.5"]] * 20], "not an array of numbers .* str"),
    "401 digits": ([[[0.0, 1.0, 10**400]] * 20], "not an array of numbers .* too large"),
    "beyond float32": ([[[0.0, 1.0, 1e39]] * 20], "NaN or infinity"),
    "ragged": ([[[0.0, 1.0]] * 19 + [[0.0]]], "not an array of numbers"),
    "40 lists in each other": ([*skeletons(1, seed=0), [*([[1.0] * 3] * 19), DEEP]], "not an array of numbers"),
    "40 lists in each other for each joint": ([[DEEP] * 20], "not an array of numbers|has shape"),
    "lists for coordinates": ([[[[]] * 3] * 20], r"shape \[1, 20, 3, 0\]"),
}


@pytest.mark.parametrize(("content", "problem"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_skeletons_of_another_form_are_refused_by_name(small: Path, content: object, problem: str) -> None:
    path = write(small, "a01_s01_e00_v01", content)
    with pytest.raises(CrrlError, match=f"^{path} .*{problem}"):
        load(small)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(json.dumps({"skeletons": skeletons(2, seed=0)})[:-20], "not valid JSON", id="truncated"),
        pytest.param("", "not valid JSON", id="emptied"),
        pytest.param('{"label": 1}', 'no "skeletons"', id="without the key"),
        pytest.param('{"skeletons": [[0.5, \r0.5]]}', "not valid JSON .a carriage return alone", id="a changed sign"),
        pytest.param("[]", 'no "skeletons"', id="a list"),
        pytest.param("[" * 100_000, "not valid JSON", id="nested deep"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(small: Path, text: str, problem: str) -> None:
    path = small / "a01_s01_e00_v01.json"
    path.write_text(text)
    with pytest.raises(CrrlError, match=f"^{path} .*{problem}.*restore it"):
        load(small)


@pytest.mark.parametrize(
    "name",
    [
        "a07_s01_e00_v01.json",  # no such action, view or subject
        "a01_s01_e00_v04.json",
        "a01_s11_e00_v01.json",
        "a01_s01_e00_v01 (1).json",
        "a1_s1_e0_v1.json",
        "A02_S01_E00_V01.JSON",
        "a01_s01_e100_v01.json",
    ],
)
def test_a_name_that_is_almost_a_clips_is_refused(small: Path, name: str) -> None:
    (small / name).write_text((small / "a01_s01_e00_v01.json").read_text())
    said = f"^{re.escape(str(small / name))} is not named like an NW-UCLA clip, aAA_sSS_eEE_vVV.json .*: rename or remo"
    with pytest.raises(CrrlError, match=said):
        load(small)


def test_other_files_beside_clips_are_passed_over(small: Path) -> None:
    count = len(load(small))
    for name in ("README.md", "labels.json", ".a01_s01_e00_v01.json", "a01_notes.json"):
        (small / name).write_text("{}")
    assert len(load(small)) == count


# The real data


@pytest.fixture(scope="module")
def root(real_data: Path) -> Path:
    if not (real_data / "nw_ucla" / "all_sqe").is_dir():
        pytest.skip("needs nw_ucla/all_sqe below CRRL_DATA")
    return real_data


@pytest.fixture(scope="module")
def real(root: Path) -> Clips:
    return load(root)


def test_real_counts(real: Clips) -> None:
    split = real.split("cross-view")
    counts = (len(real), len(split.train), len(split.test["all"]), len(split.test["clean"]))
    assert counts == (1484, 1020, 464, 369)


def test_real_lengths(real: Clips) -> None:
    lengths = real.lengths
    assert [lengths.sum(), lengths.min(), np.median(lengths), lengths.max()] == [58534, 1, 31, 201]


def test_real_classes_follow_the_names(real: Clips) -> None:
    assert [real.class_names[label] for label in real.labels] == [ACTIONS[name[:3]] for name in real.names]


def test_real_copies_are_those_on_the_list(real: Clips, root: Path) -> None:
    test = real.split("cross-view").test
    removed = {real.names[i] for i in set(test["all"].tolist()) - set(test["clean"].tolist())}
    assert removed == set((root / "nw_ucla" / "v03_identical_to_v02.txt").read_text().split())


def test_real_folds_test_every_clip_of_the_training_views_once(real: Clips) -> None:
    folds = [real.split(f"validation-{number}") for number in range(1, 7)]
    tested = np.concatenate([fold.test["all"] for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), real.split("cross-view").train)
    for fold in folds:
        for facts in (real.subjects, real.views):
            assert not set(facts[fold.train].tolist()) & set(facts[fold.test["all"]].tolist())
    assert [len(fold.train) for fold in folds] == [365, 349, 364, 360, 303, 299]
