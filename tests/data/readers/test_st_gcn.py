"""ST-GCN's .npy and .pkl: padding, facts, splits, and every kind of damage."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import st_gcn
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, put

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = {
    "train": ["S001C002P003R002A013.skeleton", "S017C001P040R001A060.skeleton", "S002C003P001R001A001.skeleton"],
    "val": ["S001C001P004R001A013.skeleton", "S003C002P005R002A060.skeleton"],
}
LABELS = {"train": [12, 59, 0], "val": [12, 59]}
LENGTHS = {"train": [3, 9, 1], "val": [5, 2]}


def coordinates(side: str) -> np.ndarray:
    """[N, 3, 9, 25, 2] padded with zeros; the first clip shows one body."""
    values = np.random.default_rng(len(side)).normal(size=(len(LENGTHS[side]), 3, 9, 25, 2)).astype(np.float32)
    for clip, length in zip(values, LENGTHS[side], strict=True):
        clip[:, length:] = 0
    values[0, ..., 1] = 0
    return values


def write(root: Path, data: str = "train_data.npy", labels: Callable[[Any], bytes] = pickle.dumps) -> Path:
    root.mkdir(exist_ok=True)
    for side in LENGTHS:
        np.save(root / data.replace("train", side), coordinates(side))
        (root / f"{side}_label.pkl").write_bytes(labels((NAMES[side], LABELS[side])))
    return root


def looped(lengths: list[int], frames: int = 20) -> np.ndarray:
    """Bodies [M, T, 25, 3] of these lengths, filled up, moved and turned as 2s-AGCN does it."""
    bodies = np.zeros((len(lengths), frames, 25, 3), np.float32)
    for body, length in zip(bodies, lengths, strict=True):
        if length:
            body[:] = np.resize(np.random.default_rng(length).normal(size=(length, 25, 3)), body.shape)
    bodies -= np.where(bodies.any(axis=(2, 3))[..., None, None], bodies[0, :, 1:2], 0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for index in np.ndindex(bodies.shape[:3]):
        bodies[index] = turn @ bodies[index]
    return bodies


def write_looped(root: Path, clips: list[np.ndarray]) -> Path:
    """The side "train" as 2s-AGCN writes it: one of `clips`, bodies [M, T, 25, 3], for each name; T is 9 in "val"."""
    write(root, "train_data_joint.npy")
    np.save(root / "train_data_joint.npy", np.stack(clips).transpose(0, 4, 2, 3, 1))
    return root


def load(root: Path) -> Clips:
    return st_gcn.load(st_gcn.find_files(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "xsub")


@pytest.mark.parametrize("data", ["train_data.npy", "train_data_joint.npy", "train_position.npy"])
def test_clips_are_those_of_the_files_without_their_filling(tmp_path: Path, data: str) -> None:
    clips = load(write(tmp_path / "xsub", data))
    assert clips.lengths.tolist() == [3, 9, 1, 5, 2]
    place = 0
    for side in LENGTHS:
        for number, length in enumerate(LENGTHS[side]):
            expected = np.zeros((length, 50, 3), np.float32)
            for frame, body, joint in np.ndindex(length, 2, 25):
                expected[frame, 25 * body + joint] = coordinates(side)[number, :, frame, joint, body]
            np.testing.assert_array_equal(clips.clip(place), expected)
            place += 1


def test_labels_facts_and_the_split_are_the_files(root: Path) -> None:
    clips = load(root)
    assert clips.names == (*NAMES["train"], *NAMES["val"])
    assert clips.labels.tolist() == [12, 59, 0, 12, 59]
    assert len(clips.class_names) == 60
    assert clips.setups.tolist() == [1, 17, 2, 1, 3]
    assert clips.views.tolist() == [2, 1, 3, 1, 2]
    assert clips.subjects.tolist() == [3, 40, 1, 4, 5]
    split = clips.split("cross-subject")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([0, 1, 2], [3, 4])


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("xsub", "cross-subject"),
        ("xview", "cross-view"),
        ("XSet", "cross-setup"),
        ("xsetup", "cross-setup"),
        ("ntu", "default"),
    ],
)
def test_the_split_is_called_by_the_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, split: str
) -> None:
    root = write(tmp_path / folder)
    (root / "below").mkdir()
    assert list(load(root).splits) == [split]
    monkeypatch.chdir(root / "below")
    assert list(load(Path("..")).splits) == [split]


def test_labels_that_do_not_go_with_the_names_are_told(root: Path) -> None:
    (root / "val_label.pkl").write_bytes(pickle.dumps((NAMES["val"], LABELS["val"][::-1])))
    first, second = NAMES["train"][0], NAMES["val"][0]
    said = f"^{root}: {first} and {second} are of action 013 by their names, but have labels 12 and 59: are names"
    with pytest.warns(UserWarning, match=said):
        assert load(root).labels.tolist() == [12, 59, 0, 59, 12]


def test_other_names_have_no_facts(root: Path) -> None:
    for side in LENGTHS:
        names = [f"{side} {number}" for number in range(len(LENGTHS[side]))]
        (root / f"{side}_label.pkl").write_bytes(pickle.dumps((names, LABELS[side])))
    assert load(root).subjects.tolist() == [-1] * 5


@pytest.mark.parametrize("protocol", range(6))
def test_label_files_of_all_protocols_and_of_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    def labels(content: tuple[list[str], list[int]]) -> bytes:
        return pickle.dumps([np.array(content[0]), np.array(content[1])], protocol)

    expected = load(write(tmp_path / "lists", labels=lambda content: pickle.dumps(content, protocol)))
    clips = load(write(tmp_path / "arrays", labels=labels))
    assert (clips.names, clips.labels.tolist()) == (expected.names, expected.labels.tolist())


def test_zero_frames_before_the_last_frame_stay(root: Path) -> None:
    values = coordinates("val")
    values[0][:, [0, 2]] = 0
    np.save(root / "val_data.npy", values)
    clip = load(root).clip(3)
    assert np.flatnonzero(~clip.any(axis=(1, 2))).tolist() == [0, 2]
    assert len(clip) == 5


def test_clips_that_begin_again_are_cut_there(tmp_path: Path) -> None:
    """As 2s-AGCN fills them up: a body alone, two of different lengths, and one that fills all frames."""
    values = [looped([7, 0]), looped([6, 9]), looped([20, 13])]
    clips = load(write_looped(tmp_path, values))
    assert clips.lengths.tolist() == [7, 6, 20, 5, 2]
    for place, length in enumerate([7, 6, 20]):
        shown = clips.clip(place).reshape(length, 2, 25, 3)
        np.testing.assert_allclose(shown.transpose(1, 0, 2, 3), values[place][:, :length], atol=1e-5)


def test_gaps_of_a_clip_that_begins_again_stay(tmp_path: Path) -> None:
    """The clip ends within a repetition, in a frame that shows nobody."""
    gap = looped([7, 0])
    gap[:, 4::7] = gap[:, 5::7] = 0
    assert not gap[:, -1].any()
    clips = load(write_looped(tmp_path, [gap, looped([6, 0]), looped([19, 0])]))
    assert clips.lengths.tolist() == [7, 6, 19, 5, 2]
    assert np.flatnonzero(~clips.clip(0).any(axis=(1, 2))).tolist() == [4, 5]


def test_what_is_still_or_only_returns_is_not_cut(tmp_path: Path) -> None:
    """One posture in all frames; frame 0 again in between; a main body that comes later than the other."""
    still, returns, late = looped([1, 8]), looped([20, 0]), looped([4, 11])
    returns[:, [5, 6, 12]] = returns[:, :1]
    late[0, 0] = 0
    late[0, 1::2] = late[0, 1]
    late[0, 2::2] = 0
    assert load(write_looped(tmp_path, [still, returns, late])).lengths.tolist() == [20, 20, 20, 5, 2]


@pytest.mark.parametrize("posture", ["still", "returning"])
def test_a_clip_filled_up_with_zeros_is_not_cut_before_them(tmp_path: Path, posture: str) -> None:
    values = looped([12, 0])
    values[:, 1:9] = values[:, :1]
    values[:, 9 if posture == "still" else 12 :] = 0
    clips = load(write_looped(tmp_path, [values, values, values]))
    assert clips.lengths.tolist()[:3] == [9 if posture == "still" else 12] * 3


@given(values=st.lists(st.integers(0, 2), min_size=1, max_size=24), many=st.sampled_from([0, 64]))
@settings(max_examples=150)
def test_repetitions_are_found_alike_from_few_and_from_many_places(values: list[int], many: int) -> None:
    first = np.zeros((len(values), 2, 25, 3), np.float32)
    first[:, 0, 3] = 1 + np.array(values)[:, None]
    periods = [p for p in range(1, len(values)) if values[p:] == values[:-p]]
    expected = periods[0] if periods and periods[0] > 1 else len(values)
    before = st_gcn.MANY
    st_gcn.MANY = many
    try:
        assert len(st_gcn.without_repetition(first)) == expected
    finally:
        st_gcn.MANY = before


def test_a_long_clip_that_often_seems_to_begin_again_takes_no_time() -> None:
    bodies = np.ones((40_000, 2, 25, 3), np.float32)
    bodies[1::2, 0, 0, 0] = 2
    bodies[-1, 0, 0, 0] = 5
    start = time.process_time()
    assert len(st_gcn.without_repetition(bodies)) == 40_000
    assert time.process_time() - start < 5


def test_float16_gets_a_warning(root: Path) -> None:
    np.save(root / "val_data.npy", coordinates("val").astype(np.float16))
    with pytest.warns(UserWarning, match=r"val_data\.npy holds float16"):
        load(root)


def test_scores_for_depths_are_told(root: Path) -> None:
    """As preparations of OpenPose's 25 joints have them."""
    for side in LENGTHS:
        values = coordinates(side)
        values[:, 2] = np.abs(values[:, 2]).clip(0, 0.99)
        np.save(root / f"{side}_data.npy", values)
    with pytest.warns(UserWarning, match=r"train_data\.npy: all z are from 0 to 0\.99: they may be scores"):
        load(root)


