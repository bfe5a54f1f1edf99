"""Biovision motion capture (.bvh): hierarchy and motion in one file, labelled by a labels.csv as a folder of arrays is.

The format is that of J. Lander, "Working with Motion Capture File Formats" (Game Developer, 1998), as described at
research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/BVH.html. The channels of a joint turn it, in their order, about
axes that turn along. Position channels add to the root's offset; those of other joints take the offset's place, as the
programs that write them mean it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crrl.data import folder
from crrl.data.chunks import Files, Shown, read_in_order
from crrl.data.clips import Clips, FloatArray
from crrl.data.kinematics import Matrix, euler_rotation, joint_positions
from crrl.data.text import Line, line_error, numbers, read_lines
from crrl.errors import CrrlError

_CHANNELS = ("xposition", "yposition", "zposition", "xrotation", "yrotation", "zrotation")

find_files = folder.find_files


@dataclass
class Skeleton:
    """The joints of a HIERARCHY in the file's order, an End Site among them as "<its joint>_end".

    Attributes:
        names, parents: of each joint; the root's parent is -1. offsets: each [3], from the parent's joint.
        channels: of each joint in order, "xposition" to "zrotation"; an End Site has none.
    """

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[Matrix] = field(default_factory=list)
    channels: list[tuple[str, ...]] = field(default_factory=list)


def load(files: list[Path]) -> Clips:
    """Read the clips that `find_files` found: labels.csv, classes and splits as `folder` has them.

    Joints, in the file's unit of length, are all of the file's, End Sites (tips of head, hands and feet) included.

    Raises:
        CrrlError: a file is damaged or has another skeleton than the first.
    """
    with closing(read_in_order(_read_clip, [(path,) for path in files[1:]], "read bvh")) as clips:
        return folder.load(files, _of_one_skeleton(files[1:], clips))


def _read_clip(files: Files) -> Shown:
    """The clip of a file, after names and parents of its joints."""
    skeleton, motion = read_file(files[0])
    return [([skeleton.names, skeleton.parents], positions(skeleton, motion))]


def _of_one_skeleton(paths: list[Path], clips: Iterable[Shown]) -> Iterator[FloatArray]:
    """The clips without their joints' names and parents, which are all like those of the first."""
    first = None
    for path, [(joints, frames)] in zip(paths, clips, strict=True):
        first = first or joints
        if joints != first:
            raise CrrlError(f"{path} has another skeleton than {paths[0]}: one per data set; convert or remove it")
        yield frames


def read_file(path: Path) -> tuple[Skeleton, Matrix]:
    """The skeleton and its motion, float64 [T, D]: the channels of all joints in order, degrees.

    Raises:
        CrrlError: the file is damaged: braces, offsets, channels, a number or a frame are missing or too many.
    """
    lines = read_lines(path)
    middle = next((place for place, line in enumerate(lines) if line.text == "MOTION"), len(lines))
    if lines[0].text != "HIERARCHY" or len(lines) < middle + 4:
        raise line_error(path, lines[-1], "this is no HIERARCHY followed by a MOTION of at least one frame")
    skeleton = _Hierarchy(path, lines[1:middle]).read()
    count, step = lines[middle + 1], lines[middle + 2]
    frames = _after(path, count, "Frames:")
    if _after(path, step, "Frame Time:") <= 0:
        raise line_error(path, step, "the frame time is not positive")
    rows = lines[middle + 3 :]
    if frames != len(rows):
        raise line_error(path, count, f"it says {frames:g} frames, but {len(rows)} follow")
    return skeleton, numbers(path, rows, sum(map(len, skeleton.channels)))


def positions(skeleton: Skeleton, motion: Matrix) -> FloatArray:
    """Forward kinematics, all frames at once: float32 [T, J, 3] of a motion [T, D]."""
    shifts = np.tile(np.array(skeleton.offsets), (len(motion), 1, 1))
    rotations = np.empty((*shifts.shape, 3))
    first = 0
    for joint, channels in enumerate(skeleton.channels):
        values = motion[:, first : first + len(channels)]
        first += len(channels)
        turns = [place for place, name in enumerate(channels) if name.endswith("rotation")][::-1]
        axes = "".join(channels[place][0] for place in turns)
        rotations[:, joint] = euler_rotation(np.deg2rad(values[:, turns]), axes)
        for place, name in enumerate(channels):
            if name.endswith("position"):
                axis = "xyz".index(name[0])
                shifts[:, joint, axis] = values[:, place] + (skeleton.offsets[0][axis] if joint == 0 else 0)
    return joint_positions(skeleton.parents, rotations, shifts)


class _Hierarchy:
    """The words of a HIERARCHY, taken one after the other."""

    def __init__(self, path: Path, lines: list[Line]):
        self._path = path
        self._words: Iterator[tuple[Line, str]] = ((line, word) for line in lines for word in line.text.split())
        self._line = lines[0] if lines else Line(1, "")

    def read(self) -> Skeleton:
        skeleton = Skeleton()
        open_joints: list[int] = []
        while word := self._next():
            if word == "}" and open_joints:
                open_joints.pop()
            elif word == ("JOINT" if open_joints else "ROOT") and (open_joints or not skeleton.names):
                self._joint(skeleton, open_joints[-1] if open_joints else -1)
                open_joints.append(len(skeleton.names) - 1)
            elif word == "End" and open_joints:
                self._end_site(skeleton, open_joints[-1])
            else:
                raise self._error(f"{word[:40]!r} does not belong here")
        if open_joints or not skeleton.names:
            raise self._error("the hierarchy ends before its last brace")
        return skeleton

    def _joint(self, skeleton: Skeleton, parent: int) -> None:
        skeleton.names.append(self._next())
        skeleton.parents.append(parent)
        self._take("{")
        skeleton.offsets.append(self._offset())
        self._take("CHANNELS")
        count = self._next()
        if count not in ("0", "1", "2", "3", "4", "5", "6"):
            raise self._error(f"{count[:40]!r} channels, not 0 to 6")
        channels = tuple(self._next().lower() for _ in range(int(count)))
        if len(set(channels)) != len(channels) or not set(channels) <= set(_CHANNELS):
            raise self._error(f"channels {' '.join(channels)[:80]!r} are unknown or there twice")
        skeleton.channels.append(channels)

    def _end_site(self, skeleton: Skeleton, parent: int) -> None:
        self._take("Site")
        self._take("{")
        skeleton.names.append(f"{skeleton.names[parent]}_end")
        skeleton.parents.append(parent)
        skeleton.offsets.append(self._offset())
        skeleton.channels.append(())
        self._take("}")

    def _offset(self) -> Matrix:
        self._take("OFFSET")
        values = " ".join([self._next() for _ in range(3)])
        offset: Matrix = numbers(self._path, [Line(self._line.number, values)], 3)[0]
        return offset

    def _next(self) -> str:
        """The next word, "" at the end."""
        self._line, word = next(self._words, (self._line, ""))
        return word

    def _take(self, expected: str) -> None:
        word = self._next()
        if word != expected:
            raise self._error(f"{expected} should stand here, not {word[:40]!r}")

    def _error(self, problem: str) -> CrrlError:
        return line_error(self._path, self._line, problem)


def _after(path: Path, line: Line, name: str) -> float:
    """The one number after `name`."""
    if not line.text.startswith(name):
        raise line_error(path, line, f"{name} should stand here")
    return float(numbers(path, [line], 1, after=name)[0, 0])
