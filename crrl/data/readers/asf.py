"""Acclaim motion capture: a skeleton (.asf), a motion (.amc), and the joint positions that they give.

The formats are the Acclaim Skeleton File Definition V1.10 (M. Schafer, 1995) and the line format described at
graphics.cs.cmu.edu. A bone's name stands for its far end, so that the root and N bones are N + 1 joints. In each frame
a bone is rotated by C·M·C⁻¹ relative to its parent. M is the motion, about the fixed axes in the order of `dof` (for
the root, `order`); C is the constant rotation of the bone's own axes, from `axis` (for the root, `orientation`).

Keywords, field names and the name of the root may be in any case. Anything beyond the definition is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crrl.data.clips import FloatArray
from crrl.data.readers.kinematics import Matrix, apply_rotation, check_size, euler_rotation, in_pieces, joint_positions
from crrl.data.readers.text import CUT_SHORT, Line, Unended, line_error, numbers, read_lines, remarks_on, tell
from crrl.errors import CrrlError
from crrl.files import shown

ROOT = "root"
_SECTIONS = (":version", ":name", ":units", ":documentation", ":root", ":bonedata", ":hierarchy", ":skin")
_UNITS = ("mass", "length", "angle")
_ROOT_FIELDS = ("order", "axis", "position", "orientation")
_BONE_FIELDS = ("id", "name", "direction", "length", "axis", "dof", "limits", "bodymass", "cofmass")
_BONE_NEEDS = ("id", "name", "direction", "length", "axis")
_TURNS = ("rx", "ry", "rz")
_MOVES = ("tx", "ty", "tz")
_ANGLES = {"deg": True, "degree": True, "degrees": True, "rad": False, "radian": False, "radians": False}
"""The names of the unit of angles, and whether it is degrees."""
_RATE = ":SAMPLES-PER-SECOND"
_KEYWORDS = (":FULLY-SPECIFIED", ":DEGREES", ":RADIANS", _RATE)
_BELONGS = "restore the file, or put the skeleton it belongs to beside it"

ROUNDED = 0.01
"""Largest error of a direction's length if its numbers have two digits."""

Fields = dict[str, Line]


@dataclass(frozen=True)
class Hierarchy:
    """The content of an .asf file; lengths in its own unit.

    Attributes:
        unit: the file's `length`; in CMU's files, lengths divided by it are inches.
        names: the joints: root, then the bones depth first, children in the hierarchy's order.
        parents: the parent of each joint, an index into names; -1 for the root.
        channels: the numbers that an .amc file gives for each joint, in order: tx, ..., rz; () for a fixed bone.
        axes: [J, 3, 3], C of each joint. offsets: [J, 3], each bone from end to end with all angles 0; the root's
            position.
    """

    unit: float
    names: tuple[str, ...]
    parents: tuple[int, ...]
    channels: tuple[tuple[str, ...], ...]
    axes: Matrix
    offsets: Matrix


class Recording(NamedTuple):
    """The content of an .amc file: motion, float64 [T, D]; frames a second, 0 if not given; remarks for `tell`."""

    motion: Matrix
    rate: float
    remarks: list[str]


def read_skeleton(path: Path) -> Hierarchy:
    """Read an .asf file.

    Raises:
        CrrlError: it is damaged: a section, a field or a bone is missing, repeated or unknown, a number is invalid, a
            direction has not length 1, or a bone is not connected to the root.
    """
    sections = _sections(path)
    units = _fields(path, sections[":units"], _UNITS, ("length", "angle"))
    degrees = _degrees(path, units["angle"])
    root = _root(path, _fields(path, sections[":root"], _ROOT_FIELDS, _ROOT_FIELDS), degrees)
    bones = {ROOT: root}
    for begin, fields in _bones(path, sections[":bonedata"]):
        name = fields["name"].text
        if name in bones:
            raise line_error(path, begin, f"bone {shown(name)} occurs twice")
        bones[name] = _bone(path, fields, degrees)
        check_size(path, len(bones), 0)
    parents = _parents(path, sections[":hierarchy"], bones)
    place = {name: number for number, name in enumerate(_depth_first(parents))}
    if loose := next((name for name in bones if name not in place), ""):
        raise line_error(path, sections[":hierarchy"][0], f"bone {shown(loose)} is not connected to the root")
    return Hierarchy(
        unit=_positive(path, units["length"]),
        names=tuple(place),
        parents=tuple(place[parents[name]] if name != ROOT else -1 for name in place),
        channels=tuple(bones[name][0] for name in place),
        axes=np.stack([bones[name][1] for name in place]),
        offsets=np.stack([bones[name][2] for name in place]),
    )


