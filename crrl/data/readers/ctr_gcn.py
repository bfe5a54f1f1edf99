"""The .npz files of CTR-GCN's preparation of NTU RGB+D: x_train, y_train, x_test, y_test.

x is [N, 300, 150], the frames of a clip with 2 × 25 joints x y z, padded with zeros; y is one-hot, [N, classes]. The
end of the file's name gives the split (NTU60_CS, NTU120_CSet).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.readers import arrays
from crrl.errors import CrrlError
from crrl.files import explain_damage, open_input

BODIES, NUM_JOINTS = 2, 25
SIDES = ("train", "test")
CHUNK, CHUNK_BYTES = 64, 1 << 25
"""Clips, or bytes, read at a time, at most: 64 × 300 × 150 float32 are 11.5 MB."""


def find_files(root: Path) -> list[Path]:
    """The one .npz file in `root`, or `root` itself.

    Raises:
        CrrlError: there is none, or several: each is a split of its own, to be given itself.
    """
    return [arrays.only_file(root, ["*.npz"], "CTR-GCN file (NTU60_CS.npz, say)", itself=True)]


def load(files: list[Path]) -> Clips:
    """Read the file that `find_files` found: two bodies, [ΣT, 50, 3], and its split.

    The split is "cross-subject" if the file's name ends in _CS or _CSub, "cross-view" for _CV or _CView, "cross-setup"
    for _CSet or _CSetup, and else "default".

    Zero frames at the end of a clip are padding and left out; others are kept. A clip of zeros alone is left out, with
    a warning. The file is read a few clips at a time, so that memory holds little more than the clips without padding.

    Raises:
        CrrlError: the file is damaged, lacks one of the four arrays, one has another shape or type, or no clip shows a
            body.
    """
    path = files[0]
    with (
        explain_damage(path, "damaged or not a .npz file", "restore it"),
        open_input(path, "an .npz file", "zip", only=True) as file,
        zipfile.ZipFile(file) as archive,
    ):
        return _read(path, archive)


def _read(path: Path, archive: zipfile.ZipFile) -> Clips:
    one_hot = [_labels(path, archive, side) for side in SIDES]
    labels = [numbers for numbers, _ in one_hot]
    classes, others = (count for _, count in one_hot)
    if classes != others:
        raise CrrlError(
            f"{path}: y_train and y_test have different numbers of classes, {classes} and {others}; restore the file"
        )
    train, test = (np.arange(len(side)) for side in labels)
    names = [f"{side}[{i}]" for side, index in zip(SIDES, (train, test), strict=True) for i in index]
    clips = Clips.from_arrays(
        (clip for side, known in zip(SIDES, labels, strict=True) for clip in _clips(path, archive, side, len(known))),
        labels=np.concatenate(labels),
        names=names,
        places=[f"{path}, x_{name}" for name in names],
        class_names=[str(number) for number in range(1, classes + 1)],
        splits={arrays.ntu_split(path.stem.rpartition("_")[2], "default"): Split(train, {"all": test + len(train)})},
        allow_empty=True,
    )
    arrays.warn_if_scores(path, clips.frames)
    return arrays.leave_out_empty(path, clips)


def _labels(path: Path, archive: zipfile.ZipFile, side: str) -> tuple[IntArray, int]:
    """The labels of a side, int64 [N], and the number of classes."""
    labels: list[IntArray] = []
    classes = 0
    for chunk in _chunks(path, archive, f"y_{side}", "[N, classes]"):
        wrong = ((chunk != 0).sum(axis=1) != 1) | ~np.isin(chunk, (0, 1)).all(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0]) + sum(map(len, labels))
            raise CrrlError(f"{path}: y_{side}[{row}] is not one-hot; restore the file")
        labels.append(chunk.argmax(axis=1))
        classes = chunk.shape[1]
    return np.concatenate(labels), classes


def _clips(path: Path, archive: zipfile.ZipFile, side: str, count: int) -> Iterator[FloatArray]:
    name = f"x_{side}"
    for chunk in _chunks(path, archive, name, "[N, T, 150]", count):
        if chunk.shape[2] != 3 * BODIES * NUM_JOINTS or chunk.dtype.kind != "f":
            raise CrrlError(
                f"{path}: {name} is {chunk.dtype} [N, T, {chunk.shape[2]}], not float [N, T, 150]: "
                f"two bodies of 25 joints, as CTR-GCN prepares NTU RGB+D, are needed"
            )
        arrays.warn_if_coarse(path, chunk.dtype)
        for clip in chunk.reshape(len(chunk), -1, BODIES, NUM_JOINTS, 3):
            yield arrays.join_bodies(arrays.without_padding(clip))


def _chunks(
    path: Path, archive: zipfile.ZipFile, name: str, form: str, count: int | None = None
) -> Iterator[npt.NDArray[Any]]:
    """An array CHUNK rows at a time, in its own type; reading to the end checks the archive's checksum.

    Args:
        form: the expected axes, in words. count: the expected number of rows.
    """
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise CrrlError(f"{path} has no array {name}: x_train, y_train, x_test and y_test are needed; restore the file")
    clips = f"x_{name[2:]}.npy"  # one-hot labels compress well, but are smaller than their clips
    beside = archive.getinfo(clips).file_size if name[0] == "y" and clips in archive.namelist() else 0
    with arrays.open_member(path, archive, member, beside) as stream:
        shape, fortran, dtype = arrays.array_header(stream)
        if len(shape) != form.count(",") + 1 or 0 in shape or dtype.kind not in "fiub" or fortran:
            order = " in Fortran order" if fortran else ""
            raise CrrlError(
                f"{path}: {name} has shape {list(shape)} of {dtype}{order}, not {form} of numbers in C order: give a "
                f"file as CTR-GCN's preparation writes it"
            )
        if archive.getinfo(member).file_size != stream.tell() + math.prod(shape) * dtype.itemsize:
            raise CrrlError(f"{path}: {name} has shape {list(shape)} and other data than that; restore the file")
        if count is not None and shape[0] != count:
            raise CrrlError(f"{path}: {name} has {shape[0]} clips, but {count} labels; restore the file")
        step = max(1, min(CHUNK, CHUNK_BYTES // (math.prod(shape[1:]) * dtype.itemsize)))
        for first in range(0, shape[0], step):
            rows = (min(step, shape[0] - first), *shape[1:])
            content = stream.read(math.prod(rows) * dtype.itemsize)
            yield np.frombuffer(content, dtype).reshape(rows)
        stream.read(1)
