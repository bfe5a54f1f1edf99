"""The .skeleton text of NTU RGB+D: the bodies that a Kinect v2 tracked, frame by frame.

One item a line, as the owners of the data set describe it: the number of frames; per frame the number of bodies; per
body its tracking number with 9 more fields, the number of joints (25), and per joint 12 numbers: x, y, z (metres), its
position in the depth image and in the colour image, an orientation w, x, y, z and a tracking state. Only x, y, z are
kept. The other fields must be numbers, but may be inf or nan, as for a joint outside an image.

The C++ extension (csrc/cpu/skeleton.cpp) parses it if it is there. `parse_by_line` is the readable reference, with the
same grammar and the same messages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from crrl.data.clips import FloatArray, IntArray
from crrl.data.readers import text as text_files
from crrl.files import shown
from crrl.ops import cpu

NUM_JOINTS = 25
BODY_FIELDS, JOINT_FIELDS = 10, 12
MOST_BODIES = 1000
_NUMBER = re.compile(rb"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_UNKNOWN = re.compile(rb"-?(inf|infinity|nan)", re.IGNORECASE)
_FIELD = re.compile(rb"[^ \t]+")
"""Spaces and tabs separate fields. A carriage return does not: one flipped bit makes it of a minus sign."""
_COUNT, _ID = re.compile(rb"[0-9]{1,9}"), re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True, eq=False)
class Body:
    """One tracked body.

    Attributes:
        id: the sensor's tracking number.
        frames: int64 [T], ascending, the frames that show it. joints: float32 [T, 25, 3] in metres.
    """

    id: int
    frames: IntArray
    joints: FloatArray


@dataclass(frozen=True)
class SkeletonFile:
    """A .skeleton file: the number of frames, with or without bodies, and the bodies in the order of appearance."""

    frames: int
    bodies: list[Body]


def parse(text: bytes) -> SkeletonFile:
    """Parse the content of a .skeleton file.

    Raises:
        ValueError: "line N: what is wrong there".
    """
    if cpu.missing:
        return parse_by_line(text)
    total, bodies = cpu.native.parse_skeleton(text)
    return SkeletonFile(
        total,
        [
            Body(number, np.frombuffer(frames, np.int64), np.frombuffer(joints, np.float32).reshape(-1, NUM_JOINTS, 3))
            for number, frames, joints in bodies
        ],
    )


def parse_by_line(text: bytes) -> SkeletonFile:
    """`parse` in Python."""
    lines = _Lines(text)
    bodies: dict[int, dict[int, list[list[float]]]] = {}
    frames = lines.count("the number of frames")
    for frame in range(frames):
        for _ in range(lines.count("the number of bodies")):
            number = _body_id(lines)
            if number not in bodies and len(bodies) == MOST_BODIES:
                raise lines.error(f"more than {MOST_BODIES} bodies")
            body = bodies.setdefault(number, {})
            if frame in body:
                raise lines.error(f"body {number} stands twice in one frame")
            if (joints := lines.count("the number of joints")) != NUM_JOINTS:
                raise lines.error(f"expected {NUM_JOINTS} joints, found {joints}")
            body[frame] = [_joint(lines) for _ in range(NUM_JOINTS)]
    if not lines.done:
        lines.next("")
        raise lines.error(f"the {frames} frames announced are over, but text follows")
    return SkeletonFile(
        frames,
        [
            Body(number, np.array(list(body), np.int64), np.array(list(body.values()), np.float32))
            for number, body in bodies.items()
        ],
    )


class _Lines:
    """The lines of a text without space at its end, read one by one, with the number of the last one read."""

    def __init__(self, text: bytes):
        text = text.rstrip()
        self._lines = text.split(b"\n") if text else []
        self._taken = 0

    @property
    def done(self) -> bool:
        return self._taken == len(self._lines)

    def error(self, what: str) -> ValueError:
        return ValueError(f"line {self._taken}: {what}")

    def next(self, what: str) -> bytes:
        self._taken += 1
        if self._taken > len(self._lines):
            raise self.error(f"the file ends where {what} should stand")
        return self._lines[self._taken - 1].rstrip(b"\r")

    def count(self, what: str) -> int:
        line = self.next(what).strip(b" \t")
        if not _COUNT.fullmatch(line):
            raise self.error(f"expected {what}, found '{shown(line)}'")
        return int(line)

    def fields(self, expected: int, what: str) -> list[bytes]:
        fields = _FIELD.findall(self.next(what))
        if len(fields) != expected:
            raise self.error(f"expected the {expected} numbers of {what}, found {len(fields)}")
        return fields

    def check_numbers(self, fields: list[bytes]) -> None:
        for field in fields:
            if not _NUMBER.fullmatch(field) and not _UNKNOWN.fullmatch(field):
                raise self.error(f"'{shown(field)}' is no number")


def _body_id(lines: _Lines) -> int:
    fields = lines.fields(BODY_FIELDS, "a body")
    if not _ID.fullmatch(fields[0]):
        raise lines.error(f"expected the number of a body, found '{shown(fields[0])}'")
    lines.check_numbers(fields)
    return int(fields[0])


def _joint(lines: _Lines) -> list[float]:
    fields = lines.fields(JOINT_FIELDS, "a joint")
    lines.check_numbers(fields)
    coordinates = [float(field) for field in fields[:3]]
    for field, value in zip(fields, coordinates, strict=False):
        if not abs(value) <= text_files.LARGEST:  # `not <=` also refuses NaN
            raise lines.error(f"coordinate '{shown(field)}' is not finite")
    return coordinates