def test_clips_of_zeros_are_left_out(root: Path) -> None:
    values = coordinates("train")
    values[0] = 0
    np.save(root / "train_data.npy", values)
    with pytest.warns(UserWarning, match=f"{root}: 1 of 5 clips show no body .* the first is '{NAMES['train'][0]}'"):
        clips = load(root)
    assert clips.names == (*NAMES["train"][1:], *NAMES["val"])
    assert (clips.lengths.tolist(), clips.subjects.tolist()) == ([9, 1, 5, 2], [40, 1, 4, 5])
    split = clips.split("cross-subject")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([0, 1], [2, 3])
    assert clips.dropped == {NAMES["train"][0]: "shows nobody"}
    for side in LENGTHS:
        np.save(root / f"{side}_data.npy", 0 * coordinates(side))
    with pytest.raises(CrrlError, match=f"{root} has no clip that shows a body in any frame"):
        load(root)


def save(name: str, content: np.ndarray) -> Change:
    return lambda root: np.save(root / name, content)


def pickled(content: object) -> Change:
    return lambda root: (root / "val_label.pkl").write_bytes(pickle.dumps(content))


def insert_a_byte(root: Path) -> None:
    """Every number after it would be another."""
    content = (root / "val_data.npy").read_bytes()
    (root / "val_data.npy").write_bytes(content[:1000] + b"\x01" + content[1000:])


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 1",)


