"""NTU RGB+D: what a file's name says, which bodies of it are taken, and the published splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.readers import ntu
from crrl.data.readers.skeleton import Body
from crrl.errors import CrrlError

EDITIONS = {"60": ntu.NTU60, "120": ntu.NTU120}


def join(edition: ntu.Edition, names: list[str]) -> Any:
    return edition.join(np.ones((len(names), 50, 3), np.float32), np.arange(len(names) + 1), names)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / f"{name}.skeleton"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def body(joints: np.ndarray, start: int = 0, number: int = 1) -> Body:
    return Body(number, np.arange(start, start + len(joints)), joints)


def moving(frames: int, step: float, seed: int = 0) -> np.ndarray:
    """A standing body that walks `step` metres a frame, [frames, 25, 3]."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(25, 3)) * (0.1, 0.5, 0.1) + (0, 0, 3)
    return (pose + np.arange(frames)[:, None, None] * (step, 0, 0)).astype(np.float32)


def test_a_name_says_label_subject_camera_and_setup() -> None:
    clips = join(ntu.NTU120, ["S031C002P103R001A120", "S001C003P008R002A001"])
    assert clips.labels.tolist() == [119, 0]
    assert clips.subjects.tolist() == [103, 8]
    assert clips.views.tolist() == [2, 3]
    assert clips.setups.tolist() == [31, 1]


@pytest.mark.parametrize(("edition", "classes"), [("60", 60), ("120", 120)])
def test_every_class_has_a_name_of_its_own(edition: str, classes: int) -> None:
    names = join(EDITIONS[edition], ["S001C001P001R001A001"]).class_names
    assert len(set(names)) == len(names) == classes
    assert (names[0], names[57]) == ("drink water", "shake hands")


@pytest.mark.parametrize(("edition", "train"), [("60", 20), ("120", 53)])
def test_cross_subject(edition: str, train: int) -> None:
    subjects = range(1, EDITIONS[edition].subjects + 1)
    split = join(EDITIONS[edition], [f"S001C001P{subject:03}R001A001" for subject in subjects]).split("cross-subject")
    assert (len(split.train), len(split.test["all"])) == (train, len(subjects) - train)
    assert {0, 1, 3, 4, 37} <= set(split.train.tolist())
    assert {2, 5, 39} <= set(split.test["all"].tolist())
    assert ({44, 49, 51, 102} <= set(split.train.tolist())) == (edition == "120")
    assert not {47, 50, 101, 105} & set(split.train.tolist())


def test_cross_view_trains_on_cameras_2_and_3() -> None:
    split = join(ntu.NTU60, [f"S001C00{camera}P001R001A001" for camera in (1, 2, 3)]).split("cross-view")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([1, 2], [0])


def test_cross_setup_trains_on_even_setups() -> None:
    split = join(ntu.NTU120, [f"S{setup:03}C001P001R001A001" for setup in range(1, 33)]).split("cross-setup")
    assert split.train.tolist() == list(range(1, 32, 2))
    assert split.test["all"].tolist() == list(range(0, 32, 2))


def test_the_official_counts_add_up() -> None:
    for edition, total in ((ntu.NTU60, 56_578), (ntu.NTU120, 113_945)):
        assert {sum(sides.values()) for sides in edition.official.values()} == {total}
        assert edition.official.keys() == join(edition, ["S001C001P001R001A001"]).splits.keys()


def test_files_are_found_below_the_folder_by_name(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/S002C001P001R001A001", "a/S018C001P001R001A061", "S001C001P001R001A002", "b/._S001C001P001R001A009"
    )
    found = {name: [path.stem for path in edition.find_files(tmp_path)] for name, edition in EDITIONS.items()}
    assert found["60"] == ["S001C001P001R001A002", "S002C001P001R001A001"]
    assert found["120"] == [*found["60"], "S018C001P001R001A061"]


def test_files_behind_linked_folders_are_found_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "S002C001P001R001A001")
    touch(tmp_path / "raw", "a/S001C001P001R001A002")
    (tmp_path / "raw/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/a/back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/again").symlink_to(tmp_path / "raw/a")
    assert [path.stem for path in ntu.NTU60.find_files(tmp_path / "raw")] == [
        "S001C001P001R001A002",
        "S002C001P001R001A001",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no .skeleton files of NTU RGB.D 60"),
        (["S018C001P001R001A061"], "no .skeleton files of NTU RGB.D 60"),
        (["walk"], "walk.skeleton is not named like a clip of NTU"),
        (["S001C004P001R001A001"], "S001C004P001R001A001.skeleton is not named"),
        (["S001C001P001R001A121"], "A121.skeleton is not named"),
        (["S001C001P001R001A000"], "A000.skeleton is not named"),
        (["a/S001C001P001R001A001", "b/S001C001P001R001A001"], "have the same name: remove one"),
    ],
)
def test_a_folder_that_cannot_be_right_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(CrrlError, match=message):
        ntu.NTU60.find_files(tmp_path)


