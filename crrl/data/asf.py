"""Acclaim motion capture: a skeleton (.asf), a motion (.amc), and where they put the joints.

The format is that of the Acclaim Skeleton File Definition V1.10 (M. Schafer, 1995) and of the Acclaim Format line
details at graphics.cs.cmu.edu. A bone is named by its far end, so that the root and N bones are N + 1 joints. In every
frame a bone turns by C·M·C⁻¹ against its parent: M is the motion, about the axes of `dof` (the root: `order`) as they
stand, one after the other; C is the constant turn of the bone's own axes, from `axis` (the root: `orientation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crrl.data.clips import FloatArray
from crrl.data.kinematics import Matrix, apply_rotation, euler_rotation, joint_positions
from crrl.data.text import Line, line_error, numbers, read_lines
from crrl.errors import CrrlError

ROOT = "root"
_SECTIONS = (":version", ":name", ":units", ":documentation", ":root", ":bonedata", ":hierarchy", ":skin")
_UNITS = ("mass", "length", "angle")
_ROOT_FIELDS = ("order", "axis", "position", "orientation")
_BONE_FIELDS = ("id", "name", "direction", "length", "axis", "dof", "limits", "bodymass", "cofmass")
_BONE_NEEDS = ("id", "name", "direction", "length", "axis")
_TURNS = ("rx", "ry", "rz")
_MOVES = ("tx", "ty", "tz")

Fields = dict[str, Line]


@dataclass(frozen=True)
class Skeleton:
    """What an .asf file says; lengths in its own unit.

    Attributes:
        unit: the file's `length`: so many of its lengths are one inch in CMU's files.
        names: the joints: root, then the bones depth first, children in the hierarchy's order.
        parents: each joint's parent, an index into names; -1 for the root.
        channels: the numbers an .amc file gives of each joint, in order: tx, ..., rz; none for a fixed bone.
        axes: [J, 3, 3], C of each joint. offsets: [J, 3], each bone from end to end with all angles 0; the root's
            position.
    """

    unit: float
    names: tuple[str, ...]
    parents: tuple[int, ...]
    channels: tuple[tuple[str, ...], ...]
    axes: Matrix
    offsets: Matrix


def read_skeleton(path: Path) -> Skeleton:
    """Read an .asf file.

    Raises:
        CrrlError: it is damaged: a section, a field or a bone is missing, doubled or unknown, a number is none, a
            direction has not length 1, or a bone does not hang on the root.
    """
    sections = _sections(path)
    units = _fields(path, sections[":units"], _UNITS, ("length", "angle"))
    degrees = _choice(path, units["angle"], ("deg", "rad")) == "deg"
    root = _root(path, _fields(path, sections[":root"], _ROOT_FIELDS, _ROOT_FIELDS), degrees)
    bones = {ROOT: root}
    for begin, fields in _bones(path, sections[":bonedata"]):
        name = fields["name"].text
        if name in bones:
            raise line_error(path, begin, f"bone {name} is there twice")
        bones[name] = _bone(path, fields, degrees)
    parents = _parents(path, sections[":hierarchy"], bones)
    order = _depth_first(parents)
    if len(order) != len(bones):
        loose = next(name for name in bones if name not in order)
        raise line_error(path, sections[":hierarchy"][0], f"bone {loose} does not hang on the root")
    return Skeleton(
        unit=_positive(path, units["length"]),
        names=tuple(order),
        parents=tuple(order.index(parents[name]) if name != ROOT else -1 for name in order),
        channels=tuple(bones[name][0] for name in order),
        axes=np.stack([bones[name][1] for name in order]),
        offsets=np.stack([bones[name][2] for name in order]),
    )


def read_motion(path: Path, skeleton: Skeleton) -> Matrix:
    """Read an .amc file: float64 [T, D], the channels of all joints in the skeleton's order, angles in radians.

    Frames are numbered one by one, from any number; every frame gives every moving joint, in the first one's order.

    Raises:
        CrrlError: the file is damaged, or of another skeleton.
    """
    lines = [line for line in read_lines(path) if not line.text.startswith("#")]
    keywords = {line.text.upper() for line in lines if line.text.startswith(":")}
    body = lines[len([line for line in lines if line.text.startswith(":")]) :]
    if ":FULLY-SPECIFIED" not in keywords or len(keywords & {":DEGREES", ":RADIANS"}) != 1 or not body:
        raise line_error(path, 1, "no motion under :FULLY-SPECIFIED and :DEGREES (or :RADIANS)")
    channels = {name: kinds for name, kinds in zip(skeleton.names, skeleton.channels, strict=True) if kinds}
    order = _first_frame(path, body, set(channels))
    _check_frames(path, body, order)
    values = {
        name: numbers(path, body[place :: len(order) + 1], len(channels[name]), after=name)
        for place, name in enumerate(order, 1)
    }
    motion = np.concatenate([values[name] for name in channels], axis=1)
    if ":DEGREES" in keywords:
        turns = np.array([kind in _TURNS for kinds in channels.values() for kind in kinds])
        motion[:, turns] = np.deg2rad(motion[:, turns])
    return motion


def positions(skeleton: Skeleton, motion: Matrix) -> FloatArray:
    """Forward kinematics, all frames at once: float32 [T, J, 3] in the skeleton's unit, of a motion [T, D]."""
    frames = len(motion)
    rotations = np.empty((frames, len(skeleton.names), 3, 3))
    shifts = np.empty((frames, len(skeleton.names), 3))
    first = 0
    for joint, kinds in enumerate(skeleton.channels):
        values = motion[:, first : first + len(kinds)]
        first += len(kinds)
        turns = [place for place, kind in enumerate(kinds) if kind in _TURNS]
        own = euler_rotation(values[:, turns], "".join(kinds[place][1] for place in turns))
        rotations[:, joint] = skeleton.axes[joint] @ own @ skeleton.axes[joint].T
        shifts[:, joint] = apply_rotation(rotations[:, joint], skeleton.offsets[joint])
        if joint == 0:
            shifts[:, 0] = skeleton.offsets[0] + values[:, [kinds.index(kind) for kind in _MOVES]]
    return joint_positions(skeleton.parents, rotations, shifts)