def read_motion(path: Path, skeleton: Hierarchy) -> Matrix:
    """Read an .amc file: float64 [T, D], the channels of all joints in the skeleton's order, angles in radians.

    Frames are numbered consecutively, from any number; each gives every moving joint, in any order. Warns if the last
    line has no line break.

    Raises:
        CrrlError: the file is damaged, or of another skeleton.
    """
    recording = read_recording(path, skeleton)
    tell((path, remark) for remark in recording.remarks)
    return recording.motion


def read_recording(path: Path, skeleton: Hierarchy) -> Recording:
    """`read_motion` with its warnings as remarks."""
    lines = [line for line in read_lines(path, "an .amc file") if not line.text.startswith("#")]
    start = next((place for place, line in enumerate(lines) if not line.text.startswith(":")), len(lines))
    keywords = _keywords(path, lines[:start])
    channels = {name: kinds for name, kinds in zip(skeleton.names, skeleton.channels, strict=True) if kinds}
    frames = _frames(path, lines[start:], channels.keys())
    check_size(path, len(skeleton.names), len(frames))
    values = [
        numbers(path, [frame[name] for frame in frames], len(kinds), after=name) for name, kinds in channels.items()
    ]
    motion = np.concatenate(values, axis=1)
    if ":DEGREES" in keywords:
        turns = np.array([kind in _TURNS for kinds in channels.values() for kind in kinds])
        motion[:, turns] = np.deg2rad(motion[:, turns])
    return Recording(motion, keywords.get(_RATE, 0), remarks_on(lines))


def positions(skeleton: Hierarchy, motion: Matrix) -> FloatArray:
    """Forward kinematics of a motion [T, D]: float32 [T, J, 3] in the skeleton's unit."""
    return in_pieces(lambda piece: _positions(skeleton, piece), motion, len(skeleton.names))


def _positions(skeleton: Hierarchy, motion: Matrix) -> FloatArray:
    rotations = np.empty((len(motion), len(skeleton.names), 3, 3))
    shifts = np.empty((len(motion), len(skeleton.names), 3))
    first = 0
    for joint, kinds in enumerate(skeleton.channels):
        values = motion[:, first : first + len(kinds)]
        first += len(kinds)
        turns = [place for place, kind in enumerate(kinds) if kind in _TURNS]
        own = euler_rotation(values[:, turns], "".join(kinds[place][1] for place in turns))
        rotations[:, joint] = skeleton.axes[joint] @ own @ skeleton.axes[joint].T
        shifts[:, joint] = apply_rotation(rotations[:, joint], skeleton.offsets[joint])
        if joint == 0:
            shifts[:, 0] = skeleton.offsets[0]
            for place, kind in enumerate(kinds):
                if kind in _MOVES:
                    shifts[:, 0, _MOVES.index(kind)] += values[:, place]
    return joint_positions(skeleton.parents, rotations, shifts)


def _sections(path: Path) -> dict[str, list[Line]]:
    """The lines of each section, with the rest of its keyword's line, without comments, commas and brackets."""
    sections: dict[str, list[Line]] = {}
    current: list[Line] | None = None
    for line in read_lines(path, "an .asf file"):
        text = " ".join(line.text.partition("#")[0].translate(str.maketrans(",()", "   ")).split())
        if text.startswith(":"):
            keyword, _, text = text.partition(" ")
            keyword = keyword.lower()
            if keyword not in _SECTIONS or keyword in sections:
                remedy = f"remove it, or restore the file: {' '.join(_SECTIONS)} are read, once each"
                raise line_error(path, line, f"keyword {shown(keyword)!r} is unknown or occurs twice", remedy)
            current = sections[keyword] = []
        if text and current is None:
            raise line_error(path, line, "no keyword (:version, ...) before it", "this is not an .asf file; give one")
        if text and current is not None:
            current.append(Line(line.number, text))
    for keyword in (":units", ":root", ":bonedata", ":hierarchy"):
        if not sections.get(keyword):
            raise CrrlError(f"{path} has no section {keyword} with anything in it: it is cut short; restore it")
    return sections


