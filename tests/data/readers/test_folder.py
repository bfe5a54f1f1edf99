"""A user's own clips: every way labels.csv may be written, and every way the folder may be wrong."""

from __future__ import annotations

import csv
import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import folder
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, cut, put, remove

FILES = [f"{i}.npy" for i in range(10)]


def clip(number: int, frames: int = 3, joints: int = 5) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(frames, joints, 3)).astype(np.float32)


def write_labels(root: Path, columns: dict[str, list[str]]) -> None:
    """labels.csv with these columns, in this order."""
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def load(root: Path) -> Clips:
    return folder.load(folder.find_files(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten clips of two alternating classes."""
    for number, name in enumerate(FILES):
        np.save(tmp_path / name, clip(number))
    write_labels(tmp_path, {"file": FILES, "label": ["sit", "stand"] * 5})
    return tmp_path


def test_clips_come_in_the_order_of_the_rows(root: Path) -> None:
    write_labels(root, {"file": FILES[::-1], "label": ["sit"] * 10})
    clips = load(root)
    for place, number in enumerate(range(9, -1, -1)):
        np.testing.assert_array_equal(clips.clip(place), clip(number))


def test_labels_are_numbered_by_class_name(root: Path) -> None:
    write_labels(root, {"file": FILES, "label": ["stand", "sit"] * 5})
    clips = load(root)
    assert clips.class_names == ("sit", "stand")
    assert clips.labels.tolist() == [1, 0] * 5


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_with_one_array_is_a_clip(root: Path, save: Callable[..., None]) -> None:
    save(root / "0.npz", any_name=clip(42, frames=7))
    write_labels(root, {"file": ["0.npz", *FILES[1:]], "label": ["sit"] * 10})
    np.testing.assert_array_equal(load(root).clip(0), clip(42, frames=7))


def test_every_fifth_clip_of_each_class_tests_by_default(root: Path) -> None:
    split = load(root).split("default")
    assert split.test["all"].tolist() == [8, 9]
    assert split.train.tolist() == list(range(8))


def test_the_column_split_decides_where_there_is_one(root: Path) -> None:
    write_labels(root, {"label": ["a"] * 10, "split": ["test", "train"] * 5, "file": FILES})
    split = load(root).split("default")
    assert split.test["all"].tolist() == [0, 2, 4, 6, 8]
    assert split.train.tolist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("fact", ["subject", "view", "setup"])
def test_facts_are_read_and_unknown_where_left_blank(root: Path, fact: str) -> None:
    write_labels(root, {"file": FILES, "label": ["a"] * 10, fact: ["7", "", "0", *["1"] * 7]})
    assert getattr(load(root), f"{fact}s").tolist() == [7, -1, 0, *[1] * 7]


def test_names_with_commas_quotes_and_folders_are_read(root: Path) -> None:
    name = 'day 1/he said "sit", twice.npy'
    (root / "day 1").mkdir()
    (root / FILES[0]).rename(root / name)
    write_labels(root, {"file": [name, *FILES[1:]], "label": ['sit, "slowly"'] * 10})
    clips = load(root)
    assert clips.names[0] == name
    assert clips.class_names == ('sit, "slowly"',)
    np.testing.assert_array_equal(clips.clip(0), clip(0))


def test_the_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_first_column(root: Path) -> None:
    path = root / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load(root)) == 10


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("\n", ",,\n"), id="empty columns at the end"),
        pytest.param(lambda text: text.replace("sit\n", "sit,,\n"), id="empty fields at the end of rows"),
        pytest.param(lambda text: f"{text},,\n,,\n\n", id="empty rows"),
        pytest.param(lambda text: text.replace(",", " , "), id="space around fields"),
        pytest.param(lambda text: text.replace("file,label", "File,LABEL"), id="columns in capitals"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="Windows"),
        pytest.param(lambda text: text.replace("\n", "\r"), id="old Mac"),
        pytest.param(lambda text: text.replace(",sit", ',"sit"'), id="quotes"),
        pytest.param(lambda text: text.replace(",sit", ', "sit"'), id="quotes after a space"),
        pytest.param(lambda text: text.rstrip(), id="no line break at the end"),
    ],
)
def test_a_list_is_read_however_a_spreadsheet_writes_it(root: Path, change: Callable[[str], str]) -> None:
    expected = load(root)
    text = (root / "labels.csv").read_text()
    assert change(text) != text
    (root / "labels.csv").write_bytes(change(text).encode())
    clips = load(root)
    assert (clips.names, clips.class_names) == (expected.names, expected.class_names)
    np.testing.assert_array_equal(clips.labels, expected.labels)


def test_columns_that_are_not_read_are_told(root: Path) -> None:
    write_labels(root, {"file": FILES, "label": ["a"] * 10, "Seconds": ["1"] * 10, "note": [""] * 10})
    with pytest.warns(UserWarning, match=r"labels\.csv has columns that are not read: seconds, note"):
        assert len(load(root)) == 10


@pytest.mark.parametrize(
    "pair",
    [
        ("Sit", "sit"),
        ("sit down", "sit  down"),
        ("sit_down", "sit down"),
        ("sit", "SIT"),
        ("1", "01"),
        ("2", "2.0"),
        ("\u00e9", "e\u0301"),
        ("sit", "sit\u200b"),
    ],
)
def test_classes_that_may_be_one_are_told(root: Path, pair: tuple[str, str]) -> None:
    write_labels(
        root, {"file": FILES, "label": [*pair, "run", "walk", "1.5"] * 2, "split": ["Train"] * 5 + ["TEST"] * 5}
    )
    with pytest.warns(
        UserWarning, match=r"labels\.csv: the classes '.*' and '.*' differ only in case, spaces or zeros"
    ) as caught:
        assert len(load(root).class_names) == 5
    assert len(caught) == 1
    assert all(repr(name) in str(caught[0].message) for name in pair)


@pytest.mark.parametrize("name", ["../out.npy", "a/../../out.npy", "..", "/etc/passwd", "/dev/zero", "a/../1.npy"])
def test_a_file_outside_of_the_folder_is_refused(root: Path, name: str) -> None:
    np.save(root.parent / "out.npy", clip(0))
    write_labels(root, {"file": [*FILES[1:], name], "label": ["a"] * 10})
    with pytest.raises(CrrlError, match=rf"labels\.csv, line 11: .* is not below {root}: move it there, or link to it"):
        load(root)


def test_links_in_the_folder_are_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    np.save(elsewhere / "x.npy", clip(0))
    (root / "linked").symlink_to(elsewhere)
    write_labels(root, {"file": ["linked/x.npy", "./1.npy", *FILES[2:]], "label": ["a"] * 10})
    np.testing.assert_array_equal(load(root).clip(0), clip(0))


@pytest.mark.parametrize("again", ["2.npy", "./2.npy", ".//2.npy", "2.npy "])
def test_a_clip_listed_twice_is_refused_with_its_line(root: Path, again: str) -> None:
    """One of them might train, and the other test."""
    write_labels(root, {"file": [*FILES, again], "label": ["a"] * 11})
    with pytest.raises(CrrlError, match=r"line 12: .* is listed twice"):
        load(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["3.npy", "labels.csv"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(root: Path, name: str, kind: str) -> None:
    (root / name).unlink()
    if kind == "pipe":
        os.mkfifo(root / name)
    elif kind == "folder":
        (root / name).mkdir()
    else:
        (root / name).symlink_to(kind)
    with pytest.raises(CrrlError, match=rf"{name}.* (is not a regular file|Is a directory)"):
        load(root)


def test_joints_x_y_score_become_flat_ones_with_a_warning(root: Path) -> None:
    for number, name in enumerate(FILES):
        points = 500 + 50 * clip(number)
        points[..., 2] = np.random.default_rng(number).uniform(0.2, 1, points.shape[:2])
        points[1, 2, 2] = 0
        points[0, 0] = 0, 0, 0.5
        np.save(root / name, points)
    with pytest.warns(UserWarning, match=r"labels\.csv: the third numbers .* reach \d+.*: they are taken for scores"):
        clips = load(root)
    assert not clips.frames[..., 2].any()
    assert not clips.clip(4)[1, 2].any()
    np.testing.assert_allclose(clips.clip(4)[0, 0], [1e-6, 0, 0])
    np.testing.assert_array_equal(clips.clip(4)[2, :, :2], np.load(root / "4.npy")[2, :, :2])


@pytest.mark.filterwarnings("error", "ignore:.* all clips are flat")
@pytest.mark.parametrize("depth", [0, 2, -0.5])
def test_joints_in_pixels_that_are_flat_or_deep_stay_as_they_are(root: Path, depth: float) -> None:
    for number, name in enumerate(FILES):
        points = 500 + 50 * clip(number)
        points[..., 2] = depth
        np.save(root / name, points)
    np.testing.assert_array_equal(load(root).clip(4), np.load(root / "4.npy"))


def test_without_a_list_every_clip_below_trains_and_has_no_label(root: Path) -> None:
    (root / "labels.csv").unlink()
    (root / "day 1").mkdir()
    (root / "0.npy").rename(root / "day 1" / "0.npy")
    np.savez(root / "day 1" / "x.npz", clip(0))
    (root / "notes.txt").write_text("no clip")
    clips = load(root)
    assert clips.names == ("1.npy", *FILES[2:], "day 1/0.npy", "day 1/x.npz")
    assert (clips.class_names, set(clips.labels.tolist())) == ((), {-1})
    split = clips.split("default")
    assert (split.train.tolist(), split.test) == (list(range(11)), {})


def test_a_list_may_have_no_labels_and_a_test_side(root: Path) -> None:
    write_labels(root, {"file": FILES, "split": ["test", "train"] * 5})
    clips = load(root)
    assert (clips.class_names, set(clips.labels.tolist())) == ((), {-1})
    assert clips.split("default").test["all"].tolist() == [0, 2, 4, 6, 8]
    write_labels(root, {"file": FILES})
    assert load(root).split("default").test == {}


@pytest.mark.parametrize(
    ("labels", "split"), [(["sit"] * 10, {"split": ["train"] * 10}), ([f"{i}" for i in range(10)], {})]
)
def test_a_list_may_have_labels_and_no_test_side(root: Path, labels: list[str], split: dict[str, list[str]]) -> None:
    """As well where no class has five clips, of which the fifth would test."""
    write_labels(root, {"file": FILES, "label": labels, **split})
    clips = load(root)
    assert len(clips.class_names) == len(set(labels))
    assert (clips.split("default").train.tolist(), clips.split("default").test) == (list(range(10)), {})


def test_a_folder_without_a_list_and_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CrrlError, match=rf"^{tmp_path} holds neither a labels\.csv, .* nor any file that ends in \.npy or \.npz"
    ):
        load(tmp_path)


@pytest.mark.parametrize("listed", [True, False])
def test_clips_that_are_flat_or_show_nothing_are_told(root: Path, listed: bool) -> None:
    for number, name in enumerate(FILES):
        np.save(root / name, clip(number) * (1, 1, 0) * (number not in (3, 7)))
    if not listed:
        (root / "labels.csv").unlink()
    where = root / "labels.csv" if listed else root
    with (
        pytest.warns(UserWarning, match=rf"^{where}: 2 of 10 clips are all zeros, .*, the first is .*3\.npy: remove"),
        pytest.warns(UserWarning, match=rf"^{where}: all clips are flat, z is 0 in each joint"),
    ):
        load(root)


def replace_clip(content: np.ndarray) -> Change:
    return lambda root: np.save(root / "3.npy", content)


relabel = partial(put, "labels.csv")


def labels(**columns: list[str]) -> Change:
    return lambda root: write_labels(root, {"file": FILES, "label": ["a"] * 10, **columns})


def npz_as_clip_3(*arrays: np.ndarray) -> Change:
    def damage(root: Path) -> None:
        np.savez(root / "3.npz", *arrays)
        (root / "3.npz").rename(root / "3.npy")

    return damage


NOT_FINITE = clip(0)
NOT_FINITE[2, 1] = np.nan


MORE_FIELDS = r"labels.csv, line {}: \d fields, but the first line names \d columns: put .* into quotes"
WRONG = {
    "empty csv": (relabel(b""), "labels.csv.*no column file.*file,label"),
    "no column file": (relabel(b"label\na\n"), "labels.csv.*no column file.*file,label"),
    "semicolons": (relabel(b"file;label\n0.npy;a\n"), "labels.csv.*no column.*file,label, separated by commas"),
    "no rows": (relabel(b"file,label\n"), "labels.csv.*lists no clips.*add a row"),
    "no label": (relabel(b"file,label\n0.npy\n"), "labels.csv, line 2.*label.*must both be given"),
    "tabs": (relabel(b"file\tlabel\n0.npy\ta\n"), "labels.csv.*no column.*separated by commas, not tabs"),
    "twice": (relabel(b"file,label,label\n0.npy,a,b\n"), "labels.csv.*2 columns label.*all but"),
    "open quote": (relabel(b'file,label\n0.npy,"a\n1.npy,b\n'), "labels.csv, line 3.*unexpected end.*correct its"),
    "half a quote": (relabel(b'file,label\n0.npy,"a"b\n'), "labels.csv, line 2.*',' expected.*correct its quotes"),
    "two lines": (relabel(b'file,label\n0.npy,"a\n1.npy,b"\n'), "labels.csv.*a class.*unprintable .*rename it"),
    "long label": (relabel(b"file,label\n0.npy," + b"x" * 300), "labels.csv.*a class.*has 300 characters"),
    "long name": (relabel(b"file,label\n" + b"x" * 300 + b".npy,a"), "labels.csv, line 2.*a file.*304 char"),
    "long path": (relabel(b"file,label\n" + b"x/" * 3000 + b",a"), ".*File name too long.*check the disk"),
    "zero byte": (relabel(b"file,label\n0\x00.npy,a"), "labels.csv, line 2.*a file.*U.0000"),
    "columns": (relabel(b"file,label" + b",x" * 5000 + b"\n0.npy,a\n"), "labels.csv.*5002 columns.*names file"),
    "not UTF-8": (relabel(b"file,label\n0.npy,\xff\n"), "labels.csv.*no.*in UTF-8"),
    "split": (labels(split=["train"] * 9 + ["val"]), "labels.csv, line 11.*split is 'val'.*train or test"),
    "view": (labels(view=["front"] * 10), "labels.csv, line 2.*view is 'front'.*not a whole number"),
    "all test": (labels(split=["test"] * 10), "labels.csv marks every clip as test: mark those to train on"),
    "absent clip": (remove("3.npy"), r"labels.csv.*lists .*3\.npy.*add the file or remove its row"),
    "truncated": (cut("3.npy", -1), "3.npy.*damaged.*restore it or remove its row"),
    "cut in the header": (cut("3.npy", 20), "3.npy.*damaged.*restore it or remove its row"),
    "emptied": (cut("3.npy", 0), "3.npy.*damaged.*restore it or remove its row"),
    "two arrays": (npz_as_clip_3(clip(0), clip(1)), "3.npy.*holds 2 arrays.*one clip per file"),
    "no array": (npz_as_clip_3(), "3.npy.*holds 0 arrays.*one clip per file"),
    "joints": (replace_clip(clip(0, joints=4)), "3.npy.*has 4 joints.*one count per data set"),
    "NaN": (replace_clip(NOT_FINITE), "3.npy.*NaN .* frame 2.*repair or remove the clip"),
    "no frames": (replace_clip(clip(0, frames=0)), "3.npy.*is empty.*remove the clip"),
    "bool": (replace_clip(clip(0) > 0), "3.npy.*not an array of numbers.*it holds bool values"),
    "dates": (replace_clip(clip(0).astype("M8[s]")), "3.npy.*not an array of numbers.*datetime64"),
    "text": (replace_clip(clip(0).astype("S9")), "3.npy.*not an array of numbers.*it holds bytes"),
    "complex": (replace_clip(clip(0) + 0j), "3.npy.*not an array of numbers.*it holds complex"),
    "two axes": (replace_clip(clip(0)[0]), r"3.npy.*shape .5, 3..*not \[frames, joints, 3\]"),
    "a column splits": (labels(splits=["train"] * 10), "labels.csv: column 'splits' is almost 'split': rename it"),
    "a column subjects": (labels(subjects=["1"] * 10), "labels.csv: column 'subjects' is almost 'subject': rename it"),
    "a column view.": (labels(**{"view.": ["1"] * 10}), "labels.csv: column 'view.' is almost 'view': rename it"),
    "a comma in a label": (relabel(b"file,label\n0.npy,carry, with bag\n"), MORE_FIELDS.format(2)),
    "a comma after a blank line": (relabel(b"file,label\n0.npy,sit\n\n1.npy,carry, with bag\n"), MORE_FIELDS.format(4)),
    "a comma in front": (relabel(b"label,file\nsit,0.npy,1\n"), MORE_FIELDS.format(2)),
    "a comma and a column of no name": (relabel(b"file,label,\n0.npy,carry, with bag\n"), MORE_FIELDS.format(2)),
    "a comma before a split": (relabel(b"file,label,split\n0.npy,carry, with bag,train\n"), MORE_FIELDS.format(2)),
    "empty fields before one": (relabel(b"file,label\n0.npy,sit,,,x\n"), MORE_FIELDS.format(2)),
    "numbers": (
        put("3.npy", b"0.1,0.2,0.3\n"),
        r"3.npy is not a \.npy or \.npz array \(it begins with '0\.1,0\.2,0\.3\?'\)",
    ),
    "git-lfs": (
        put("3.npy", b"version https://git-lfs.github.com/spec/v1\noid"),
        "3.npy is a git-lfs pointer, not a .npy",
    ),
    "HTML": (put("3.npy", b"<html>log in</html>"), "3.npy is a web page .HTML., not a .npy or .npz array: download"),
    "gzip": (put("3.npy", b"\x1f\x8b\x08\x00"), r"3.npy is compressed \(gzip\), not a .npy or .npz array: unpack it"),
    "pickle": (put("3.npy", b"\x80\x04\x95abc"), "3.npy is a pickle, not a .npy or .npz array: give the file"),
    "JSON": (put("3.npy", b'{"a": [1]}'), "3.npy is JSON, not a .npy or .npz array: give the file"),
    "BVH": (put("3.npy", b"HIERARCHY\nROOT a\n"), "3.npy is a BVH file, not .*: .* python -m crrl.prepare bvh$"),
}


@pytest.mark.parametrize(("damage", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line_with_file_and_remedy(root: Path, damage: Change, problem: str) -> None:
    damage(root)
    with pytest.raises(CrrlError) as caught:
        load(root)
    # Without DOTALL the dots match no line break, so this is one line.
    assert re.fullmatch(rf".*{re.escape(str(root))}/?{problem}.*", str(caught.value))


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path):
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._marker,)


def test_two_arrays_one_after_the_other_are_no_clip(root: Path) -> None:
    """NumPy's own reader reads the first and says nothing."""
    with open(root / "3.npy", "wb") as file:
        np.save(file, clip(0))
        np.save(file, clip(1))
    with pytest.raises(CrrlError, match=r"3\.npy is damaged .* \(\d+ bytes after the header, not the 180 of float32"):
        load(root)


def test_arrays_in_fortran_order_and_of_other_byte_order_are_read(root: Path) -> None:
    np.save(root / "3.npy", np.asfortranarray(clip(3)))
    np.savez(root / "4.npy", np.asfortranarray(clip(4)))
    (root / "4.npy.npz").rename(root / "4.npy")
    np.save(root / "5.npy", clip(5).astype(">f8"))
    for number in (3, 4, 5):
        np.testing.assert_array_equal(load(root).clip(number), clip(number))


def test_an_archive_of_something_else_is_refused(root: Path) -> None:
    for names in (["data.pkl"], ["a.npy", "data.pkl", "version"]):
        with zipfile.ZipFile(root / "3.npy", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        with pytest.raises(
            CrrlError, match=r"3\.npy holds data\.pkl, which is not a \.npy array: one clip per file is needed"
        ):
            load(root)


def test_a_clip_that_unpacks_to_much_is_refused_before_it_does(root: Path) -> None:
    with (
        zipfile.ZipFile(root / "3.npy", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as stream,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (60_000, 100, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(600):
            stream.write(np.ones((100, 100, 3), np.float32).tobytes())
    with pytest.raises(
        CrrlError, match=r"3\.npy: a\.npy unpacks from .* to 72,000,128 bytes, more than 50 times as many"
    ):
        load(root)


def test_a_still_clip_may_be_compressed_as_well_as_it_is(root: Path) -> None:
    np.savez_compressed(root / "still.npz", np.ones((5000, 25, 3), np.float32))
    assert (root / "still.npz").stat().st_size < 5000 * 300 / 200
    assert len(folder.read_clip(root / "still.npz")) == 5000


@pytest.mark.parametrize("shape", [(10**12, 5, 3), (2**62, 4), (0, 2**61, 3)])
def test_a_header_that_promises_more_than_there_is_takes_no_memory(root: Path, shape: tuple[int, ...]) -> None:
    with open(root / "3.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(CrrlError, match=r"3\.npy"):
        load(root)


@pytest.mark.parametrize("save", [np.save, np.savez], ids=["npy", "npz"])
def test_a_pickled_clip_is_refused_and_never_unpickled(root: Path, save: Callable[..., None]) -> None:
    marker = root / "unpickled"
    with open(root / "3.npy", "wb") as file:
        save(file, np.array([Bomb(marker)], dtype=object))
    with pytest.raises(CrrlError, match=r"3\.npy is damaged or not a \.npy/\.npz array .*remove its row") as caught:
        load(root)
    assert "an array of Python objects or fields, not of numbers" in str(caught.value)
    assert not marker.exists()


def test_a_reason_of_several_lines_becomes_one(root: Path) -> None:
    many = [(f"field{number}", "<f4") for number in range(1000)]  # NumPy's refusal of so long a header has three lines
    np.save(root / "3.npy", np.zeros(2, many))
    with pytest.raises(CrrlError) as caught:
        load(root)
    assert re.fullmatch(r".*3\.npy is damaged or not a \.npy/\.npz array \(.{1,100}\): .*its row", str(caught.value))


def test_the_pickled_clip_would_have_made_its_file(tmp_path: Path) -> None:
    marker = tmp_path / "unpickled"
    np.save(tmp_path / "bomb.npy", np.array([Bomb(marker)], dtype=object))
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    assert marker.exists()
