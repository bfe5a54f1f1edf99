"""pyskl and MMAction2 pickles: 3D and 2D skeletons, bodies, splits, and every kind of damage."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import pyskl
from crrl.errors import CrrlError

NAMES = ["S001C001P001R001A001", "S001C002P003R001A002", "S002C003P008R002A002"]


def keypoints(seed: int, bodies: int, frames: int, joints: int = 25, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(bodies, frames, joints, dimensions)).astype(np.float32)


def annotation(name: str, label: int, keypoint: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "frame_dir": name,
        "label": label,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "total_frames": keypoint.shape[1],
        "keypoint": keypoint,
        **more,
    }


def content() -> dict[str, Any]:
    """Three clips, one of two bodies."""
    points = [keypoints(0, 1, 4), keypoints(1, 2, 7), keypoints(2, 1, 1)]
    return {
        "split": {"xsub_train": NAMES[:2], "xsub_val": NAMES[2:], "xview_train": NAMES[1:], "xview_val": NAMES[:1]},
        "annotations": [annotation(*item) for item in zip(NAMES, [0, 1, 1], points, strict=True)],
    }


def write(root: Path, value: object, protocol: int = 4) -> Path:
    path = root / "ntu60_3danno.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def load(root: Path) -> Clips:
    return pyskl.load(pyskl.find_files(root))


@pytest.mark.parametrize("protocol", range(6))
def test_bodies_stand_side_by_side_and_an_absent_one_is_zeros(tmp_path: Path, protocol: int) -> None:
    write(tmp_path, content(), protocol)
    clips = load(tmp_path)
    assert clips.frames.shape == (12, 50, 3)
    np.testing.assert_array_equal(clips.clip(0)[:, :25], keypoints(0, 1, 4)[0])
    assert not clips.clip(0)[:, 25:].any()
    np.testing.assert_array_equal(clips.clip(1)[:, :25], keypoints(1, 2, 7)[0])
    np.testing.assert_array_equal(clips.clip(1)[:, 25:], keypoints(1, 2, 7)[1])


def test_a_set_of_single_bodies_has_their_joints_alone(tmp_path: Path) -> None:
    value = content()
    value["annotations"][1] = annotation(NAMES[1], 1, keypoints(1, 1, 7))
    write(tmp_path, value)
    assert load(tmp_path).num_joints == 25


def test_labels_facts_and_splits_are_the_files(tmp_path: Path) -> None:
    write(tmp_path, content())
    clips = load(tmp_path)
    assert clips.names == tuple(NAMES)
    assert (clips.labels.tolist(), clips.class_names) == ([0, 1, 1], ("1", "2"))
    assert (clips.subjects.tolist(), clips.views.tolist(), clips.setups.tolist()) == ([1, 3, 8], [1, 2, 3], [1, 1, 2])
    assert list(clips.splits) == ["cross-subject", "cross-view"]
    split = clips.split("cross-view")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([1, 2], [0])


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("train", "val"), "default"),
        (("train", "test"), "default"),
        (("xset_train", "xset_val"), "cross-setup"),
        (("sub_train", "sub_test"), "sub"),
        (("train1", "test1"), "1"),
    ],
)
def test_splits_are_called_by_what_their_names_share(tmp_path: Path, names: tuple[str, str], called: str) -> None:
    value = content()
    value["split"] = {names[0]: NAMES[:1], names[1]: NAMES[1:]}
    write(tmp_path, value)
    assert load(tmp_path).split(called).test["all"].tolist() == [1, 2]


def test_of_more_than_two_bodies_those_that_move_most_are_kept_in_their_order(tmp_path: Path) -> None:
    points = keypoints(3, 4, 9) * np.array([1, 0.1, 3, 0.2], np.float32)[:, None, None, None]
    points[3, 1:] = 0
    value = content()
    value["annotations"][0] = annotation(NAMES[0], 0, points)
    write(tmp_path, value)
    np.testing.assert_array_equal(load(tmp_path).clip(0)[:, :25], points[0])
    np.testing.assert_array_equal(load(tmp_path).clip(0)[:, 25:], points[2])


def flat(score: np.ndarray | None = None) -> dict[str, Any]:
    """One clip of 17 joints in 2D."""
    points = 100 + keypoints(5, 1, 3, 17, 2)
    points[0, 1, 4] = 0
    score = np.ones((1, 3, 17), np.float32) if score is None else score
    other = annotation("b", 1, points, keypoint_score=np.ones_like(score))
    return {
        "split": {"train": ["a"], "val": ["b"]},
        "annotations": [annotation("a", 0, points, keypoint_score=score), other],
    }


def test_2d_joints_have_depth_zero_and_those_of_score_zero_are_absent(tmp_path: Path) -> None:
    score = np.ones((1, 3, 17), np.float32)
    score[0, 2, 5] = 0
    value = flat(score)
    write(tmp_path, value)
    clip = load(tmp_path).clip(0)
    points = value["annotations"][0]["keypoint"][0]
    assert clip.shape == (3, 17, 3)
    np.testing.assert_array_equal(clip[0, :, :2], points[0])
    assert not clip[..., 2].any()
    assert not clip[2, 5].any()
    assert clip[1, 4].any()  # at (0, 0), but seen
    assert np.abs(clip[1, 4]).max() < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda item: item.update(keypoint=item["keypoint"].astype(int)), id="whole numbers"),
        pytest.param(lambda item: item.update(keypoint=item["keypoint"].astype(np.uint16)), id="of two bytes"),
        pytest.param(lambda item: item.update(keypoint_score=item["keypoint_score"][..., None]), id="a fourth axis"),
        pytest.param(lambda item: item.update(keypoint_score=item["keypoint_score"].astype(bool)), id="seen or not"),
        pytest.param(lambda item: item.pop("total_frames"), id="no total_frames"),
        pytest.param(lambda item: item.update(total_frames=np.int64(3)), id="numpy's total_frames"),
        pytest.param(lambda item: item.update(keypoint=np.asfortranarray(item["keypoint"])), id="Fortran order"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_says_the_same_otherwise_is_read_the_same(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    value = flat()
    for item in value["annotations"]:
        item["keypoint"] = item["keypoint"].round()
    write(tmp_path, value)
    expected = load(tmp_path).frames
    for item in value["annotations"]:
        change(item)
    write(tmp_path, value)
    np.testing.assert_array_equal(load(tmp_path).frames, expected)


def with_third(third: Callable[[np.ndarray], np.ndarray | float], scale: float = 1) -> dict[str, Any]:
    """The set of `flat` with a third channel, made of the scores, which are random and once 0."""
    scores = np.random.default_rng(1).uniform(0.3, 1, (1, 3, 17)).astype(np.float32)
    scores[0, 2, 5] = 0
    value = flat(scores)
    for item in value["annotations"]:
        points = scale * item["keypoint"]
        item["keypoint"] = np.concatenate([points, np.broadcast_to(third(scores), scores.shape)[..., None]], axis=3)
        item["keypoint"] = item["keypoint"].astype(np.float32)
        item["keypoint_score"] = scores
    return value


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("third", "scale", "again"),
    [
        pytest.param(lambda score: score, 1, True, id="the score"),
        pytest.param(lambda score: score, 0.001, True, id="the score beside metres"),
        pytest.param(lambda score: score.round(4), 1, True, id="the score, rounded"),
        pytest.param(lambda score: score**2, 1, False, id="another score"),
    ],
)
def test_a_third_channel_that_is_a_score_is_no_z(
    tmp_path: Path, third: Callable[[np.ndarray], np.ndarray], scale: float, again: bool, alone: bool
) -> None:
    """Nothing tells a score from z where it is alone beside small coordinates."""
    scale = 1 if alone else scale
    value = with_third(third, scale)
    expected = value["annotations"][0]["keypoint"][0, 0, :, :2]
    for item in value["annotations"] if alone else []:
        del item["keypoint_score"]
    write(tmp_path, value)
    why = "keypoint_score again" if again and not alone else r"0 to 0\.9\d+ where x and y reach 102\.4"
    with pytest.warns(
        UserWarning, match=rf"danno\.pkl: the third channel of keypoint is {why}: it is taken for a score"
    ):
        clips = load(tmp_path)
    assert not clips.frames[..., 2].any()
    np.testing.assert_array_equal(clips.clip(0)[0, :, :2], expected)
    assert not clips.clip(0)[2, 5].any()


@pytest.mark.parametrize(
    "third",
    [lambda score: 0, lambda score: 3 + score, lambda score: score - 0.5, lambda score: 100 * score],
    ids=["flat", "metres", "on both sides of 0", "pixels"],
)
@pytest.mark.filterwarnings("error")
def test_a_third_channel_that_is_none_stays(tmp_path: Path, third: Callable[[np.ndarray], np.ndarray]) -> None:
    value = with_third(third)
    for item in value["annotations"]:
        del item["keypoint_score"]
    write(tmp_path, value)
    np.testing.assert_allclose(load(tmp_path).clip(0), value["annotations"][0]["keypoint"][0], atol=1e-5)


def test_a_3d_joint_of_score_0_is_absent(tmp_path: Path) -> None:
    value = with_third(lambda score: 3 + score)
    write(tmp_path, value)
    clip = load(tmp_path).clip(0)
    assert not clip[2, 5].any()
    np.testing.assert_array_equal(clip[:2], value["annotations"][0]["keypoint"][0, :2])


def test_splits_and_clips_that_are_not_used_are_told(tmp_path: Path) -> None:
    value = content()
    value["split"] = {"train": NAMES[:1], "val": NAMES[1:2], "test": NAMES[2:]}
    write(tmp_path, value)
    with (
        pytest.warns(UserWarning, match=r"ntu60_3danno\.pkl: split test is not used, but train, val"),
        pytest.warns(UserWarning, match=r"ntu60_3danno\.pkl: 1 of 3 clips are in no split that is used"),
    ):
        assert load(tmp_path).split("default").test["all"].tolist() == [1]


def test_a_2d_clip_of_scores_0_alone_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, flat(np.zeros((1, 3, 17), np.float32)))
    with pytest.warns(UserWarning, match=r"1 of 2 clips show no body .* the first is 'a'"):
        clips = load(tmp_path)
    assert (clips.names, clips.dropped) == (("b",), {"a": "shows nobody"})


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(keypoints(1, 0, 7), id="no bodies"),
        pytest.param(keypoints(1, 2, 0), id="no frames"),
        pytest.param(keypoints(1, 0, 0), id="neither"),
        pytest.param(0 * keypoints(1, 2, 7), id="zeros"),
    ],
)
def test_clips_that_show_nobody_are_left_out(tmp_path: Path, points: np.ndarray) -> None:
    """And two bodies of zeros make no set of two bodies."""
    value = content()
    value["annotations"][1] = annotation(NAMES[1], 1, points)
    path = write(tmp_path, value)
    with pytest.warns(UserWarning, match=rf"ntu60_3danno\.pkl: 1 of 3 clips show no body .* '{NAMES[1]}'"):
        clips = load(tmp_path)
    assert (clips.names, clips.dropped) == ((NAMES[0], NAMES[2]), {NAMES[1]: "shows nobody"})
    assert (clips.num_joints, clips.lengths.tolist(), clips.subjects.tolist()) == (25, [4, 1], [1, 8])
    split = clips.split("cross-view")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([1], [0])
    for place, name in enumerate(NAMES):
        value["annotations"][place] = annotation(name, 0, points)
    write(tmp_path, value)
    with pytest.raises(CrrlError, match=re.escape(f"{path} has no clip that shows a body in any frame: restore it")):
        load(tmp_path)


def test_float16_gets_a_warning(tmp_path: Path) -> None:
    value = content()
    for item in value["annotations"]:
        item["keypoint"] = item["keypoint"].astype(np.float16)
    write(tmp_path, value)
    with pytest.warns(UserWarning, match=r"ntu60_3danno\.pkl holds float16 coordinates: too coarse for velocities"):
        clips = load(tmp_path)
    assert clips.frames.dtype == np.float32


def test_numpys_numbers_serve_as_label_and_length(tmp_path: Path) -> None:
    value = content()
    value["annotations"][1].update(label=np.int64(1), total_frames=np.int32(7))
    write(tmp_path, value)
    assert load(tmp_path).labels.tolist() == [0, 1, 1]


def write_lists(root: Path, train: object, val: object, names: tuple[str, str]) -> Path:
    for name, value in zip(names, (train, val), strict=True):
        (root / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return root


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("ntu60_xsub_train", "ntu60_xsub_val"), "cross-subject"),
        (("ntu120_xset_train", "ntu120_xset_test"), "cross-setup"),
        (("xview_train", "xview_val"), "cross-view"),
        (("gym_train", "gym_val"), "default"),
        (("train", "test"), "default"),
    ],
)
def test_the_two_lists_of_mmaction2_are_one_split(tmp_path: Path, names: tuple[str, str], called: str) -> None:
    items = content()["annotations"]
    write_lists(tmp_path, items[:2], items[2:], names)
    clips = load(tmp_path)
    write(tmp_path, content())
    alone = load(tmp_path / "ntu60_3danno.pkl")
    np.testing.assert_array_equal(clips.frames, alone.frames)
    assert (clips.names, clips.labels.tolist()) == (alone.names, alone.labels.tolist())
    assert list(clips.splits) == [called]
    assert (clips.split(called).train.tolist(), clips.split(called).test["all"].tolist()) == ([0, 1], [2])


@pytest.mark.parametrize(
    ("train", "val", "problem"),
    [
        pytest.param([], content()["annotations"][2:], "gym_train.pkl is not a list of annotations", id="empty"),
        pytest.param(content()["annotations"][:2], [3], "gym_val.pkl is not a list of annotations", id="numbers"),
        pytest.param(content()["annotations"][:2], content(), "gym_val.pkl is not a list of annotations", id="a dict"),
        pytest.param(content()["annotations"][:2], [{}], "gym_val.pkl, [0] has no name", id="no name"),
        pytest.param(
            content()["annotations"][:2],
            [annotation("c", 0, np.full((1, 2, 25, 3), np.nan))],
            "gym_val.pkl, [0] (c) holds NaN",
            id="NaN",
        ),
        pytest.param(content()["annotations"][:2], content()["annotations"][1:], "twice", id="a clip on both sides"),
    ],
)
def test_damaged_lists_are_one_line_with_the_place(tmp_path: Path, train: object, val: object, problem: str) -> None:
    write_lists(tmp_path, train, val, ("gym_train", "gym_val"))
    with pytest.raises(CrrlError) as caught:
        load(tmp_path)
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}.*{re.escape(problem)}.*", str(caught.value))


def test_one_array_in_many_annotations_is_no_more_than_the_file_can_hold(tmp_path: Path) -> None:
    keypoint = keypoints(0, 1, 4000)
    names = [f"clip {number}" for number in range(20)]
    value = {
        "split": {"train": names[:10], "val": names[10:]},
        "annotations": [annotation(name, 0, keypoint) for name in names],
    }
    path = write(tmp_path, value)
    assert path.stat().st_size < 2 * keypoint.nbytes
    with pytest.raises(CrrlError, match=r"ntu60_3danno\.pkl has 24,000,000 bytes of keypoints, more than it can hold"):
        load(tmp_path)


def test_one_list_alone_asks_for_the_other(tmp_path: Path) -> None:
    items = content()["annotations"]
    write_lists(tmp_path, items[:2], items[2:], ("xsub_train", "xsub_val"))
    with pytest.raises(CrrlError, match=r"xsub_train\.pkl is a list of annotations, .* give --data a folder"):
        load(tmp_path / "xsub_train.pkl")
    (tmp_path / "xsub_val.pkl").rename(tmp_path / "xview_val.pkl")
    with pytest.raises(CrrlError, match=r"found xsub_train\.pkl, xview_val\.pkl: give --data that file, or"):
        load(tmp_path)


def change(**fields: Any) -> Callable[[dict[str, Any]], object]:
    """Fields of the second annotation; None removes one."""

    def damage(value: dict[str, Any]) -> None:
        item = value["annotations"][1]
        item.update(fields)
        for name in [name for name, field in item.items() if field is None]:
            del item[name]

    return damage


def resplit(**split: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.update(split=split)


NOT_FINITE = keypoints(1, 2, 7)
NOT_FINITE[1, 5, 3, 2] = np.nan


DAMAGE = {
    "no annotations": (lambda value: value.pop("annotations"), 'not a pyskl pickle: a dict with "split"'),
    "empty annotations": (lambda value: value.update(annotations=[]), "not a pyskl pickle"),
    "a number": (lambda value: value["annotations"].append(3), "annotations[3] is not a dict"),
    "no name": (change(frame_dir=None), "annotations[1] has no name"),
    "a number as name": (change(frame_dir=3), "annotations[1] has no name"),
    "a name twice": (change(frame_dir=NAMES[0]), "twice"),
    "no label": (change(label=None), "has no label"),
    "negative label": (change(label=-1), "has no label"),
    "label of kind float": (change(label=1.0), "has no label"),
    "label of kind bool": (change(label=True), "has no label"),
    "length": (change(total_frames=8), "total_frames and keypoint do not fit"),
    "swapped": (change(total_frames=2), "2 persons in 7 frames: swap its first two axes, if they are"),
    "no length": (change(keypoint=keypoints(1, 7, 2), total_frames=None), "do not fit each other, nothing and"),
    "an array as length": (change(total_frames=np.ones(3)), "do not fit each other, float64 [3] and"),
    "a length of float": (change(total_frames=7.0), "do not fit each other, 7.0 and float32 [2, 7,"),
    "no keypoint": (change(keypoint=None), "no keypoint [M, T, V, 2 or 3]"),
    "a list as keypoint": (change(keypoint=[[1.0]]), "no keypoint [M, T, V, 2 or 3]"),
    "1,001 joints": (change(keypoint=keypoints(1, 2, 7, 1001)), "no keypoint [M, T, V, 2 or 3]"),
    "splits": (resplit(**{f"train{i}": [] for i in range(101)}), "has 101 splits, more than 100"),
    "4D": (change(keypoint=keypoints(1, 2, 7, 25, 4)), "no keypoint [M, T, V, 2 or 3]"),
    "truth": (change(keypoint=np.ones((2, 7, 25, 3), bool)), "but bool [2, 7, 25, 3]: make it an"),
    "text": (change(keypoint=np.ones((2, 7, 25, 3), str)), "but <U1 [2, 7, 25, 3]: make it an array"),
    "TVC": (change(keypoint=keypoints(1, 2, 7)[0]), "but float32 [7, 25, 3]: the axis of persons is missing, keypoint"),
    "lists": (change(keypoint=keypoints(1, 2, 7).tolist()), "but a list: make it an array"),
    "x y z score": (change(keypoint=keypoints(1, 2, 7, 25, 4)), "but float32 [2, 7, 25, 4]: give it"),
    "score of 3D": (change(keypoint_score=np.ones((2, 7))), "is 3D without a keypoint_score"),
    "NaN as score": (
        change(keypoint=keypoints(1, 2, 7, 25, 2), keypoint_score=np.full((2, 7, 25), np.nan)),
        "keypoint_score holds NaN or infinity: write 0 for a joint that was not seen",
    ),
    "label of text": (change(label="walk"), "0 to 9999, but the text 'walk': give it one"),
    "keys": (change(frame_dir=None), "but nothing: add it to its label, img_shape, original_shape"),
    "a name on two lines": (change(frame_dir="a\nb"), "'a?b', holds an unprintable character (U+000A)"),
    "a long name": (change(frame_dir="x" * 300), "has 300 characters, more than 255"),
    "split of no axes": (resplit(train=NAMES[:2], val=np.array("x")), "not a list of clips, but <U1 []"),
    "a table": (resplit(train=NAMES[:2], val=np.ones((2, 2))), "not a list of clips, but float64 [2, 2]"),
    "a number in a split": (resplit(train=NAMES[:2], val=[1]), "names 1, which has no annotation"),
    "clip twice": (resplit(train=[*NAMES[:2], NAMES[0]], val=NAMES[2:]), "names clips twice"),
    "no joints": (change(keypoint=keypoints(1, 2, 7, 0)), "no keypoint [M, T, V, 2 or 3]"),
    "joints": (change(keypoint=keypoints(1, 2, 7, 20)), "has 40 joints, but"),
    "NaN": (change(keypoint=NOT_FINITE), "holds NaN or infinity, first in frame 5"),
    "no score": (change(keypoint=keypoints(1, 2, 7, 25, 2)), "2D without a keypoint_score"),
    "score": (change(keypoint=keypoints(1, 2, 7, 25, 2), keypoint_score=np.ones((2, 7, 24))), "2D without"),
    "no split": (lambda value: value.pop("split"), 'no "split" by name'),
    "empty split": (resplit(), "names no training clips"),
    "no validation": (resplit(xsub_train=NAMES[:2]), "'xsub_train' has no counterpart"),
    "a number as split": (resplit(train=NAMES[:2], val=3), "'val' is not a list of clips"),
    "unknown": (resplit(train=NAMES[:2], val=["x"]), "'val' names 'x', which has no annotation"),
    "no name there": (resplit(train=NAMES[:2], val=[(1,)]), "names a tuple, which has no annotation"),
    "a clip on both sides": (resplit(train=NAMES[:2], val=NAMES[1:]), "share clips"),
    "a call": (lambda value: value.update(more=functools.partial(print)), "partial'"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_the_file(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], problem: str
) -> None:
    value = content()
    damage(value)
    path = write(tmp_path, value)
    with pytest.raises(CrrlError) as caught:
        load(tmp_path)
    assert re.fullmatch(rf"{re.escape(str(path))}.*{re.escape(problem)}.*", str(caught.value))


@pytest.mark.parametrize("value", [3, [1, 2], {"a": 1}, None, np.ones(3)])
def test_another_pickle_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, value)
    with pytest.raises(CrrlError, match="is not a pyskl pickle"):
        load(tmp_path)


def test_none_or_several_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"should hold one pyskl annotation file .* found none"):
        load(tmp_path)
    write(tmp_path, content()).rename(tmp_path / "a.pkl")
    write(tmp_path, content())
    with pytest.raises(CrrlError, match=r"found a\.pkl, ntu60_3danno\.pkl: give --data that file, or"):
        load(tmp_path)
    assert len(load(tmp_path / "ntu60_3danno.pkl")) == 3
