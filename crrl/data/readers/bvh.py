"""Biovision motion capture (.bvh): hierarchy and motion in one file; labels.csv lists the files as for `folder`.

The format is that of J. Lander, "Working with Motion Capture File Formats" (Game Developer, 1998), as described at
research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/BVH.html. The channels of a joint rotate it, in their order,
about axes that turn with it. Position channels of the root are added to its offset; those of other joints replace
theirs, as the programs that write them intend.

Dialects are accepted: keywords in any case, any white space between words, joint names with spaces, a joint without
CHANNELS, and an End Site with CHANNELS or a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crrl.data.chunks import Files, Shown, read_in_order
from crrl.data.clips import Clips, FloatArray, Tree
from crrl.data.naming import wrong_name
from crrl.data.readers import folder
from crrl.data.readers.kinematics import Matrix, check_size, euler_rotation, in_pieces, joint_positions, warn_of_rates
from crrl.data.readers.text import CUT_SHORT, MEND, Line, line_error, numbers, read_lines, remarks_on, tell
from crrl.errors import CrrlError
from crrl.files import shown

LONGER = "longer than its line Frames: says; all of its frames are read"
"""The remark on a file with more frames than it announces, as recorders of live motion write."""

_CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "xyz")
_WORD = re.compile(r"[{}]|[^\s{}]+")
_HEADER = {
    "Frames:": re.compile(r"frames\s*:?\s*(.*)", re.IGNORECASE),
    "Frame Time:": re.compile(r"frame\s*time\s*:?\s*(.*)", re.IGNORECASE),
}
_PREFIX = re.compile(r".*:|mixamorig\d*_|bip\d+[ _]?", re.IGNORECASE)
"""Prefixes that programs put before joint names, which may differ between files of the same body."""

find_files = partial(folder.find_files, endings=(".bvh",))


@dataclass
class Hierarchy:
    """The joints of a HIERARCHY in the file's order; an End Site without a name is called "<its joint>_end".

    Attributes:
        names, parents: of each joint; the root's parent is -1. offsets: [3] each, from the parent.
        channels: of each joint in order, "xposition" to "zrotation".
    """

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[Matrix] = field(default_factory=list)
    channels: list[tuple[str, ...]] = field(default_factory=list)

    def tree(self) -> Tree:
        return Tree(tuple(self.names), tuple(self.parents))


class Recording(NamedTuple):
    """A file's content: hierarchy; motion, float64 [T, D]; seconds from frame to frame; remarks for `text.tell`."""

    hierarchy: Hierarchy
    motion: Matrix
    frame_time: float
    remarks: list[str]


def load(files: list[Path]) -> Clips:
    """Read the clips that `find_files` found, with classes and splits as in `folder`.

    The joints, in the file's unit of length, are all of the file's, with End Sites (tips of head, hands and feet).
    Warns of files that differ from what they announce, and of differing frame times.

    Raises:
        CrrlError: a file is damaged or has another skeleton than the first.
    """
    _, paths = folder.apart(files)
    facts: list[tuple[float, list[str]]] = []
    joints: list[tuple[str, int]] = []
    with closing(read_in_order(_read_clip, [(path,) for path in paths], "read bvh")) as clips:
        found = folder.load(files, _of_one_skeleton(paths, clips, joints, facts))
    tell((path, remark) for path, (_, remarks) in zip(paths, facts, strict=True) for remark in remarks)
    warn_of_rates([(path, 1 / frame_time) for path, (frame_time, _) in zip(paths, facts, strict=True)])
    return replace(found, tree=Tree(*zip(*joints, strict=True)))


def _read_clip(files: Files) -> Shown:
    """The clip of a file, after the names and parents of its joints, its frame time and its remarks."""
    hierarchy, motion, frame_time, remarks = read_recording(files[0])
    return [([hierarchy.names, hierarchy.parents, frame_time, remarks], positions(hierarchy, motion))]


def _of_one_skeleton(
    paths: list[Path], clips: Iterable[Shown], joints: list[tuple[str, int]], facts: list[tuple[float, list[str]]]
) -> Iterator[FloatArray]:
    """The frames of the clips, whose skeletons must be equal.

    `joints` gets the name and parent of each joint of the first, `facts` the frame time and remarks of each clip.
    """
    for path, [((names, parents, frame_time, remarks), frames)] in zip(paths, clips, strict=True):
        own = list(zip(names, parents, strict=True))
        joints[:] = joints or own
        if difference := _difference(own, joints):
            raise CrrlError(
                f"{path} has another skeleton than {paths[0]}, {difference}: one per data set; convert or remove it"
            )
        facts.append((frame_time, remarks))
        yield frames


