"""Files that are a clip each, by the endings of their names: what `predict` and `embed` are given beside data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy.typing as npt

from crrl.data import bvh, cmu, folder, ntu, nw_ucla
from crrl.data.arrays import map_array
from crrl.data.clips import FloatArray
from crrl.data.naming import files_below
from crrl.data.prepared import is_prepared
from crrl.errors import CrrlError
from crrl.files import read_bytes


def _read_ntu(path: Path) -> FloatArray:
    try:
        clip, _ = ntu.read(read_bytes(path))
    except ValueError as error:
        raise CrrlError(f"{path}, {error}: restore the file or leave it out") from error
    if len(clip) == 0:
        raise CrrlError(f"{path} shows nobody: leave it out")
    return clip


def _read_bvh(path: Path) -> FloatArray:
    return bvh.positions(*bvh.read_file(path))


READERS: dict[str, Callable[[Path], npt.ArrayLike]] = {
    ".npy": map_array,
    ".npz": folder.read_clip,
    ".skeleton": _read_ntu,
    ".json": nw_ucla.read_clip,
    ".bvh": _read_bvh,
    ".amc": cmu.read_clip,
}
"""How a file is read, by its ending in lower case: to an array of numbers [T, J, 3], or lists of them."""


def find_clip_files(given: Iterable[Path]) -> list[Path]:
    """The files given, and those below the folders given whose endings are known, each once.

    Raises:
        CrrlError: a file has another ending, or a folder holds none, or a prepared set.
    """
    found: dict[Path, None] = {}
    for path in given:
        found |= dict.fromkeys(_below(path) if path.is_dir() else [path])
    for path in found:
        if path.suffix.lower() not in READERS:
            raise CrrlError(f"{path} is no file of a clip that is known by its name: {_known()} are read")
    return list(found)


def _below(root: Path) -> list[Path]:
    if is_prepared(root):
        raise CrrlError(f"{root} is a prepared set: give --dataset prepared --data {root}")
    files = list(files_below(root, *READERS))
    if not files:
        raise CrrlError(f"{root} holds no clip: {_known()} are read")
    return files


def _known() -> str:
    return ", ".join(READERS)


def read_clip_file(path: Path) -> npt.ArrayLike:
    """What a file of `find_clip_files` holds, to be checked by `check_clip`; .npy memory-mapped.

    Raises:
        CrrlError: it is missing, damaged or of another kind.
    """
    return READERS[path.suffix.lower()](path)