def test_the_body_that_moves_most_comes_first(ntu_files: Any) -> None:
    calm, lively = moving(30, 0.001), moving(30, 0.02, seed=1)
    clip, left_out = ntu.read(ntu_files.text(ntu_files.frames({1: calm, 2: lively})))
    assert (clip.shape, clip.dtype, left_out) == ((30, 50, 3), np.float32, {})
    np.testing.assert_allclose(clip[:, :25], lively, rtol=1e-6)
    np.testing.assert_allclose(clip[:, 25:], calm, rtol=1e-6)


def test_an_absent_body_is_zeros_and_frames_without_anybody_go(ntu_files: Any) -> None:
    joints = moving(30, 0.01)
    clip, left_out = ntu.read(ntu_files.text(ntu_files.frames({1: joints}, lambda number, t: t not in (0, 7, 29))))
    assert left_out == {"frames without a body": 3}
    np.testing.assert_allclose(clip[:, :25], np.delete(joints, [0, 7, 29], axis=0), rtol=1e-6)
    assert not clip[:, 25:].any()


def test_nobody_gives_no_frames(ntu_files: Any) -> None:
    clip, left_out = ntu.read(ntu_files.text([[], [], []]))
    assert (clip.shape, left_out) == ((0, 50, 3), {"frames without a body": 3})