def _difference(joints: list[tuple[str, int]], others: list[tuple[str, int]]) -> str:
    """The first difference of two skeletons, in words; "" if they differ in the prefixes of names at most."""
    for place, ((name, parent), (other, above)) in enumerate(zip(joints, others, strict=False), 1):
        if _PREFIX.sub("", name) != _PREFIX.sub("", other):
            return f"joint {place} is {name!r}, not {other!r}"
        if parent != above:
            return f"{name!r} has the parent {joints[parent][0]!r}, not {others[above][0]!r}"
    if len(joints) != len(others):
        more, number = max(joints, others, key=len), min(len(joints), len(others))
        return f"{len(joints)} joints, not {len(others)}: {more[number][0]!r} is there in one of them alone"
    return ""


def read_file(path: Path) -> tuple[Hierarchy, Matrix]:
    """The skeleton and the motion, float64 [T, D]: the channels of all joints in order, degrees.

    Warns if the last line has no line break, or if there are more frames than announced.

    Raises:
        CrrlError: the file is damaged: braces, offsets, channels, numbers or frames are missing or too many.
    """
    recording = read_recording(path)
    tell((path, remark) for remark in recording.remarks)
    return recording.hierarchy, recording.motion


def read_recording(path: Path) -> Recording:
    """`read_file` with its warnings as remarks."""
    lines = read_lines(path, "a BVH file", "bvh")
    if lines[0].text.split()[0].casefold() != "hierarchy":
        raise line_error(path, lines[0], f"HIERARCHY is expected here, not {shown(lines[0].text)!r}")
    middle = next((place for place, line in enumerate(lines) if line.text.casefold() == "motion"), len(lines))
    if len(lines) < middle + 4:
        raise line_error(path, lines[-1], "no HIERARCHY followed by a MOTION of at least one frame", CUT_SHORT)
    hierarchy = _HierarchyParser(path, lines[:middle]).read()
    (count, frames), (step, frame_time) = _header(path, lines[middle + 1 : middle + 3])
    if frame_time <= 0:
        raise line_error(path, step, "the frame time is not positive")
    if frames < 0 or frames % 1:
        raise line_error(path, count, f"{frames:g} is not a number of frames")
    rows = lines[middle + 3 :]
    if len(rows) < frames:
        raise line_error(path, count, f"it says {frames:g} frames, but {len(rows)} follow", CUT_SHORT)
    remarks = [*remarks_on(lines), *([LONGER] if len(rows) > frames else [])]
    check_size(path, len(hierarchy.names), len(rows))
    return Recording(hierarchy, numbers(path, rows, sum(map(len, hierarchy.channels))), frame_time, remarks)


def positions(hierarchy: Hierarchy, motion: Matrix) -> FloatArray:
    """Forward kinematics of a motion [T, D]: float32 [T, J, 3]."""
    return in_pieces(lambda piece: _positions(hierarchy, piece), motion, len(hierarchy.names))


def _positions(hierarchy: Hierarchy, motion: Matrix) -> FloatArray:
    shifts = np.tile(np.array(hierarchy.offsets), (len(motion), 1, 1))
    rotations = np.empty((*shifts.shape, 3))
    first = 0
    for joint, channels in enumerate(hierarchy.channels):
        values = motion[:, first : first + len(channels)]
        first += len(channels)
        turns = [place for place, name in enumerate(channels) if name.endswith("rotation")][::-1]
        axes = "".join(channels[place][0] for place in turns)
        rotations[:, joint] = euler_rotation(np.deg2rad(values[:, turns]), axes)
        for place, name in enumerate(channels):
            if name.endswith("position"):
                axis = "xyz".index(name[0])
                shifts[:, joint, axis] = values[:, place] + (hierarchy.offsets[0][axis] if joint == 0 else 0)
    return joint_positions(hierarchy.parents, rotations, shifts)