def _fields(path: Path, lines: list[Line], known: tuple[str, ...], needed: tuple[str, ...]) -> Fields:
    """Lines "name values ..." by name; lines that follow `limits` without a known name continue it."""
    fields: Fields = {}
    limits: list[str] = []
    last = ""
    for line in lines:
        word, _, rest = line.text.partition(" ")
        word = word.lower()
        if last == "limits" and word not in known:
            limits.append(line.text)
            continue
        if word not in known or word in fields:
            remedy = f"remove it, or restore the file: {', '.join(known)} are read, once each"
            raise line_error(path, line, f"field {shown(word)!r} is unknown or occurs twice", remedy)
        last = word
        fields[word] = Line(line.number, rest)
    if limits:
        fields["limits"] = Line(fields["limits"].number, " ".join([fields["limits"].text, *limits]))
    for name in needed:
        if name not in fields:
            raise line_error(path, lines[0], f"field {name!r} is missing", "add it, or restore the file")
    return fields


def _bones(path: Path, lines: list[Line]) -> Iterator[tuple[Line, Fields]]:
    inside: list[Line] | None = None
    begin = lines[0]
    for line in lines:
        word = line.text.lower()
        if (word == "begin") != (inside is None):
            raise line_error(path, line, "begin and end do not alternate")
        if word == "begin":
            begin, inside = line, []
        elif word == "end":
            yield begin, _fields(path, inside or [begin], _BONE_FIELDS, _BONE_NEEDS)
            inside = None
        elif inside is not None:
            inside.append(line)
    if inside is not None:
        raise line_error(path, begin, "this bone has no end", CUT_SHORT)


def _root(path: Path, fields: Fields, degrees: bool) -> tuple[tuple[str, ...], Matrix, Matrix]:
    order = tuple(fields["order"].text.lower().split())
    if not order or len(set(order)) != len(order) or not set(order) <= set(_MOVES + _TURNS):
        raise line_error(path, fields["order"], "order must name some of TX TY TZ RX RY RZ, once each")
    turn = fields["orientation"]
    axis = Line(turn.number, f"{turn.text} {fields['axis'].text}")
    return order, _axes(path, axis, degrees), numbers(path, [fields["position"]], 3)[0]


def _bone(path: Path, fields: Fields, degrees: bool) -> tuple[tuple[str, ...], Matrix, Matrix]:
    direction = numbers(path, [fields["direction"]], 3)[0]
    length = numbers(path, [fields["length"]], 1)[0, 0]
    if length < 0:
        raise line_error(path, fields["length"], "the bone's length is negative")
    norm = float(np.linalg.norm(direction))
    if length > 0 and abs(norm - 1) > 2 * ROUNDED:
        raise line_error(path, fields["direction"], f"the direction has length {norm:.4g}, not 1")
    if length > 0 and abs(norm - 1) > ROUNDED / 10:
        direction = direction / norm
    dof = fields.get("dof", Line(0, ""))
    kinds = tuple(dof.text.lower().split())
    if len(set(kinds)) != len(kinds) or not set(kinds) <= set(_TURNS):
        problem = f"dof {shown(dof.text)!r} must be some of rx ry rz, once each"
        raise line_error(path, dof, problem, "bones that move or stretch are not read; export rotations alone")
    if "limits" in fields and len(fields["limits"].text.split()) != 2 * len(kinds):
        raise line_error(path, fields["limits"], f"limits are not {len(kinds)} pairs, one for each dof")
    return kinds, _axes(path, fields["axis"], degrees), direction * length


def _axes(path: Path, line: Line, degrees: bool) -> Matrix:
    """C from three angles and their order: `0 0 20 XYZ` rotates about x first."""
    words = line.text.rsplit(None, 1)
    if len(words) != 2 or sorted(words[1].lower()) != ["x", "y", "z"]:
        raise line_error(path, line, "axis is not three angles and their order (XYZ)")
    angles = numbers(path, [Line(line.number, words[0])], 3)[0]
    order = words[1].lower()
    named = angles[["xyz".index(axis) for axis in order]]
    return euler_rotation(np.deg2rad(named) if degrees else named, order)


