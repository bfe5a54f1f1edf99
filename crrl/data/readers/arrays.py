"""Shared by the readers of array files: finding the one file, reading .npy, bodies, padding, scores, NTU's names."""

from __future__ import annotations

import math
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import BoolArray, Clips, FloatArray, mark_present
from crrl.data.naming import wrong_name
from crrl.errors import CrrlError
from crrl.files import explain_damage, open_input, shown

PIXELS, HIGHEST_SCORE = 20, 1.5
"""Coordinates beyond 20 are pixels, not metres in a room. Scores, which may come from heat maps, are at most 1.5."""
MOST_CLASSES = 10_000
"""Labels of array files must be smaller than this."""
UNPACKED, RATIO = 1 << 24, 50
"""A compressed array may always unpack to this many bytes; a larger one to this many times its compressed size."""

LONGEST_HEADER = 10_000
"""Bytes of the header of a .npy file. NumPy accepts no more either, but allocates what the file asks for."""

_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R\d{3}A(\d{3})(?:\.skeleton)?")

_NTU_SPLITS = {
    **dict.fromkeys(("cs", "csub", "xsub"), "cross-subject"),
    **dict.fromkeys(("cv", "cview", "xview"), "cross-view"),
    **dict.fromkeys(("cset", "csetup", "xset", "xsetup"), "cross-setup"),
}


def ntu_split(short: str, other: str) -> str:
    """`ntu`'s name of the split that others call `short` (xsub, CSub, CS, ... in any case); else `other`."""
    return _NTU_SPLITS.get(short.lower(), other)


def only_file(root: Path, patterns: Sequence[str], what: str, itself: bool = False) -> Path:
    """The only file in the folder `root` that matches a pattern; with `itself`, `root` may also be that file.

    Raises:
        CrrlError: there is none, or several; `root` is a file with another name.
    """
    remedy = f"give --data {'that file, or ' if itself else ''}a folder with only that one"
    if itself and root.is_file():
        if not any(root.match(pattern) for pattern in patterns):
            raise CrrlError(f"{root} is no {what}: {remedy}")
        return root
    files = sorted({path for pattern in patterns for path in root.glob(pattern)})
    if len(files) != 1:
        found = ", ".join(path.name for path in files[:5]) or "none"
        raise CrrlError(f"{root} should hold one {what}, found {found}: {remedy}")
    return files[0]


def array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the .npy file that begins here; leaves the stream at its numbers.

    Raises:
        ValueError: it is not a .npy file, or holds anything but numbers.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("an array with fields" if version == (3, 0) else f"an unknown version, {version}")
    length = stream.read(2 * version[0])
    if int.from_bytes(length, "little") > LONGEST_HEADER:
        raise ValueError(f"a header of {int.from_bytes(length, 'little'):,} bytes")
    stream.seek(-len(length), os.SEEK_CUR)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise ValueError(str(error).partition(" and may not be safe")[0]) from error
    if dtype.hasobject or dtype.names is not None:
        raise ValueError("an array of Python objects or fields, not of numbers")
    return shape, fortran, dtype


def read_array(stream: IO[bytes], size: int) -> npt.NDArray[Any]:
    """The array of a .npy file of `size` bytes.

    Raises:
        ValueError: it is no .npy file, holds anything but numbers, or more or fewer of them than its shape says.
    """
    shape, fortran, dtype = _sized_header(stream, size)
    array = np.frombuffer(stream.read(), dtype) if math.prod(shape) else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file, memory-mapped.

    Raises:
        CrrlError: the file is damaged, not a .npy file, or holds anything but numbers.
    """
    with (
        explain_damage(path, "damaged or not a .npy array", "restore it or leave it out"),
        open_input(path, "a .npy array", "npy", only=True) as file,
    ):
        shape, fortran, dtype = _sized_header(file, path.stat().st_size)
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _sized_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """`array_header` of a file of `size` bytes, which must hold exactly the numbers that it announces."""
    shape, fortran, dtype = array_header(stream)
    needed, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if needed != left:
        raise ValueError(f"{left} bytes after the header, not the {needed} of {dtype} {list(shape)}")
    return shape, fortran, dtype


def open_member(path: Path, archive: zipfile.ZipFile, name: str, beside: int = 0) -> IO[bytes]:
    """Open a file in the zip archive `path`.

    Args:
        beside: bytes that it may unpack to, however small it is compressed.

    Raises:
        CrrlError: it unpacks to so many bytes that it may be a zip bomb.
    """
    member = archive.getinfo(name)
    packed = min(member.compress_size, path.stat().st_size)
    if member.file_size > max(UNPACKED, RATIO * packed, beside):
        raise CrrlError(
            f"{path}: {name} unpacks from {packed:,} to {member.file_size:,} bytes, more than {RATIO} times as many, "
            f"unlike any motion: restore it, or save it without compression (np.savez)"
        )
    return archive.open(member)


def join_bodies(bodies: npt.NDArray[np.floating], present: BoolArray | None = None) -> FloatArray:
    """Bodies [T, M, V, 3] side by side, float32 [T, M·V, 3]; present joints at the origin are shifted (`mark_present`).

    `present` is bool [T, M, V]; None: `all_joints_of(bodies)`.
    """
    frames, count, joints, _ = bodies.shape
    if present is None:
        present = all_joints_of(bodies)
    joined = bodies.astype(np.float32).reshape(frames, count * joints, 3)
    mark_present(joined, present.reshape(frames, count * joints))
    return joined


def all_joints_of(bodies: npt.NDArray[Any]) -> BoolArray:
    """bool [..., V] for bodies [..., V, C]: every joint of a body counts as present if any number of it is not zero."""
    shown = np.asarray(bodies.any(axis=(-2, -1)))
    return np.broadcast_to(shown[..., None], bodies.shape[:-1])


def without_padding(bodies: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Bodies [T, M, V, 3] without the zero frames at the end."""
    shown = np.flatnonzero(bodies.any(axis=(1, 2, 3)))
    return bodies[: shown[-1] + 1 if len(shown) else 0]