def test_frames_without_anybody_take_no_memory() -> None:
    """A million of them are two megabytes of text."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clip, left_out = ntu.read(b"1000000\n" + b"0\n" * 1_000_000)
    assert (clip.shape, left_out) == ((0, 50, 3), {"frames without a body": 1_000_000})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not a .skeleton file; fetch the file"),
        (b"<html><body>log in", r"a web page \(HTML\), not a .skeleton file; download the file again"),
        (b"PK\x03\x04", r"a zip archive \(\.npz, \.pt, \.xlsx\), not a .skeleton file; give the"),
    ],
)
def test_another_kind_of_file_is_named(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^line 1: this is {problem}"):
        ntu.read(content)


def test_a_byte_order_mark_is_no_part_of_the_first_number(ntu_files: Any) -> None:
    content = ntu_files.text(ntu_files.frames({1: moving(3, 0.01)}))
    np.testing.assert_array_equal(ntu.read(b"\xef\xbb\xbf" + content)[0], ntu.read(content)[0])


@pytest.mark.parametrize("joints", [moving(5, 0.01), moving(30, 0.01)[:, :, [1, 0, 2]]], ids=["short", "wide"])
def test_a_body_alone_is_never_noise(joints: np.ndarray) -> None:
    kept, left_out = ntu.denoise([body(joints)])
    assert (len(kept), left_out) == (1, {})


@pytest.mark.parametrize(("frames", "kept"), [(11, 1), (12, 2)])
def test_a_body_of_11_frames_beside_a_longer_one_is_noise(frames: int, kept: int) -> None:
    bodies, left_out = ntu.denoise([body(moving(frames, 0.5)), body(moving(30, 0.01))])
    assert len(bodies) == kept
    assert left_out["bodies too short"] == 2 - kept


def test_short_bodies_are_kept_where_there_are_no_others() -> None:
    bodies, _ = ntu.denoise([body(moving(5, 0.01)), body(moving(6, 0.1))])
    assert [len(one.frames) for one in bodies] == [6, 5]


@pytest.mark.parametrize(("wide", "kept"), [(69, 2), (70, 1)])
def test_a_body_wider_than_high_in_70_of_100_frames_is_noise(wide: int, kept: int) -> None:
    joints = moving(100, 0.0)
    joints[:wide] = joints[:wide][:, :, [1, 0, 2]]
    bodies, left_out = ntu.denoise([body(joints, number=5), body(moving(100, 0.01), number=6)])
    assert len(bodies) == kept
    assert left_out["bodies too wide"] == 2 - kept


def test_of_wide_bodies_alone_the_last_is_kept() -> None:
    lying = moving(30, 0.01)[:, :, [1, 0, 2]]
    bodies, left_out = ntu.denoise([body(lying, number=number) for number in (1, 2, 3)])
    assert [one.id for one in bodies] == [3]
    assert left_out["bodies too wide"] == 2


def test_frames_in_which_a_body_is_wide_do_not_count_as_motion() -> None:
    jumps = moving(100, 0.0)
    jumps[:40] = jumps[:40][:, :, [1, 0, 2]] + np.float32((9, 0, 0))
    bodies, _ = ntu.denoise([body(jumps, number=1), body(moving(100, 0.01), number=2)])
    assert [one.id for one in bodies] == [2, 1]


def test_someone_with_a_new_number_takes_up_the_old_place() -> None:
    first, partner, again = moving(40, 0.05), moving(100, 0.02, 1), moving(50, 0.01, 2)
    clip, unused = ntu.arrange([body(first), body(partner), body(again, 50)], 100)
    assert unused == 0
    np.testing.assert_array_equal(clip[:40, :25], first)
    np.testing.assert_array_equal(clip[50:, :25], again)
    assert not clip[40:50, :25].any()
    np.testing.assert_array_equal(clip[:, 25:], partner)


def test_a_third_body_at_the_same_time_finds_no_place() -> None:
    people = [moving(30, 0.05, seed) for seed in range(3)]
    clip, unused = ntu.arrange([body(joints) for joints in people], 30)
    assert unused == 1
    np.testing.assert_array_equal(clip, np.concatenate(people[:2], axis=1))


@pytest.mark.parametrize(
    "second",
    [
        "S001C002P006R001A008",
        "data/S001C002P006R001A008.skeleton",
        "./nturgb+d_skeletons/S001C002P006R001A008.skeleton",
        r"C:\data\S001C002P006R001A008.skeleton",
        "2 S001C002P006R001A008",
        "2. S001C002P006R001A008",
        "2,S001C002P006R001A008.skeleton",
        "2\tS001C002P006R001A008\tno skeleton",
        "S001C002P006R001A008,",
        "- S001C002P006R001A008",
        '"S001C002P006R001A008",',
        "S001C002P006R001A008.SKELETON",
        "s001c002p006r001a008",
        "(S001C002P006R001A008)",
        "Here S001C002P006R001A008.",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_names_are_read_however_a_list_writes_them(tmp_path: Path, second: str, end: str, mark: str) -> None:
    path = tmp_path / "missing.txt"
    path.write_bytes(f"{mark}S001C002P005R002A008{end}{second}{end}1 S001C002P007R001A008".encode())
    assert ntu.missing_names(path) == [f"S001C002P00{clip}A008" for clip in ("5R002", "6R001", "7R001")]


@pytest.mark.parametrize(
    "text",
    [
        '302 samples of "NTU RGB+D" lack skeletons.\r\n\r\nS001C002P005R002A008\r\nS001C002P006R001A008\n',
        "S001C002P005R002A008.skeleton\r\nS001C002P006R001A008\n",
        "S001C002P005R002A008/S001C002P005R002A008.skeleton\ns001/S001C002P006R001A008\n",
        "S001C002P005R002A008 S001C002P006R001A008\n",
        "S001C002P005R002A008, S001C002P006R001A008\n",
        "clip;label\nS001C002P005R002A008;8\nS001C002P006R001A008;8\n",
        '["S001C002P005R002A008", "S001C002P006R001A008"]\n',
        "['S001C002P005R002A008.skeleton', 'S001C002P006R001A008.skeleton']\n",
    ],
)
def test_names_stand_in_prose_in_folders_or_several_on_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "missing.txt"
    path.write_text(text)
    assert ntu.missing_names(path) == ["S001C002P005R002A008", "S001C002P006R001A008"]


@pytest.mark.parametrize(
    "word",
    [
        "S001C002P005R002A00",
        "S001C002P005R002A0088",
        "XS001C002P005R002A008",
        "S001C002P005R002A008.skeletons",
        "S001C002P005R002A008.skeleton.npy",
        "S001C002P005R002A008_rgb.avi",
        "S01C02P05R02A08",
        "S001 C002 P005 R002 A008",
        "S001-C002-P005-R002-A008",
        "C002P005R002A008",
        "S001C002P005R002",
        "S001C009P005R002A008",
        "S001C002P005R002A121",
        "data/S001C002P005R002A00.skeleton",
        "2 S001C002P005R002A00",
        "S001C002P005R002AOO8",
        "S001C002P006R001A008.skelea/S001C002P005R002A008",
        "S001C002P006R001A008*data/S001C002P005R002A008.skeleton",
    ],
)
def test_almost_a_name_is_refused_with_its_line(tmp_path: Path, word: str) -> None:
    path = tmp_path / "missing.txt"
    path.write_text(f"S001C002P005R002A008\n{word}\n")
    with pytest.raises(
        CrrlError, match=f"{path}, line 2: .* is not the name of a clip, but similar to one: restore the list"
    ):
        ntu.missing_names(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing\n", " names no clip"),
        (b"<!DOCTYPE html>\n<p>S001C002P005R002A008", r" is a web page \(HTML\), not a list of names of clips: down"),
        (b"S001C002P005R002A008\x00\n", ", line 1: a zero byte"),
        (
            "S001C002P005R002A008\n".encode("utf-16"),
            " is text in UTF-16, not a list of names of clips: save it as UTF-8",
        ),
    ],
)
def test_a_list_that_cannot_be_right_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """UTF-16 is what PowerShell writes."""
    path = tmp_path / "missing.txt"
    path.write_bytes(content)
    with pytest.raises(CrrlError, match=f"{path}{message}"):
        ntu.missing_names(path)


@pytest.mark.parametrize(("edition", "count"), [("NTU_RGBD", 302), ("NTU_RGBD120", 535)])
def test_the_official_lists_are_read(real_data: Path, edition: str, count: int) -> None:
    path = real_data / "ntu" / f"{edition}_samples_with_missing_skeletons.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    assert len(set(ntu.missing_names(path))) == count