class _HierarchyParser:
    """The parser of a HIERARCHY, which reads it word by word."""

    def __init__(self, path: Path, lines: list[Line]):
        self._path, self._lines = path, lines
        self._text = "\n".join(line.text for line in lines)
        self._at = len("hierarchy")
        self._hierarchy = Hierarchy()
        self._open: list[int] = []
        """The joints with open braces, from the root down."""
        self._tips: set[int] = set()

    def read(self) -> Hierarchy:
        while word := self._next():
            keyword = word.casefold()
            if keyword == "root" and not self._hierarchy.names:
                self._joint(-1, self._name(keyword))
            elif keyword == "root":
                raise self._error("a second ROOT", "only one body a file is read; remove the others")
            elif not self._open:
                raise self._error(f"{shown(word)!r} does not belong here")
            else:
                self._inside(keyword, word)
        if self._open or not self._hierarchy.names:
            raise self._error("the hierarchy ends before its last brace", CUT_SHORT)
        return self._hierarchy

    def _inside(self, keyword: str, word: str) -> None:
        """Read one statement between the braces of a joint."""
        joint = self._open[-1]
        if keyword == "}":
            self._check_offset(joint)
            self._open.pop()
        elif keyword == "joint" and joint not in self._tips:
            self._joint(joint, self._name(keyword))
        elif keyword in ("end", "endsite") and joint not in self._tips:
            if keyword == "end":
                self._take("Site")
            self._tips.add(len(self._hierarchy.names))
            self._joint(joint, self._rest() or f"{self._hierarchy.names[joint]}_end")
        elif keyword == "offset" and len(self._hierarchy.offsets) == joint:
            self._hierarchy.offsets.append(self._offset())
        elif keyword == "channels" and joint == len(self._hierarchy.names) - 1 and not self._hierarchy.channels[joint]:
            self._hierarchy.channels[joint] = self._channels()
        else:
            raise self._error(f"{shown(word)!r} does not belong here, in {shown(self._hierarchy.names[joint])!r}")

    def _joint(self, parent: int, name: str) -> None:
        if parent >= 0:
            self._check_offset(parent)
        if wrong := wrong_name(name):
            raise self._error(f"the name of a joint {wrong}")
        check_size(self._path, len(self._hierarchy.names) + 1, 0)
        self._hierarchy.names.append(name)
        self._hierarchy.parents.append(parent)
        self._hierarchy.channels.append(())
        self._take("{")
        self._open.append(len(self._hierarchy.names) - 1)

    def _check_offset(self, joint: int) -> None:
        if len(self._hierarchy.offsets) <= joint:
            raise self._error(f"OFFSET is expected before this, in {shown(self._hierarchy.names[joint])!r}")

    def _offset(self) -> Matrix:
        """The three numbers on the line of their keyword."""
        end = self._text.find("\n", self._at)
        words = _WORD.findall(self._text, self._at, end if end >= 0 else len(self._text))[:3]
        offset: Matrix = numbers(self._path, [Line(self._line.number, " ".join(words))], 3)[0]
        for _ in words:
            self._next()
        return offset

    def _channels(self) -> tuple[str, ...]:
        count = self._next()
        if not re.fullmatch(r"[0-9]{1,2}", count):
            raise self._error(f"a number of channels is expected here, not {shown(count)!r}")
        channels: list[str] = []
        for _ in range(int(count)):
            name = self._next()
            if name.casefold() not in _CHANNELS or name.casefold() in channels:
                raise self._error(
                    f"channel {shown(name)!r} of {int(count)} is none of Xposition to Zrotation, or occurs twice"
                )
            channels.append(name.casefold())
        return tuple(channels)

    def _name(self, keyword: str) -> str:
        """The rest of the line, or the next line if the keyword stands alone."""
        name = self._rest()
        if not name and self._text.startswith("\n", self._at):
            self._at += 1
            name = self._rest()
        if not name:
            raise self._error(f"a name is expected after {keyword.upper()}")
        return name

    def _rest(self) -> str:
        """The rest of the line up to a brace, which may be empty."""
        name = re.split(r"[{}\n]", self._text[self._at :], maxsplit=1)[0]
        self._at += len(name)
        return name.strip()

    def _next(self) -> str:
        """The next word, "" at the end."""
        match = _WORD.search(self._text, self._at)
        self._at = match.end() if match else len(self._text)
        return match[0] if match else ""

    @property
    def _line(self) -> Line:
        """The line of the last word read."""
        return self._lines[self._text.count("\n", 0, self._at)]

    def _take(self, expected: str) -> None:
        word = self._next()
        if word.casefold() != expected.casefold():
            raise self._error(f"{expected} is expected here, not {shown(word)!r}")

    def _error(self, problem: str, remedy: str = MEND) -> CrrlError:
        return line_error(self._path, self._line, problem, remedy)


def _header(path: Path, lines: list[Line]) -> list[tuple[Line, float]]:
    """The lines Frames: and Frame Time:, in either order, with their numbers."""
    found = {}
    for name, pattern in _HEADER.items():
        matches = [(line, match) for line in lines if (match := pattern.fullmatch(line.text))]
        if not matches:
            raise line_error(path, lines[list(_HEADER).index(name)], f"{name} is expected here")
        line, match = matches[0]
        found[name] = (line, float(numbers(path, [Line(line.number, match[1])], 1)[0, 0]))
    return list(found.values())