def leave_out_empty(path: Path, clips: Clips) -> Clips:
    """The clips that have frames, with a warning if some have none.

    Raises:
        CrrlError: no clip has frames.
    """
    shown = clips.without_empty("shows nobody")
    if len(shown) == 0:
        raise CrrlError(f"{path} has no clip that shows a body in any frame: restore it")
    if shown.dropped:
        first = next(iter(shown.dropped))
        warnings.warn(
            f"{path}: {len(shown.dropped)} of {len(clips)} clips show no body in any frame and are left out, the first "
            f"is {first[:80]!r}",
            stacklevel=2,
        )
    return shown


def warn_if_coarse(path: Path, dtype: npt.DTypeLike) -> None:
    """Warn of float16 coordinates: at a few metres they are rounded by as much as a joint moves in a frame."""
    if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize < 4:
        warnings.warn(
            f"{path} holds float16 coordinates: too coarse for velocities (Eq. 2); use a float32 file if there is one",
            stacklevel=2,
        )


def described(value: object) -> str:
    """A value in words, for a message that something else was expected."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, str):
        return f"the text {shown(value)!r}"
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18):
        return repr(value)
    return "nothing" if value is None else f"a {type(value).__name__}"


def as_list(value: object) -> list[Any] | None:
    """The items of a list, a tuple or an array of one axis; None for anything else."""
    if isinstance(value, np.ndarray):
        return list(value.tolist()) if value.ndim == 1 else None
    return list(value) if isinstance(value, list | tuple) else None


def is_score(low: float, high: float, farthest: float) -> bool:
    """Whether a third channel from `low` to `high` is a score, not z, where |x| and |y| reach `farthest`."""
    return low >= 0 and 0 < high <= HIGHEST_SCORE and farthest > PIXELS


def drop_scores(frames: FloatArray) -> str:
    """If the third numbers of joints [F, J, 3] are scores, set z to 0 and make joints of score 0 absent, in place.

    Returns:
        The message about it; "" if they are no scores.
    """
    scores = frames[..., 2].copy()
    low, high, farthest = float(scores.min()), float(scores.max()), float(np.abs(frames[..., :2]).max())
    if not is_score(low, high, farthest):
        return ""
    frames[..., 2] = 0
    frames[scores == 0] = 0
    mark_present(frames, scores > 0)
    return (
        f"the third numbers of joints are {low:.3g} to {high:.3g} where x and y reach {farthest:.4g}: they are taken "
        f"for scores, not for z, which is 0; a joint of score 0 is absent"
    )


def warn_if_scores(path: Path, frames: FloatArray) -> None:
    """Warn if all depths of Kinect skeletons [F, J, 3] are too small for a sensor, and so are probably scores."""
    low, high = float(frames[..., 2].min(initial=1)), float(frames[..., 2].max(initial=0))
    if low >= 0 and 0 < high <= HIGHEST_SCORE:
        said = f"all z are from {low:.3g} to {high:.3g}: they may be scores of 2D joints, and are read as depths"
        warnings.warn(f"{path}: {said}", stacklevel=2)


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Raise CrrlError if the name of a clip occurs twice, or is no valid name."""
    for name in names:
        if wrong := wrong_name(name):
            raise CrrlError(f"{path}: the name of a clip, {shown(name)!r}, {wrong}: rename it")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CrrlError(f"{path} names {twice[0][:80]!r} twice: restore it, or give each clip a name of its own")


def ntu_facts(names: Sequence[str]) -> dict[str, Any]:
    """subjects, views and setups of clips named like S001C002P003R002A013, int64 [N] each; -1 for other names."""
    facts = np.full((3, len(names)), -1, np.int64)
    for place, name in enumerate(names):
        if match := _NTU_NAME.fullmatch(name):
            facts[:, place] = [int(number) for number in match.groups()[:3]]
    return {"setups": facts[0], "views": facts[1], "subjects": facts[2]}


def warn_of_actions(path: Path, names: Sequence[str], labels: Iterable[int]) -> None:
    """Warn if clips of one action, by names like S001C002P003R002A013, have two labels."""
    known: dict[str, tuple[str, int]] = {}
    for name, label in zip(names, labels, strict=True):
        if match := _NTU_NAME.fullmatch(name):
            first, other = known.setdefault(match[4], (name, label))
            if other != label:
                warnings.warn(
                    f"{path}: {first} and {name} are of action {match[4]} by their names, but have labels {other} and "
                    f"{label}: are names and labels in the same order?",
                    stacklevel=2,
                )
                return