def _parents(path: Path, lines: list[Line], bones: dict[str, tuple[tuple[str, ...], Matrix, Matrix]]) -> dict[str, str]:
    if len(lines) < 2 or lines[0].text.lower() != "begin":
        raise line_error(path, lines[0], "begin is expected here")
    if lines[-1].text.lower() != "end":
        raise line_error(path, lines[-1], "the hierarchy ends before its end", CUT_SHORT)
    parents: dict[str, str] = {}
    for line in lines[1:-1]:
        parent, *children = (ROOT if name.lower() == ROOT else name for name in line.text.split())
        for name in (parent, *children):
            if name not in bones:
                raise line_error(path, line, f"bone {shown(name)!r} is not in :bonedata")
        for child in children:
            if child in parents or child == ROOT:
                raise line_error(path, line, f"bone {shown(child)} has two parents")
            parents[child] = parent
    return parents


def _depth_first(parents: dict[str, str]) -> list[str]:
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    order, waiting = [], [ROOT]
    while waiting:
        order.append(waiting.pop())
        waiting += reversed(children.get(order[-1], []))
    return order


def _degrees(path: Path, line: Line) -> bool:
    if line.text.lower() not in _ANGLES:
        raise line_error(path, line, f"{shown(line.text)!r} is not deg or rad")
    return _ANGLES[line.text.lower()]


def _positive(path: Path, line: Line) -> float:
    value = float(numbers(path, [line], 1)[0, 0])
    if value <= 0:
        raise line_error(path, line, f"{value} is not positive")
    return value


def _keywords(path: Path, lines: list[Line]) -> dict[str, float]:
    """The keywords at the beginning of an .amc file, with the number of :SAMPLES-PER-SECOND and 0 for the others."""
    keywords: dict[str, float] = {}
    for line in lines:
        keyword, _, value = line.text.partition(" ")
        keyword = keyword.upper()
        if keyword not in _KEYWORDS or (value and keyword != _RATE):
            known = f"{', '.join(_KEYWORDS)} are read; remove it, or restore the file"
            raise line_error(path, line, f"keyword {shown(line.text)!r} is unknown", known)
        keywords[keyword] = _positive(path, Line(line.number, value)) if keyword == _RATE else 0
    if ":FULLY-SPECIFIED" not in keywords:
        raise line_error(path, 1, "no line :FULLY-SPECIFIED before the first frame", "add it, or restore the file")
    if (":DEGREES" in keywords) == (":RADIANS" in keywords):
        found = "both" if ":DEGREES" in keywords else "neither"
        problem = f"one line :DEGREES or :RADIANS is expected before the first frame, found {found}"
        raise line_error(path, 1, problem, "say which, or restore the file")
    return keywords


def _frames(path: Path, lines: list[Line], moving: Collection[str]) -> list[dict[str, Line]]:
    """The lines of the moving joints of each frame, by name; raises if a frame is incomplete or has another number."""
    frames: list[dict[str, Line]] = []
    start = 0
    for line in lines:
        if re.fullmatch(r"[0-9]{1,9}", line.text):
            start = start if frames else int(line.text)
            number = start + len(frames)
            if frames and (missing := _missing(frames, moving)):
                raise line_error(path, line, f"{missing} of frame {number - 1} is expected here", _BELONGS)
            if int(line.text) != number:
                raise line_error(path, line, f"frame {number} should start here, not {line.text}")
            frames.append({})
        else:
            name = line.text.split(None, 1)[0]
            _add(path, line, ROOT if name.lower() == ROOT else name, frames, moving)
    if not frames or (missing := _missing(frames, moving)):
        end = f"the last frame, {start + len(frames) - 1}, ends before {missing}" if frames else "there is no frame"
        if lines and isinstance(lines[-1], Unended):
            end = "the file stops in the middle of a line"
        raise line_error(path, lines[-1] if lines else 1, end, CUT_SHORT)
    return frames


def _missing(frames: list[dict[str, Line]], moving: Collection[str]) -> str:
    """The joints that the last frame lacks."""
    return ", ".join(name for name in moving if name not in frames[-1])[:200]


def _add(path: Path, line: Line, name: str, frames: list[dict[str, Line]], moving: Collection[str]) -> None:
    """Add the line of a joint to the last frame."""
    if not frames or (name not in moving and name[0] in "+-.0123456789"):
        raise line_error(path, line, f"a frame's number is expected here, alone, not {shown(line.text)!r}")
    if name not in moving or name in frames[-1]:
        problem = "occurs twice in a frame" if name in frames[-1] else "is not a bone of the skeleton that moves"
        raise line_error(path, line, f"{shown(name)!r} {problem}", _BELONGS)
    frames[-1][name] = line
