"""The files of ST-GCN's preparation of NTU RGB+D, a format also used by 2s-AGCN, CrosSCLR and others.

A folder holds train_data.npy (or train_data_joint.npy, train_position.npy), [N, 3, 300, 25, 2], and train_label.pkl,
(names, labels); and the same for "val" (or "test"). ST-GCN and CrosSCLR pad clips with zeros; 2s-AGCN pads each body by
repeating it from its first frame. The folder's name is the split (xsub, xview, xset).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.readers import arrays
from crrl.data.readers.arrays import described
from crrl.data.readers.pickles import read_pickle
from crrl.errors import CrrlError
from crrl.files import explain_damage, open_input

BODIES, NUM_JOINTS = 2, 25

MANY = 64
"""Frames equal to the first from which on repetitions are found by a linear-time search."""


def find_files(root: Path) -> list[Path]:
    """The data and label files in `root`, of the training side and then of the other.

    Raises:
        CrrlError: one is missing, or there are several (joints and bones, say).
    """
    files = []
    for sides, what in ((["train"], "training"), (["val", "test"], "validation")):
        data = [f"{side}_{kind}.npy" for side in sides for kind in ("data", "data_joint", "position")]
        files.append(arrays.only_file(root, data, f"ST-GCN file of {what} data ({data[0]}, {data[1]} or {data[2]})"))
        labels = [f"{side}_label.pkl" for side in sides]
        files.append(arrays.only_file(root, labels, f"ST-GCN file of {what} labels ({labels[0]})"))
    return files


def load(files: list[Path]) -> Clips:
    """Read the four files that `find_files` found: two bodies, [ΣT, 50, 3], and their split.

    The split is "cross-subject" in a folder called xsub, "cross-view" in xview, "cross-setup" in xset or xsetup, and
    else "default".

    Zero frames at the end of a clip and repetitions (`without_repetition`) are padding and left out; zero frames
    elsewhere are kept. A clip of zeros alone is left out, with a warning. The data are memory-mapped and read clip by
    clip.

    Raises:
        CrrlError: a file is damaged or has another shape, the files do not fit each other, or no clip shows a body.
    """
    data = [_open(path) for path in files[::2]]
    sides = [_labels(path, len(array)) for path, array in zip(files[1::2], data, strict=True)]
    names, labels = sides[0][0] + sides[1][0], np.concatenate([sides[0][1], sides[1][1]])
    arrays.check_unique(files[3], names)
    folder = files[0].parent
    train, test = np.arange(len(data[0])), np.arange(len(data[0]), len(names))
    clips = Clips.from_arrays(
        (_clip(clip) for array in data for clip in array),
        labels=labels,
        names=names,
        places=[f"{path}, {name}" for path, side in zip(files[::2], sides, strict=True) for name in side[0]],
        class_names=[str(number) for number in range(1, int(labels.max()) + 2)],
        splits={arrays.ntu_split(os.path.basename(os.path.abspath(folder)), "default"): Split(train, {"all": test})},
        **arrays.ntu_facts(names),
        allow_empty=True,
    )
    arrays.warn_of_actions(folder, names, labels.tolist())
    arrays.warn_if_scores(files[0], clips.frames)
    return arrays.leave_out_empty(folder, clips)


def _open(path: Path) -> npt.NDArray[Any]:
    with explain_damage(path, "damaged, cut short or not a .npy file", "restore it"):
        with open_input(path, "a .npy array", "npy", only=True) as file:
            arrays.array_header(file)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    shape = array.shape
    fits = len(shape) == 5 and (shape[1], *shape[3:]) == (3, NUM_JOINTS, BODIES) and 0 not in shape
    if not isinstance(array, np.memmap) or not fits or array.dtype.kind != "f":
        raise CrrlError(
            f"{path} is {array.dtype} {list(shape)}, not float [N, 3, T, 25, 2]: two bodies of 25 joints in space, as "
            f"ST-GCN prepares NTU RGB+D, are needed"
        )
    if path.stat().st_size != array.offset + array.nbytes:
        raise CrrlError(f"{path} is damaged: it is longer than its {list(shape)} numbers; restore it")
    arrays.warn_if_coarse(path, array.dtype)
    return array


def _labels(path: Path, count: int) -> tuple[list[str], IntArray]:
    content = arrays.as_list(read_pickle(path))
    names, labels = map(arrays.as_list, content) if content is not None and len(content) == 2 else (None, None)
    if names is None or labels is None or not len(names) == len(labels) == count:
        found = f", but of {len(names)} and {len(labels)}" if names is not None and labels is not None else ""
        raise CrrlError(
            f"{path} is not a pair of {count} names and {count} labels, as many as clips{found}: restore it"
        )
    for name in names:
        if not isinstance(name, str):
            raise CrrlError(f"{path} holds names that are not text, but {described(name)}: restore it")
    for label in labels:
        if type(label) is not int or not 0 <= label < arrays.MOST_CLASSES:
            raise CrrlError(f"{path} holds labels that are not class numbers, but {described(label)}: restore it")
    return names, np.array(labels, np.int64)


def _clip(clip: npt.NDArray[Any]) -> FloatArray:
    return arrays.join_bodies(arrays.without_padding(without_repetition(np.asarray(clip).transpose(1, 3, 2, 0))))


def without_repetition(bodies: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bodies [T, M, V, 3] without the padding of 2s-AGCN: cut where the first body starts again.

    The cut is at the smallest P, 2 to T - 1, for which frames P to T - 1 of the first body equal its frames 0 to
    T - P - 1 exactly. Other bodies are padded by lengths of their own and do not count. A sensor never repeats itself
    exactly unless nothing moves: a first body that is constant (P = 1) is unchanged, and so is one that is absent from
    the first frame. A clip padded with zeros has no such P.
    """
    first = bodies[:, 0]
    if not first[0].any():
        return bodies
    again = 1 + np.flatnonzero((first[1:] == first[0]).all(axis=(1, 2)))
    if len(again) > MANY:
        period = _period(np.unique(first.reshape(len(first), -1), axis=0, return_inverse=True)[1].ravel().tolist())
    else:
        period = next((start for start in again.tolist() if np.array_equal(first[start:], first[:-start])), 1)
    return bodies[:period] if 1 < period < len(bodies) else bodies


def _period(values: list[int]) -> int:
    """The smallest P with values[P:] == values[:-P], else len(values), in linear time (Knuth-Morris-Pratt borders)."""
    borders = [0] * len(values)
    border = 0
    for place in range(1, len(values)):
        while border and values[place] != values[border]:
            border = borders[border - 1]
        border += values[place] == values[border]
        borders[place] = border
    return len(values) - border