def _sections(path: Path) -> dict[str, list[Line]]:
    """The lines under each keyword, with what stands beside it, without comments; commas and brackets are space."""
    sections: dict[str, list[Line]] = {}
    current: list[Line] | None = None
    for line in read_lines(path):
        text = " ".join(line.text.partition("#")[0].translate(str.maketrans(",()", "   ")).split())
        if text.startswith(":"):
            keyword, _, text = text.partition(" ")
            if keyword not in _SECTIONS or keyword in sections:
                raise line_error(path, line, f"keyword {keyword[:40]!r} is unknown or there twice")
            current = sections[keyword] = []
        if text and current is None:
            raise line_error(path, line, "no keyword (:version, ...) before it; is this an .asf file?")
        if text and current is not None:
            current.append(Line(line.number, text))
    for keyword in (":units", ":root", ":bonedata", ":hierarchy"):
        if not sections.get(keyword):
            raise CrrlError(f"{path} has no section {keyword}: it is no .asf file, or cut short; restore it")
    return sections


def _fields(path: Path, lines: list[Line], known: tuple[str, ...], needed: tuple[str, ...]) -> Fields:
    """Lines "name values ..." by name; a line that starts with a number goes on with the limits before it."""
    fields: Fields = {}
    last = ""
    for line in lines:
        word, _, rest = line.text.partition(" ")
        if last == "limits" and word not in known:
            fields[last] = Line(fields[last].number, f"{fields[last].text} {line.text}")
            continue
        if word not in known or word in fields:
            raise line_error(path, line, f"field {word[:40]!r} is unknown or there twice")
        last = word
        fields[word] = Line(line.number, rest)
    for name in needed:
        if name not in fields:
            raise line_error(path, lines[0], f"here is no field {name!r}")
    return fields


def _bones(path: Path, lines: list[Line]) -> Iterator[tuple[Line, Fields]]:
    inside: list[Line] | None = None
    begin = lines[0]
    for line in lines:
        if (line.text == "begin") != (inside is None):
            raise line_error(path, line, "begin and end do not alternate")
        if line.text == "begin":
            begin, inside = line, []
        elif line.text == "end":
            yield begin, _fields(path, inside or [begin], _BONE_FIELDS, _BONE_NEEDS)
            inside = None
        elif inside is not None:
            inside.append(line)
    if inside is not None:
        raise line_error(path, begin, "this bone has no end")


def _root(path: Path, fields: Fields, degrees: bool) -> tuple[tuple[str, ...], Matrix, Matrix]:
    order = tuple(fields["order"].text.lower().split())
    if sorted(order) != sorted(_MOVES + _TURNS):
        raise line_error(path, fields["order"], "order does not name TX TY TZ RX RY RZ once each")
    turn = fields["orientation"]
    axis = Line(turn.number, f"{turn.text} {fields['axis'].text}")
    return order, _axes(path, axis, degrees), numbers(path, [fields["position"]], 3)[0]


