"""CTR-GCN's .npz: padding, zero frames, splits, memory, and every kind of damage."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import ctr_gcn
from crrl.data.readers.arrays import RATIO, UNPACKED
from crrl.errors import CrrlError

LENGTHS = {"train": [3, 11, 1], "test": [7, 2]}
LABELS = {"train": [0, 2, 1], "test": [2, 2]}


def coordinates(side: str) -> np.ndarray:
    """[N, 11, 2, 25, 3] padded with zeros; the second body is there in every second frame of the first clip."""
    rng = np.random.default_rng(len(side))
    values = rng.normal(size=(len(LENGTHS[side]), 11, 2, 25, 3)).astype(np.float32)
    for clip, length in zip(values, LENGTHS[side], strict=True):
        clip[length:] = 0
    values[0, ::2, 1] = 0
    return values


def arrays(**changed: Any) -> dict[str, Any]:
    content = {}
    for side in LENGTHS:
        content[f"x_{side}"] = coordinates(side).reshape(-1, 11, 150)
        content[f"y_{side}"] = np.eye(3)[LABELS[side]]
    return {**content, **changed}


def write(root: Path, save: Callable[..., None] = np.savez, **changed: Any) -> Path:
    path = root / "NTU60_CS.npz"
    save(path, **{name: value for name, value in arrays(**changed).items() if value is not None})
    return path


def load(root: Path) -> Clips:
    return ctr_gcn.load(ctr_gcn.find_files(root))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_clips_are_those_of_the_file_without_their_filling(tmp_path: Path, save: Callable[..., None]) -> None:
    write(tmp_path, save)
    clips = load(tmp_path)
    assert clips.lengths.tolist() == [3, 11, 1, 7, 2]
    for place, (side, number) in enumerate([("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 1)]):
        expected = coordinates(side)[number, : LENGTHS[side][number]].reshape(-1, 50, 3)
        np.testing.assert_array_equal(clips.clip(place), expected)


def test_labels_names_and_the_split_are_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    clips = load(tmp_path)
    assert clips.labels.tolist() == [0, 2, 1, 2, 2]
    assert clips.class_names == ("1", "2", "3")
    assert clips.names == ("train[0]", "train[1]", "train[2]", "test[0]", "test[1]")
    split = clips.split("cross-subject")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([0, 1, 2], [3, 4])


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("NTU60_CS", "cross-subject"),
        ("NTU120_CSub", "cross-subject"),
        ("ntu60_cv", "cross-view"),
        ("NTU60_CView", "cross-view"),
        ("NTU120_CSet", "cross-setup"),
        ("NTU120_CSETUP", "cross-setup"),
        ("NTU60_CS_old", "default"),
        ("NTU60", "default"),
    ],
)
def test_the_split_is_called_by_the_end_of_the_files_name(tmp_path: Path, file: str, split: str) -> None:
    write(tmp_path).rename(tmp_path / f"{file}.npz")
    assert list(load(tmp_path).splits) == [split]


def test_zero_frames_before_the_last_frame_stay(tmp_path: Path) -> None:
    values = coordinates("train")
    values[1, 0] = values[1, 4:6] = 0
    write(tmp_path, x_train=values.reshape(-1, 11, 150))
    clip = load(tmp_path).clip(1)
    assert len(clip) == 11
    assert np.flatnonzero(~clip.any(axis=(1, 2))).tolist() == [0, 4, 5]


def test_an_absent_body_is_zeros_and_a_joint_at_the_origin_is_not_absent(tmp_path: Path) -> None:
    """The preparation puts the first frame's spine exactly at the origin."""
    values = coordinates("train")
    values[0, 0, 0, 1] = 0
    write(tmp_path, x_train=values.reshape(-1, 11, 150))
    clip = load(tmp_path).clip(0)
    assert not clip[::2, 25:].any()
    assert clip[0, 1].any()
    assert np.abs(clip[0, 1]).max() < 1e-5


