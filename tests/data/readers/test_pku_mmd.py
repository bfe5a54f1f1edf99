"""PKU-MMD: recordings, labels and split files written as the data set's README has them, and every kind of damage."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import pku_mmd
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, cut, edit, put, remove

TRAIN, TEST = ("0002-L", "0002-M"), ("0003-R",)
LABELS = {
    "0002-L": "6,1,4,2\n51,4,9,1\n",
    "0002-M": "1,0,3,2\n",
    "0003-R": "6,2,3,1\n12,0,10,2\n",
}


def recording(video: str, frames: int = 10) -> np.ndarray:
    """[T, 150]; the second body is there from frame 5 on."""
    values = np.random.default_rng(list(video.encode())).normal(size=(frames, 150)).round(6)
    values[:5, 75:] = 0
    return values


def text(values: np.ndarray) -> str:
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in values)


def split_text(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    """With the official files' spelling, and the comma that ends their lists."""
    return f"Training videos: \n{', '.join(train)}\n\nValidataion videos: \n{', '.join(test)}, \n"


def write(root: Path, edition: str = "I") -> Path:
    v2 = "_v2" if edition == "II" else ""
    dash = "_" if v2 else "-"
    (root / f"Data/PKU_Skeleton{v2}").mkdir(parents=True)
    (root / f"Label/Train_Label{v2}").mkdir(parents=True)
    (root / "Split").mkdir()
    names = {video: f"A{int(video[:4]):02d}N01{video[4:]}" if v2 else video for video in LABELS}
    for video, name in names.items():
        (root / f"Data/PKU_Skeleton{v2}/{name}.txt").write_text(text(recording(video)))
        (root / f"Label/Train_Label{v2}/{name}.txt").write_text(LABELS[video])
    train, test = (tuple(names[video] for video in side) for side in (TRAIN, TEST))
    (root / f"Split/cross{dash}subject{v2}.txt").write_text(split_text(train, test))
    (root / f"Split/cross{dash}view{v2}.txt").write_text(split_text(test, train))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos of edition I with five actions."""
    return write(tmp_path / "pku")


def load(root: Path) -> Clips:
    return pku_mmd.load(pku_mmd.find_files(root))


def test_each_action_is_a_clip_of_its_frames(root: Path) -> None:
    clips = load(root)
    assert clips.names == ("0002-L:1", "0002-L:2", "0002-M:1", "0003-R:1", "0003-R:2")
    assert clips.lengths.tolist() == [3, 5, 3, 1, 10]
    expected = recording("0002-L")[4:9].reshape(5, 50, 3).astype(np.float32)
    np.testing.assert_array_equal(clips.clip(1), expected)


def test_an_absent_body_is_zeros(root: Path) -> None:
    clips = load(root)
    assert not clips.clip(0)[:, 25:].any()
    assert clips.clip(4)[5:, 25:].any(axis=2).all()


def test_classes_are_the_actions_that_occur_by_name(root: Path) -> None:
    clips = load(root)
    assert clips.class_names == ("bow", "clapping", "giving something to other person", "writing")
    assert [clips.class_names[label] for label in clips.labels] == [
        "clapping",
        "writing",
        "bow",
        "clapping",
        "giving something to other person",
    ]


def test_the_actions_are_51() -> None:
    assert len(set(pku_mmd.ACTIONS)) == 51
    assert (pku_mmd.ACTIONS[0], pku_mmd.ACTIONS[33], pku_mmd.ACTIONS[50]) == ("bow", "standing up", "writing")
    assert all(name == name.strip() for name in pku_mmd.ACTIONS)


@pytest.mark.parametrize("edition", ["I", "II"])
def test_both_editions_have_their_splits_and_views(tmp_path: Path, edition: str) -> None:
    clips = load(write(tmp_path / "pku", edition))
    assert clips.views.tolist() == [1, 1, 2, 3, 3]
    subject, view = clips.split("cross-subject"), clips.split("cross-view")
    assert (subject.train.tolist(), subject.test["all"].tolist()) == ([0, 1, 2], [3, 4])
    assert (view.train.tolist(), view.test["all"].tolist()) == ([3, 4], [0, 1, 2])


def test_files_named_by_their_kind_are_found_as_well(root: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (root / "Data/PKU_Skeleton").iterdir():
        shutil.copy(path, flat / f"{path.stem}.skeleton")
    for path in (root / "Label/Train_Label").iterdir():
        shutil.copy(path, flat / f"{path.stem}.label")
    shutil.copy(root / "Split/cross-subject.txt", flat)
    clips = load(flat)
    np.testing.assert_array_equal(clips.frames, load(root).frames)
    assert list(clips.splits) == ["cross-subject"]


def test_videos_that_no_split_names_are_left_alone_with_a_warning(root: Path) -> None:
    path = root / "Data/PKU_Skeleton/0009-L.txt"
    path.write_text("damaged")
    with pytest.warns(UserWarning, match=f"^{path} is of a video that no split file names: not read$"):
        assert len(load(root)) == 5
    (root / "Data/PKU_Skeleton/0009-l.txt").write_text("almost a name")
    with pytest.warns(UserWarning, match="and 1 more files are of a video that no split file names"):
        assert len(load(root)) == 5


@pytest.mark.filterwarnings("ignore:.* of a video that no split file names")
@pytest.mark.parametrize("kind", ["skeleton", "label"])
def test_two_files_of_a_video_that_a_split_names_are_refused(root: Path, kind: str) -> None:
    for number in "12":
        (root / f"old_{kind}_{number}").mkdir()
        (root / f"old_{kind}_{number}" / "0009-L.txt").write_text("no split names it")
    assert len(load(root)) == 5
    (root / f"old_{kind}_1" / "0002-L.txt").write_text("another")
    with pytest.raises(CrrlError, match=rf"0002-L\.txt and .*old_{kind}_1/0002-L\.txt have the same name: remove"):
        load(root)


def test_an_action_without_a_body_is_left_out_with_a_warning(root: Path) -> None:
    values = recording("0003-R")
    values[2] = 0
    (root / "Data/PKU_Skeleton/0003-R.txt").write_text(text(values))
    (root / "Label/Train_Label/0003-R.txt").write_text("6,2,3,1\n12,0,10,2\n\n7,2,3,1\n")
    with pytest.warns(UserWarning, match=r"2 actions of PKU-MMD have no frame that shows .*, the first 0003-R:1$"):
        clips = load(root)
    assert clips.names == ("0002-L:1", "0002-L:2", "0002-M:1", "0003-R:2")
    assert clips.dropped == {"0003-R:1": "shows nobody", "0003-R:4": "shows nobody"}
    assert clips.split("cross-subject").test["all"].tolist() == [3]


def test_a_joint_at_the_origin_of_a_body_that_is_there_is_present(root: Path) -> None:
    values = recording("0002-M")
    values[0, :3] = 0
    (root / "Data/PKU_Skeleton/0002-M.txt").write_text(text(values))
    clip = load(root).clip(2)
    assert clip[0, 0].any()
    assert np.abs(clip[0, 0]).max() < 1e-5


SKELETON, LABEL, SPLIT = "Data/PKU_Skeleton/0002-L.txt", "Label/Train_Label/0002-L.txt", "Split/cross-subject.txt"


def row(number: int, change: Callable[[str], str]) -> Change:
    """Change one line, by its number, of the skeleton file."""

    def damage(root: Path) -> None:
        lines = (root / SKELETON).read_text().splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        (root / SKELETON).write_text("".join(lines))

    return damage


DAMAGE = {
    "empty skeleton": (put(SKELETON, b""), f"{SKELETON}, line 1", "empty"),
    "binary": (put(SKELETON, b"\xff\n"), f"{SKELETON}, line 1", "not UTF-8"),
    "number missing": (row(3, lambda line: line[10:]), f"{SKELETON}, line 3", "149 numbers, not 150"),
    "one more": (row(3, lambda line: f"1 {line}"), f"{SKELETON}, line 3", "151 numbers, not 150"),
    "NaN": (row(4, lambda line: f"nan{line[9:]}"), f"{SKELETON}, line 4", "not a finite number"),
    "blank line": (row(2, lambda line: "\n"), f"{SKELETON}, line 2", "a blank line"),
    "CR": (row(2, lambda line: f"{line[:40]}\r{line[41:]}"), f"{SKELETON}, line 2", "a carriage ret"),
    "broken": (row(10, lambda line: f"{line[:40]}\n{line[41:]}"), f"{SKELETON}, line 10", "not 150"),
    "joined": (row(1, lambda line: f"{line.strip()} "), f"{SKELETON}, line 1", "300 numbers, not"),
    "cut in a line": (cut(SKELETON, -20), f"{SKELETON}, line 10", "stops in the middle of a line"),
    "beyond the end": (edit(LABEL, "51,4,9,1", "51,4,11,1"), f"{LABEL}, line 2", "ends at frame 11"),
    "unknown action": (edit(LABEL, "6,1,4,2", "52,1,4,2"), f"{LABEL}, line 1", "action (1 to 51)"),
    "action 0": (edit(LABEL, "6,1,4,2", "0,1,4,2"), f"{LABEL}, line 1", "action (1 to 51)"),
    "no confidence": (edit(LABEL, "6,1,4,2", "6,1,4"), f"{LABEL}, line 1", "start,end,confidence"),
    "negative end": (edit(LABEL, "6,1,4,2", "6,1,-4,2"), f"{LABEL}, line 1", "start,end"),
    "fraction": (edit(LABEL, "6,1,4,2", "6,1.5,4,2"), f"{LABEL}, line 1", "start,end"),
    "no frame": (edit(LABEL, "51,4,9,1", "51,4,4,1"), f"{LABEL}, line 2", "starts at frame 4 and"),
    "backwards": (edit(LABEL, "51,4,9,1", "51,9,4,1"), f"{LABEL}, line 2", "starts at frame 9 and"),
    "empty labels": (put(LABEL, b"\n"), f"{LABEL}, line 1", "empty"),
    "heading": (edit(SPLIT, "Training", "Testing"), f"{SPLIT}, line 1", "not a video under a heading"),
    "twice": (edit(SPLIT, "Validataion videos", "Training videos"), f"{SPLIT}, line 4", "headings"),
    "name": (edit(SPLIT, "0002-M", "0002-X"), f"{SPLIT}, line 2", "'0002-X' is not a video"),
    "both sides": (edit(SPLIT, "0003-R", "0002-L"), f"{SPLIT}, line 5", "and a validation video"),
    "split cut short": (cut(SPLIT, 18), f"{SPLIT}", "names no videos under"),
}


@pytest.mark.parametrize(("damage", "where", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_file_and_line(root: Path, damage: Change, where: str, problem: str) -> None:
    damage(root)
    with pytest.raises(CrrlError) as caught:
        load(root)
    assert re.fullmatch(rf".*{re.escape(str(root / where))}\b.*{re.escape(problem)}.*restore.*", str(caught.value))


MISSING = {
    "no splits": (lambda root: shutil.rmtree(root / "Split"), "should hold the split files .* found none"),
    "both editions": (lambda root: write(root / "v2", "II"), "found both editions', I and II"),
    "no skeleton": (remove(SKELETON), "no skeleton file of 0002-L"),
    "no labels": (remove(LABEL), "no label file of 0002-L.*unpack it"),
}


@pytest.mark.parametrize(("damage", "problem"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named(root: Path, damage: Change, problem: str) -> None:
    damage(root)
    with pytest.raises(CrrlError, match=problem):
        load(root)


def test_a_last_frame_that_is_not_ended_is_read_with_a_warning(root: Path) -> None:
    expected = load(root).frames
    path = root / SKELETON
    path.write_text(path.read_text()[:-1])
    with pytest.warns(UserWarning, match=r"PKU_Skeleton/0002-L\.txt is without a line break at the end") as caught:
        np.testing.assert_array_equal(load(root).frames, expected)
    assert len(caught) == 1


def test_actions_that_all_take_the_same_frames_are_refused(root: Path) -> None:
    (root / LABEL).write_text("6,0,10,2\n" * 10)
    assert len(load(root)) == 13
    (root / LABEL).write_text("6,0,10,2\n" * 11)
    with pytest.raises(CrrlError, match=r"0002-L\.txt: its 11 actions have 110 frames together, .*0002-L\.txt only 10"):
        load(root)


def test_files_behind_a_linked_folder_are_found(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "Data").rename(tmp_path / "elsewhere" / "Data")
    (root / "Data").symlink_to(tmp_path / "elsewhere" / "Data")
    assert len(load(root)) == 5


@pytest.mark.filterwarnings("error")
def test_a_truncated_recording_is_told_unless_no_action_is_in_what_is_gone(root: Path) -> None:
    expected = load(root).frames
    content = (root / SKELETON).read_bytes()
    for kept in [*range(0, len(content), 997), *range(len(content) - 20, len(content))]:
        (root / SKELETON).write_bytes(content[:kept])
        try:
            frames = load(root).frames
        except (CrrlError, UserWarning):
            continue
        np.testing.assert_array_equal(frames, expected)
