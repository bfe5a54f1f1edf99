"""The flat form of a data set: what it refuses, and that it survives being saved."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crrl.data.clips import GROWTH, Clips, Split, Tree, check_clip, join, mark_present, warn_of_classes
from crrl.errors import CrrlError

ARRAYS = ["frames", "offsets", "labels", "subjects", "views", "setups"]
GOOD = np.arange(1, 31, dtype=np.float32).reshape(2, 5, 3)


def with_value(value: float) -> np.ndarray:
    clip = GOOD.copy()
    clip[1, 4, 2] = value
    return clip


@pytest.fixture
def clips() -> Clips:
    """Three clips of 2, 1 and 4 frames."""
    made = Clips.from_arrays(
        [GOOD, GOOD[:1] + 100, np.concatenate([GOOD, GOOD]) + 200],
        labels=[0, 1, 1],
        names=["a", "b", "c"],
        class_names=["sit", "stand"],
        subjects=[3, 4, 5],
        views=[1, 2, 3],
    )
    made.splits["half"] = Split(np.array([0, 2]), {"all": np.array([1]), "clean": np.array([], np.int64)})
    return made


@pytest.fixture
def folder(clips: Clips, tmp_path: Path) -> Path:
    clips.save(tmp_path)
    return tmp_path


def test_clips_lie_one_after_the_other(clips: Clips) -> None:
    assert clips.offsets.tolist() == [0, 2, 3, 7]
    assert clips.lengths.tolist() == [2, 1, 4]
    np.testing.assert_array_equal(clips.frames[3:5], GOOD + 200)


def test_a_clip_is_what_was_put_in(clips: Clips) -> None:
    np.testing.assert_array_equal(clips.clip(1), GOOD[:1] + 100)


def test_unknown_facts_are_minus_one(clips: Clips) -> None:
    assert clips.setups.tolist() == [-1, -1, -1]


def test_nested_lists_are_a_clip() -> None:
    made = Clips.from_arrays([GOOD.tolist()], labels=[0], names=["a"], class_names=["sit"])
    np.testing.assert_array_equal(made.frames, GOOD)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        pytest.param(GOOD[:0], "is empty", id="no frame"),
        pytest.param(GOOD[:, :0], "is empty", id="no joint"),
        pytest.param(with_value(np.nan), "NaN or infinity, first in frame 1", id="NaN"),
        pytest.param(with_value(-np.inf), "NaN or infinity, first in frame 1", id="infinity"),
        pytest.param(GOOD[0], r"shape \[5, 3\], not \[frames, joints, 3\]", id="two axes"),
        pytest.param(GOOD[:, :, :2], r"shape \[2, 5, 2\], not \[frames, joints, 3\]", id="flat coordinates"),
        pytest.param(GOOD[:, :4], "has 4 joints, but good has 5", id="another joint count"),
        pytest.param([[[1, 2, 3]], [[1, 2]]], "not an array of numbers", id="ragged lists"),
        pytest.param([[["x", "y", "z"]]], "not an array of numbers", id="text"),
        pytest.param([[["1.5", "2", "3"]]], "not an array of numbers .* it holds str", id="numbers as text"),
        pytest.param([[[1.5, "2", 3]]], "not an array of numbers .* it holds str", id="text among numbers"),
        pytest.param([[[1.5, True, 3]]], "not an array of numbers .* it holds bool", id="true among numbers"),
        pytest.param([[[None, True, 3]]], "not an array of numbers .* it holds bool", id="true and null"),
        pytest.param([[[1.5, 1j, 3]]], "not an array of numbers .* it holds complex", id="complex among numbers"),
        pytest.param([[[1.5, None, 3]]], "NaN or infinity, first in frame 0", id="null"),
        pytest.param([[[1.5, {}, 3]]], "not an array of numbers .* it holds object", id="object"),
        pytest.param([[[1.5, 10**400, 3]]], "not an array of numbers .* too large", id="an integer of 401 digits"),
        pytest.param([[[1, 10**40, 3]]], "NaN or infinity", id="an integer of 41 digits"),
        pytest.param(with_value(0).astype(np.float64) + 1e39, "NaN or infinity, first in frame 0", id="beyond float32"),
        pytest.param(GOOD > 3, "not an array of numbers .* it holds bool", id="bool array"),
        pytest.param([GOOD[0] > 3, GOOD[1] > 3], "not an array of numbers .* it holds bool", id="list of bool arrays"),
        pytest.param(GOOD.astype(np.complex64), "not an array of numbers .* it holds complex64", id="complex array"),
        pytest.param(GOOD.astype("datetime64[s]"), r"not an array of numbers .* it holds datetime64\[s\]", id="dates"),
        pytest.param(GOOD.astype(str), "not an array of numbers .* it holds str", id="text array"),
        pytest.param(GOOD.astype(object), "not an array of numbers .* it holds object", id="object array"),
    ],
)
def test_a_clip_that_is_none_is_refused_by_name(clip: object, problem: str) -> None:
    with pytest.raises(CrrlError, match=f"^bad .*{problem}"):
        Clips.from_arrays([GOOD, clip], labels=[0, 0], names=["good", "bad"], class_names=["sit"])


def masked() -> np.ma.MaskedArray:
    """GOOD with a joint hidden in its first frame, and one number of another in its second."""
    clip = np.ma.masked_array(GOOD, False)
    clip[0, 1] = np.ma.masked
    clip[1, 3, 2] = np.ma.masked
    return clip


@pytest.mark.parametrize(
    "clip",
    [
        pytest.param(masked(), id="array"),
        pytest.param(masked().astype(int), id="array of integers"),
        pytest.param(list(masked()), id="list of frames"),
        pytest.param([GOOD[0].tolist(), masked()[1]], id="a frame of numbers and one of a mask"),
        pytest.param(tuple(list(frame) for frame in masked()), id="lists of joints"),
        pytest.param([[list(joint) for joint in frame] for frame in masked()], id="lists of numbers"),
        pytest.param(np.ma.masked_array(np.where(masked().mask, np.nan, GOOD), masked().mask), id="NaN below the mask"),
        pytest.param(np.ma.masked_where(masked().mask, GOOD), id="masked where"),
    ],
)
def test_joints_below_a_mask_are_absent_as_a_whole(clip: object) -> None:
    first_is_whole = isinstance(clip, list) and isinstance(clip[0], list) and clip[0][1] == GOOD[0, 1].tolist()
    expected = GOOD.copy()
    expected[1, 3] = 0
    if not first_is_whole:
        expected[0, 1] = 0
    np.testing.assert_array_equal(check_clip(clip, "any"), expected)


def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    np.testing.assert_array_equal(check_clip(np.ma.masked_array(GOOD), "any"), GOOD)
    np.testing.assert_array_equal(check_clip(np.ma.masked_array(GOOD, np.zeros(GOOD.shape, bool)), "any"), GOOD)


def test_masked_clips_of_one_array_are_embedded_as_such() -> None:
    made = Clips.from_arrays(np.ma.stack([masked(), masked()]), labels=[0, 0], names=["a", "b"], class_names=["sit"])
    assert np.flatnonzero(~made.frames.any(axis=2)).tolist() == [1, 8, 11, 18]


@pytest.mark.parametrize("depth", [4, 20, 32, 33, 64, 65, 100, 900])
def test_lists_nested_at_any_depth_are_refused(depth: int) -> None:
    clip: object = 1.0
    for _ in range(depth):
        clip = [clip]
    with pytest.raises(CrrlError, match=r"^deep (is not an array of numbers|has shape)"):
        check_clip(clip, "deep")


def test_the_remedy_for_nan_names_the_mark_of_an_absent_joint() -> None:
    with pytest.raises(
        CrrlError,
        match="first in frame 1, joint 4: write a joint that was not seen as zeros, else repair or remove the",
    ):
        check_clip(with_value(np.nan), "bad")


@pytest.mark.parametrize(
    "clip",
    [
        GOOD.astype(np.float16),
        GOOD.astype(">f8"),
        GOOD.astype(np.longdouble),
        GOOD.astype(np.int8),
        GOOD.astype(np.uint64),
        list(GOOD),
        tuple(GOOD.tolist()),
        [[list(joint) for joint in frame] for frame in GOOD],
        torch.from_numpy(GOOD),
        torch.from_numpy(GOOD).half(),
        list(torch.from_numpy(GOOD)),
    ],
    ids=lambda clip: f"{type(clip).__name__} {getattr(clip, 'dtype', '')}",
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_of_any_kind_are_a_clip(clip: object) -> None:
    np.testing.assert_array_equal(check_clip(clip, "any"), GOOD)


def test_an_integer_beyond_64_bits_is_a_number() -> None:
    assert check_clip([[[1, 2**70, 0.5]]], "any").tolist() == [[[1, 2**70, 0.5]]]


def test_a_float32_array_is_not_copied() -> None:
    assert check_clip(GOOD, "any") is GOOD


@pytest.mark.parametrize("clips", [[], np.zeros((0, 2, 5, 3))], ids=["list", "array"])
def test_no_clips_at_all_are_refused(clips: list[object]) -> None:
    with pytest.raises(CrrlError, match="no clips given"):
        Clips.from_arrays(clips, labels=[], names=[], class_names=["sit"])


def test_clips_from_a_generator_survive_the_growth_of_their_array() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, size=60)
    values = np.random.default_rng(1).normal(size=(lengths.sum(), 25, 3)).astype(np.float32)
    assert values.nbytes > 3 * GROWTH
    ends = np.cumsum(lengths)
    frames, offsets = join(
        (f"clip {end}", values[end - length : end]) for end, length in zip(ends, lengths, strict=True)
    )
    np.testing.assert_array_equal(frames, values)
    np.testing.assert_array_equal(offsets, [0, *ends])


def test_the_error_of_a_joint_count_names_both_clips() -> None:
    with pytest.raises(CrrlError, match="b has 4 joints, but a has 5: one count per data set"):
        join([("a", np.ones((2, 5, 3))), ("b", np.ones((2, 4, 3)))])


def test_clips_of_no_frames_are_left_out_of_all_that_is_known_of_clips(clips: Clips) -> None:
    values = [clips.clip(0), GOOD[:0], clips.clip(1), GOOD[:0], clips.clip(2)]
    names = ["a", "empty", "b", "nothing", "c"]
    facts = {"subjects": [3, 8, 4, 8, 5], "views": [1, 8, 2, 8, 3]}
    made = Clips.from_arrays(
        values, labels=[0, 1, 1, 0, 1], names=names, class_names=clips.class_names, **facts, allow_empty=True
    )
    made.splits["half"] = Split(np.array([4, 0, 1]), {"all": np.array([1, 2, 3]), "clean": np.array([3])})
    made.dropped["earlier"] = "damaged"
    left = made.without_empty("shows nobody")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(left, name), getattr(clips, name))
    assert (left.names, left.class_names) == (clips.names, clips.class_names)
    assert left.split("half").train.tolist() == [2, 0]
    assert {name: index.tolist() for name, index in left.split("half").test.items()} == {"all": [1], "clean": []}
    assert left.dropped == {"earlier": "damaged", "empty": "shows nobody", "nothing": "shows nobody"}
    assert made.names == tuple(names)


def test_a_set_may_begin_with_a_clip_of_no_frames_but_not_of_no_joints() -> None:
    frames, offsets = join([("a", GOOD[:0]), ("b", GOOD)], allow_empty=True)
    np.testing.assert_array_equal(frames, GOOD)
    assert offsets.tolist() == [0, 0, 2]
    with pytest.raises(CrrlError, match="b has 4 joints, but a has 5"):
        join([("a", GOOD[:0]), ("b", GOOD[:, :4])], allow_empty=True)
    with pytest.raises(CrrlError, match="a is empty"):
        join([("a", GOOD[:, :0])], allow_empty=True)


def test_present_joints_at_the_origin_are_moved_off_it_alone() -> None:
    frames = np.zeros((2, 3, 3), np.float32)
    frames[0, 0] = 1
    mark_present(frames, np.array([[True, True, False], [False, False, True]]))
    expected = np.zeros((2, 3, 3), np.float32)
    expected[0, 0] = 1
    expected[0, 1, 0] = expected[1, 2, 0] = 1e-6
    np.testing.assert_array_equal(frames, expected)


def test_classes_that_only_the_test_side_has_are_told(clips: Clips) -> None:
    """A clip of the class "stand" tests and none trains: in one split of two."""
    made = replace(clips, labels=np.array([0, 1, 0]))
    made.splits["other"] = Split(np.array([0, 1]), {"all": np.array([2]), "clean": np.array([], np.int64)})
    made.splits["none"] = Split(np.array([], np.int64), {"all": np.array([0, 1, 2])})
    assert [made.untrained(name) for name in ("half", "other", "none")] == [["stand"], [], ["sit", "stand"]]
    with pytest.warns(
        UserWarning, match=r"^1 classes have test clips, but no training clip \(half: stand\): none of them"
    ):
        warn_of_classes(made, ["half", "other"])
    with pytest.warns(UserWarning, match=r"^2 classes .* \(half: stand; none: sit, stand\)"):
        warn_of_classes(made, made.splits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_classes(made, ["other"])


def test_one_class_alone_is_told(clips: Clips) -> None:
    made = replace(clips, labels=np.zeros(3, np.int64), class_names=("sit",))
    with pytest.warns(UserWarning, match=r"^all clips are of one class, sit, so that their accuracy says nothing"):
        warn_of_classes(made, made.splits)


@pytest.mark.filterwarnings("error")
def test_clips_without_labels_are_saved_and_no_class_of_them_is_untrained(clips: Clips, tmp_path: Path) -> None:
    made = replace(clips, labels=np.full(3, -1), class_names=(), splits={"default": Split(np.arange(3), {})})
    made.save(tmp_path)
    opened = Clips.open(tmp_path)
    assert (opened.class_names, opened.labels.tolist(), opened.splits["default"].test) == ((), [-1, -1, -1], {})
    warn_of_classes(opened, opened.splits)
    np.save(tmp_path / "labels.npy", np.array([-1, 0, -1]))
    with pytest.raises(CrrlError, match="arrays that do not fit each other"):
        Clips.open(tmp_path)


def test_an_unknown_split_is_refused_with_those_there_are(clips: Clips) -> None:
    with pytest.raises(CrrlError, match="no split named 'whole' in this data set; it has half"):
        clips.split("whole")


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_survives_saving(clips: Clips, folder: Path, name: str) -> None:
    opened = getattr(Clips.open(folder), name)
    assert opened.dtype == getattr(clips, name).dtype
    np.testing.assert_array_equal(opened, getattr(clips, name))


def test_names_and_splits_survive_saving(clips: Clips, folder: Path) -> None:
    opened = Clips.open(folder)
    assert (opened.names, opened.class_names) == (clips.names, clips.class_names)
    before, after = clips.split("half"), opened.split("half")
    np.testing.assert_array_equal(after.train, before.train)
    assert {name: test.tolist() for name, test in after.test.items()} == {"all": [1], "clean": []}
    assert after.test["clean"].dtype == np.int64


@pytest.mark.parametrize("name", ARRAYS)
def test_opened_arrays_are_mapped_not_read(folder: Path, name: str) -> None:
    assert isinstance(getattr(Clips.open(folder), name), np.memmap)


def test_a_change_in_memory_never_reaches_the_file(folder: Path) -> None:
    Clips.open(folder).frames[:] = 0
    np.testing.assert_array_equal(Clips.open(folder).clip(0), GOOD)


@pytest.mark.parametrize("kept", [0, 20, -1], ids=["emptied", "cut in the header", "last byte lost"])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_truncated_array_is_named_with_the_remedy(folder: Path, name: str, kept: int) -> None:
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CrrlError, match=f"{path} is damaged or cut short .*delete {folder} to have it made again"):
        Clips.open(folder)


def test_a_missing_array_is_named(folder: Path) -> None:
    (folder / "views.npy").unlink()
    with pytest.raises(CrrlError, match=f"cannot read {folder / 'views.npy'}"):
        Clips.open(folder)


def test_a_truncated_meta_json_is_named(folder: Path) -> None:
    path = folder / "meta.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CrrlError, match=f"{path} is not valid JSON"):
        Clips.open(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", np.zeros((7, 5, 3))),
        ("frames", np.zeros((7, 5, 2), np.float32)),
        ("frames", np.zeros((7, 15), np.float32)),
        ("offsets", np.array([0, 2, 3, 7], np.int32)),
        ("labels", np.array([[0], [1], [1]])),
        ("labels", np.array([0.0, 1.0, 1.0])),
        ("views", np.array([1, 2, None])),
        ("setups", np.array(3)),
    ],
)
def test_arrays_of_another_form_are_named_with_the_folder_to_delete(folder: Path, name: str, value: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", value)
    with pytest.raises(
        CrrlError, match=rf"{name}\.npy is damaged or cut short \(.*\): delete {folder} to have it made again"
    ):
        Clips.open(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_archive_for_an_array_is_named(folder: Path, name: str) -> None:
    """As a .npz file called .npy is."""
    with open(folder / f"{name}.npy", "wb") as file:
        np.savez(file, np.zeros(3))
    with pytest.raises(CrrlError, match=rf"{name}\.npy is a zip archive .*, not a \.npy array"):
        Clips.open(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offsets", [0, 3, 2, 7]),
        ("offsets", [1, 2, 3, 7]),
        ("offsets", [0, 2, 7]),
        ("labels", [0, 1, 2]),
        ("labels", [0, -1, 1]),
        ("labels", [0, 1]),
        ("subjects", [1, 2, 3, 4]),
        ("frames", GOOD[:1].tolist() * 6),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder: Path, name: str, value: list[Any]) -> None:
    np.save(folder / f"{name}.npy", np.array(value, np.float32 if name == "frames" else np.int64))
    with pytest.raises(CrrlError, match=f"{folder} holds arrays that do not fit each other; delete it"):
        Clips.open(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"names": None, "class_names": None, "splits": None},
        {"splits": None},
        {"class_names": None},
        {"names": 3},
        {"splits": 3},
        {"splits": {"half": 3}},
        {"splits": {"half": {"train": [0]}}},
        {"splits": {"half": {"train": [0], "test": [1]}}},
        {"splits": {"half": {"train": [0.5], "test": {"all": [1]}}}},
        {"splits": {"half": {"train": ["0"], "test": {"all": [1]}}}},
        {"splits": {"half": {"train": [[0]], "test": {"all": [1]}}}},
        {"splits": {"half": {"train": [10**30], "test": {"all": [1]}}}},
        {"tree": 3},
        {"tree": {"names": ["a"]}},
        {"tree": {"names": ["a", "b"], "parents": [-1]}},
        {"tree": {"names": [], "parents": []}},
        {"tree": {"names": ["a", "b"], "parents": [0, -1]}},
        {"tree": {"names": ["a", "b"], "parents": [-1, 1]}},
        {"tree": {"names": ["a", "b"], "parents": [-1, -1]}},
        {"tree": {"names": ["a", "b"], "parents": [-1, 0.0]}},
        {"tree": {"names": ["a", "b"], "parents": [-1, True]}},
        {"tree": {"names": ["a", "\n"], "parents": [-1, 0]}},
        {"tree": {"names": ["a", 3], "parents": [-1, 0]}},
    ],
    ids=str,
)
def test_facts_of_another_form_are_named_with_the_folder_to_delete(folder: Path, changed: dict[str, Any]) -> None:
    """None: the fact is not there."""
    meta = {**json.loads((folder / "meta.json").read_text()), **changed}
    (folder / "meta.json").write_text(json.dumps({name: fact for name, fact in meta.items() if fact is not None}))
    with pytest.raises(CrrlError, match=rf"meta\.json is damaged \(.*\): delete {folder} to have it made again"):
        Clips.open(folder)


@pytest.mark.parametrize("index", [[3], [-1], [0, 99]])
def test_a_split_of_clips_that_are_not_there_is_refused(folder: Path, index: list[int]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["half"]["test"]["all"] = index
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CrrlError, match=r"holds arrays that do not fit each other"):
        Clips.open(folder)


def test_a_tree_survives_saving_and_a_folder_without_one_has_none(clips: Clips, folder: Path, tmp_path: Path) -> None:
    """As folders have none that were made before trees were kept."""
    assert "tree" not in json.loads((folder / "meta.json").read_text())
    assert Clips.open(folder).tree is None
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: clips.num_joints])
    tree = Tree(names, (-1, *[0] * (clips.num_joints - 1)))
    replace(clips, tree=tree).save(tmp_path)
    assert Clips.open(tmp_path).tree == tree


def test_a_tree_of_other_joints_is_refused(clips: Clips, tmp_path: Path) -> None:
    replace(clips, tree=Tree(tuple("ab" * clips.num_joints), (-1, *[0] * (2 * clips.num_joints - 1)))).save(tmp_path)
    with pytest.raises(CrrlError, match="arrays that do not fit each other"):
        Clips.open(tmp_path)