def test_more_clips_than_one_chunk_are_read(tmp_path: Path) -> None:
    count = 2 * ctr_gcn.CHUNK + 3
    values = np.arange(1, count + 1, dtype=np.float32)[:, None, None] * np.ones((count, 2, 150), np.float32)
    write(tmp_path, x_train=values, y_train=np.eye(3)[np.arange(count) % 3])
    clips = load(tmp_path)
    np.testing.assert_array_equal(clips.frames[: 2 * count : 2, 0, 0], np.arange(1, count + 1))


def test_float64_is_read_and_float16_gets_a_warning(tmp_path: Path) -> None:
    write(tmp_path, x_train=arrays()["x_train"].astype(np.float64))
    assert load(tmp_path).frames.dtype == np.float32
    write(tmp_path, x_test=arrays()["x_test"].astype(np.float16))
    with pytest.warns(UserWarning, match=r"NTU60_CS\.npz holds float16 coordinates: too coarse for velocities"):
        load(tmp_path)


def test_memory_holds_the_clips_once_and_not_their_filling(tmp_path: Path) -> None:
    count, frames, shown = 1024, 60, 20
    values = np.ones((count, frames, 150), np.float32)
    values[:, shown:] = 0
    write(tmp_path, x_train=values, y_train=np.eye(3)[np.zeros(count, int)])
    clips_size = count * shown * 600
    del values
    tracemalloc.start()
    try:
        load(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    chunk = ctr_gcn.CHUNK * frames * 600
    assert peak < clips_size * 9 / 8 + (1 << 20) + 3 * chunk


def test_clips_of_zeros_are_left_out(tmp_path: Path) -> None:
    values = {side: coordinates(side) for side in LENGTHS}
    values["train"][1] = values["test"][0] = 0
    x = {f"x_{side}": array.reshape(-1, 11, 150) for side, array in values.items()}
    path = write(tmp_path, **x)
    with pytest.warns(UserWarning, match=r"NTU60_CS\.npz: 2 of 5 clips show no body .* the first is 'train\[1\]'"):
        clips = load(tmp_path)
    assert clips.names == ("train[0]", "train[2]", "test[1]")
    assert (clips.lengths.tolist(), clips.labels.tolist()) == ([3, 1, 2], [0, 1, 2])
    split = clips.split("cross-subject")
    assert (split.train.tolist(), split.test["all"].tolist()) == ([0, 1], [2])
    assert clips.dropped == {"train[1]": "shows nobody", "test[0]": "shows nobody"}
    write(tmp_path, **{name: 0 * array for name, array in x.items()})
    with pytest.raises(CrrlError, match=re.escape(f"{path} has no clip that shows a body in any frame")):
        load(tmp_path)


def not_finite() -> np.ndarray:
    values: np.ndarray = arrays()["x_test"]
    values[1, 0, 7] = np.nan
    return values


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param({"y_test": None}, "has no array y_test", id="no y_test"),
        pytest.param({"x_train": None}, "has no array x_train", id="no x_train"),
        pytest.param({"x_train": np.ones((3, 11, 75), np.float32)}, "x_train is float32 .N, T, 75.", id="one body"),
        pytest.param({"x_train": np.ones((3, 11, 150), int)}, "x_train is int64", id="integers"),
        pytest.param({"x_train": np.ones((3, 150), np.float32)}, r"x_train has shape .3, 150", id="two axes"),
        pytest.param({"x_train": np.ones((0, 11, 150), np.float32)}, r"x_train has shape .0, 11, 150", id="no clips"),
        pytest.param({"x_train": np.ones((2, 11, 150), np.float32)}, "2 clips, but 3 labels", id="clip too few"),
        pytest.param({"x_train": np.ones((4, 11, 150), np.float32)}, "4 clips, but 3 labels", id="clip too many"),
        pytest.param({"x_test": not_finite()}, r"x_test\[1\] holds NaN or infinity, first in frame 0", id="NaN"),
        pytest.param({"y_train": np.zeros((3, 3))}, r"y_train\[0\] is not one-hot", id="no class"),
        pytest.param({"y_train": np.ones((3, 3))}, r"y_train\[0\] is not one-hot", id="all classes"),
        pytest.param({"y_train": 2 * np.eye(3)}, r"y_train\[0\] is not one-hot", id="twos"),
        pytest.param({"y_train": np.arange(3)}, "y_train has shape .3.", id="class numbers"),
        pytest.param({"y_train": np.eye(4)[[0, 2, 1]]}, "different numbers of classes", id="other classes"),
        pytest.param({"y_train": np.array([["a"] * 3] * 3)}, "y_train has shape .3, 3. of <U1, not .N, cl", id="text"),
        pytest.param({"y_train": np.arange(3)}, r"y_train has shape .3. of int64, not .N, classes", id="whole numbers"),
        pytest.param(
            {"x_train": np.ones((3, 3, 11, 25, 2))},
            r"x_train has shape .3, 3, 11, 25, 2. of float64, not .N, T",
            id="axes",
        ),
        pytest.param({"y_train": np.full((3, 3), None)}, "damaged", id="objects"),
        pytest.param({"x_train": np.asfortranarray(arrays()["x_train"])}, "Fortran", id="Fortran order"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_file(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    path = write(tmp_path, **changed)
    with pytest.raises(CrrlError) as caught:
        load(tmp_path)
    assert re.fullmatch(rf"{re.escape(str(path))}.*{problem}.*", str(caught.value))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"is damaged or not a \.npz file .*: restore it"),
        (b"PK\x03\x04", r"is damaged or not a \.npz file .*: restore it"),
        (
            b"hello" * 100,
            r"is not an \.npz file \(it begins with 'hellohello.*restore it, or give the file that is meant",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"is a git-lfs pointer, not an \.npz file: fetch .* git lfs pull",
        ),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CrrlError, match=rf"a\.npz {problem}"):
        load(tmp_path)


def test_one_hot_labels_may_be_compressed_as_well_as_they_are(tmp_path: Path) -> None:
    """A few hundred times, but they are smaller than their clips."""
    count = 36_000
    values = np.random.default_rng(0).normal(size=(count, 1, 150)).astype(np.float32)
    labels = {"y_train": np.eye(60)[np.zeros(count, int)], "y_test": np.eye(60)[[1, 2]]}
    path = write(tmp_path, np.savez_compressed, x_train=values, **labels)
    with zipfile.ZipFile(path) as archive:
        packed = archive.getinfo("y_train.npy")
    assert packed.file_size > UNPACKED
    assert packed.file_size > RATIO * packed.compress_size
    assert len(load(tmp_path)) == count + 2


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_what_unpacks_to_much_is_refused_before_it_is(tmp_path: Path, name: str) -> None:
    shape = {"x_train": (3, 60_000, 150), "y_train": (60_000, 300)}[name]
    path = tmp_path / "NTU60_CS.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in arrays().items():
            with archive.open(f"{member}.npy", "w", force_zip64=True) as stream:
                if member != name:
                    np.lib.format.write_array(stream, content)
                    continue
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                for _ in range(shape[0]):
                    stream.write(np.ones(shape[1:], np.float32).tobytes())
    tracemalloc.start()
    try:
        with pytest.raises(
            CrrlError, match=rf"NTU60_CS\.npz: {name}\.npy unpacks from .* to .* bytes, more than 50 times"
        ):
            load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_none_or_several_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"should hold one CTR-GCN file .* found none"):
        load(tmp_path)
    (tmp_path / "NTU60_CS.npz").touch()
    (tmp_path / "NTU60_CV.npz").touch()
    with pytest.raises(CrrlError, match=r"found NTU60_CS\.npz, NTU60_CV\.npz: give --data that file, or a folder with"):
        load(tmp_path)


def test_one_of_several_files_may_be_named_itself(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "NTU60_CV.npz").touch()
    (tmp_path / "NTU60_CS.npy").touch()
    assert ctr_gcn.find_files(path) == [path]
    with pytest.raises(CrrlError, match=r"NTU60_CS\.npy is no CTR-GCN file .* give --data that file, or a folder with"):
        ctr_gcn.find_files(tmp_path / "NTU60_CS.npy")


def test_a_flipped_bit_of_the_data_is_told_by_the_checksum(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x_train.npy").header_offset + 1000
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(CrrlError, match="Bad CRC-32"):
        load(tmp_path)