def not_finite() -> np.ndarray:
    values = coordinates("val")
    values[1, 2, 1, 3, 0] = np.inf
    return values


DAMAGE = {
    "one body": (save("val_data.npy", np.ones((2, 3, 9, 25))), "val_data.npy", "not float [N, 3, T"),
    "18 joints": (save("val_data.npy", np.ones((2, 3, 9, 18, 2))), "val_data.npy", "18, 2], not"),
    "integers": (save("val_data.npy", np.ones((2, 3, 9, 25, 2), int)), "val_data.npy", "is int64"),
    "no clips": (save("val_data.npy", np.zeros((0, 3, 9, 25, 2))), "val_data.npy", "[0, 3,"),
    "infinity": (save("val_data.npy", not_finite()), "val_data.npy", "first in frame 1"),
    "objects": (save("val_data.npy", np.array([None])), "val_data.npy", "is damaged"),
    "count": (save("val_data.npy", np.ones((3, 3, 9, 25, 2))), "val_label.pkl", "not a pair of 3 names"),
    "label": (pickled((NAMES["val"], [1])), "val_label.pkl", "not a pair of 2 names and 2 labels"),
    "names alone": (pickled(NAMES["val"]), "val_label.pkl", "not a pair"),
    "negative": (pickled((NAMES["val"], [1, -1])), "val_label.pkl", "not class numbers"),
    "fraction": (pickled((NAMES["val"], [1, 2.0])), "val_label.pkl", "not class numbers"),
    "names of numbers": (pickled(([1, 2], [1, 2])), "val_label.pkl", "names that are not text"),
    "a clip on both sides": (pickled((NAMES["train"][:2], [1, 2])), "val_label.pkl", "twice"),
    "a call": (pickled((NAMES["val"], Bomb())), "val_label.pkl", "system'"),
    "emptied": (put("val_label.pkl", b""), "val_label.pkl", "damaged"),
    "a byte more": (insert_a_byte, "val_data.npy", "is longer than its [2, 3, 9, 25, 2] numbers"),
    "no data": (put("val_data.npy", b""), "val_data.npy", "damaged"),
}


@pytest.mark.parametrize(("damage", "where", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_the_file(root: Path, damage: Change, where: str, problem: str) -> None:
    damage(root)
    with pytest.raises(CrrlError) as caught:
        load(root)
    assert re.fullmatch(rf"{re.escape(str(root / where))}.*{re.escape(problem)}.*", str(caught.value))


@pytest.mark.parametrize("name", ["train_data.npy", "train_label.pkl", "val_data.npy", "val_label.pkl"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(CrrlError, match=rf"should hold one ST-GCN file of .*{re.escape(name)}.* found none"):
        load(root)


def test_joints_and_positions_beside_each_other_are_refused(root: Path) -> None:
    np.save(root / "train_position.npy", coordinates("train"))
    with pytest.raises(
        CrrlError, match=r"found train_data\.npy, train_position\.npy: give --data a folder with only that one"
    ):
        load(root)