def _bone(path: Path, fields: Fields, degrees: bool) -> tuple[tuple[str, ...], Matrix, Matrix]:
    direction = numbers(path, [fields["direction"]], 3)[0]
    length = numbers(path, [fields["length"]], 1)[0, 0]
    if length < 0 or (length > 0 and abs(np.linalg.norm(direction) - 1) > 1e-3):
        raise line_error(path, fields["direction"], "the direction has not length 1, or the bone's length is negative")
    dof = fields.get("dof", Line(0, ""))
    kinds = tuple(dof.text.lower().split())
    if len(set(kinds)) != len(kinds) or not set(kinds) <= set(_TURNS):
        raise line_error(path, dof, f"dof {dof.text[:40]!r} is not some of rx ry rz, once each")
    if "limits" in fields and len(fields["limits"].text.split()) != 2 * len(kinds):
        raise line_error(path, fields["limits"], f"limits are not {len(kinds)} pairs, one for each dof")
    return kinds, _axes(path, fields["axis"], degrees), direction * length


def _axes(path: Path, line: Line, degrees: bool) -> Matrix:
    """C of three angles and the order they turn in: `0 0 20 XYZ` turns about the x axis first."""
    words = line.text.rsplit(None, 1)
    if len(words) != 2 or sorted(words[1].lower()) != ["x", "y", "z"]:
        raise line_error(path, line, "axis is not three angles and their order (XYZ)")
    angles = numbers(path, [Line(line.number, words[0])], 3)[0]
    order = words[1].lower()
    named = angles[["xyz".index(axis) for axis in order]]
    return euler_rotation(np.deg2rad(named) if degrees else named, order)


def _parents(path: Path, lines: list[Line], bones: dict[str, tuple[tuple[str, ...], Matrix, Matrix]]) -> dict[str, str]:
    if len(lines) < 2 or lines[0].text != "begin" or lines[-1].text != "end":
        raise line_error(path, lines[-1], "the hierarchy does not stand between begin and end")
    parents: dict[str, str] = {}
    for line in lines[1:-1]:
        parent, *children = line.text.split()
        for name in (parent, *children):
            if name not in bones:
                raise line_error(path, line, f"bone {name[:40]!r} is not in :bonedata")
        for child in children:
            if child in parents or child == ROOT:
                raise line_error(path, line, f"bone {child} has two parents")
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


def _choice(path: Path, line: Line, choices: tuple[str, ...]) -> str:
    if line.text.lower() not in choices:
        raise line_error(path, line, f"{line.text[:40]!r} is not {' or '.join(choices)}")
    return line.text.lower()


def _positive(path: Path, line: Line) -> float:
    value = float(numbers(path, [line], 1)[0, 0])
    if value <= 0:
        raise line_error(path, line, f"{value} is not positive")
    return value


def _first_frame(path: Path, body: list[Line], expected: set[str]) -> list[str]:
    """The names of the moving joints in the order of the first frame."""
    names = [line.text.split(None, 1)[0] for line in body[1 : len(expected) + 1]]
    if set(names) != expected:
        different = ", ".join(sorted(expected.symmetric_difference(names)))[:200]
        remedy = "restore the file, or put the skeleton it belongs to beside it"
        raise line_error(path, body[0], f"the first frame and the skeleton differ in {different}", remedy)
    return names


def _check_frames(path: Path, body: list[Line], order: list[str]) -> None:
    """Every frame is there whole: its number, then the joints in order."""
    start = _frame_number(path, body[0])
    for place, line in enumerate(body):
        frame, turn = divmod(place, len(order) + 1)
        if turn == 0 and line.text != str(start + frame):
            raise line_error(path, line, f"frame {start + frame} should start here, not {line.text[:40]!r}")
        if turn != 0 and line.text.split(None, 1)[0] != order[turn - 1]:
            raise line_error(path, line, f"{order[turn - 1]} of frame {start + frame} should stand here")
    if turn != len(order):
        raise line_error(path, body[-1], f"the last frame, {start + frame}, ends before {order[turn]}")


def _frame_number(path: Path, line: Line) -> int:
    if not line.text.isascii() or not line.text.isdigit() or len(line.text) > 9:
        raise line_error(path, line, f"a frame's number should stand here, not {line.text[:40]!r}")
    return int(line.text)
