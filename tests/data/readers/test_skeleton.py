"""The .skeleton parsers: what they read, every kind of damage by its line, C++ and Python held against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crrl.data.readers import skeleton
from crrl.data.readers.skeleton import SkeletonFile, parse_by_line
from crrl.ops import cpu

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

Parser = Callable[[bytes], SkeletonFile]
JOINT = "0.21 0.17 3.7 277.4 191.8 1036.2 519.1 -0.2 0.05 0.97 -0.13 2"


def both() -> list[Any]:
    absent = pytest.mark.skipif(cpu.missing is not None, reason=cpu.missing or "")
    return [pytest.param(skeleton.parse, id="C++", marks=absent), pytest.param(parse_by_line, id="Python")]


def one_body(joints: list[str], number: str = "7") -> list[str]:
    return [f"{number} 0 1 1 1 1 0 0.02 0.3 2", "25", *joints]


def outcome(parser: Parser, text: bytes) -> list[tuple[int, list[int], bytes]] | str:
    """All that a parser makes of a text: the number of frames and the bodies, or the message."""
    try:
        skeleton = parser(text)
        return [(skeleton.frames, [], b"")] + [(b.id, b.frames.tolist(), b.joints.tobytes()) for b in skeleton.bodies]
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("parse", both())
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r\r\n", " \t\r\n"])
def test_what_was_written_is_read(parse: Parser, ntu_files: Any, newline: str) -> None:
    people = {72057594037931101: ntu_files.person(0), 5: ntu_files.person(1)}
    seen = {72057594037931101: lambda t: t % 3 != 1, 5: lambda t: 4 <= t < 20}
    frames = ntu_files.frames(people, lambda number, t: seen[number](t))
    bodies = parse(ntu_files.text(frames, newline)).bodies
    assert [body.id for body in bodies] == [72057594037931101, 5]
    for body in bodies:
        person = people[body.id]
        times = [t for t in range(len(person)) if seen[body.id](t)]
        assert body.frames.tolist() == times
        assert (body.joints.dtype, body.frames.dtype) == (np.float32, np.int64)
        np.testing.assert_allclose(body.joints, person[times], rtol=1e-6)


@pytest.mark.parametrize("parse", both())
def test_nobody_at_all(parse: Parser) -> None:
    for text, frames in ((b"0\n", 0), (b"2\n0\n0", 2)):
        assert (parse(text).frames, parse(text).bodies) == (frames, [])


@pytest.mark.parametrize("parse", both())
def test_only_coordinates_must_be_finite(parse: Parser) -> None:
    unknown = JOINT.replace("1036.2 519.1", "-inf NaN")
    (body,) = parse("\n".join(["1", "1", *one_body([unknown] * 25)]).encode()).bodies
    np.testing.assert_array_equal(body.joints[0], np.tile(np.float32([0.21, 0.17, 3.7]), (25, 1)))


def damaged(change: Callable[[list[str]], object]) -> bytes:
    """Two frames of one body (lines 1, 2 to 29, 30 to 57) after a change."""
    lines = ["2", "1", *one_body([JOINT] * 25), "1", *one_body([JOINT] * 25)]
    change(lines)
    return "\n".join(lines).encode()


def put(line: int, text: str) -> Callable[[list[str]], object]:
    return lambda lines: lines.__setitem__(line - 1, text)


@pytest.mark.parametrize("parse", both())
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.clear(), "line 1: the file ends where the number of frames should stand"),
        (put(1, "two"), "line 1: expected the number of frames, found 'two'"),
        (put(1, "-1"), "line 1: expected the number of frames, found '-1'"),
        (put(1, "3"), "line 58: the file ends where the number of bodies should stand"),
        (put(1, "1"), "line 30: the 1 frames announced are over, but text follows"),
        (put(2, "1 1"), "line 2: expected the number of bodies, found '1 1'"),
        (put(2, "0"), f"line 3: expected the number of bodies, found '{one_body([])[0][:24]}'"),
        (put(2, "2"), "line 30: expected the 10 numbers of a body, found 1"),
        (put(3, "7 0 1 1 1 1 0 0.02 0.3"), "line 3: expected the 10 numbers of a body, found 9"),
        (put(3, "x 0 1 1 1 1 0 0.02 0.3 2"), "line 3: expected the number of a body, found 'x'"),
        (put(3, "7 0 1 1 1 1 0 0.02 O.3 2"), "line 3: 'O.3' is no number"),
        (put(4, "24"), "line 4: expected 25 joints, found 24"),
        (put(4, ""), "line 4: expected the number of joints, found ''"),
        (put(9, JOINT[:-2]), "line 9: expected the 12 numbers of a joint, found 11"),
        (put(9, JOINT + " 0"), "line 9: expected the 12 numbers of a joint, found 13"),
        (put(9, JOINT.replace("3.7", "3,7")), "line 9: '3,7' is no number"),
        (put(9, JOINT.replace("0.97", "0.9\x07" + "7" * 40)), "line 9: '0.9?" + "7" * 20 + "' is no number"),
        (put(9, JOINT.replace("-0.2", "\r0.2")), "line 9: '?0.2' is no number"),
        (put(9, f"\r{JOINT}"), "line 9: '?0.21' is no number"),
        (put(9, JOINT.replace(" 3.7", "\r3.7")), "line 9: expected the 12 numbers of a joint, found 11"),
        (put(9, JOINT.replace(" 3.7", " \x0b3.7")), "line 9: '?3.7' is no number"),
        (put(4, "\r25"), "line 4: expected the number of joints, found '?25'"),
        (put(9, JOINT.replace("3.7", "nan")), "line 9: coordinate 'nan' is not finite"),
        (put(9, JOINT.replace("3.7", "-1e39")), "line 9: coordinate '-1e39' is not finite"),
        (lambda lines: lines.insert(9, ""), "line 10: expected the 12 numbers of a joint, found 0"),
        (lambda lines: lines.pop(9), "line 29: expected the 12 numbers of a joint, found 1"),
        (lambda lines: lines.pop(), "line 57: the file ends where a joint should stand"),
        (lambda lines: lines.append(JOINT), "line 58: the 2 frames announced are over, but text follows"),
    ],
)
def test_damage_is_named_by_its_line(parse: Parser, change: Callable[[list[str]], object], message: str) -> None:
    assert outcome(parse, damaged(change)) == message


@pytest.mark.parametrize("parse", both())
def test_a_body_twice_in_a_frame_is_refused(parse: Parser) -> None:
    text = "\n".join(["1", "2", *one_body([JOINT] * 25), *one_body([JOINT] * 25)]).encode()
    assert outcome(parse, text) == "line 30: body 7 stands twice in one frame"


@pytest.mark.parametrize("parse", both())
def test_more_bodies_than_a_sensor_ever_numbered_are_refused(parse: Parser) -> None:
    """The time to find one among so many grows with their square."""
    frames = [line for number in range(1001) for line in ["1", *one_body([JOINT] * 25, str(number))]]
    assert outcome(parse, "\n".join(["1001", *frames]).encode()) == "line 28003: more than 1000 bodies"
    assert len(parse("\n".join(["1000", *frames[:-28]]).encode()).bodies) == 1000


needs_extension = pytest.mark.skipif(cpu.missing is not None, reason=cpu.missing or "")

DIGITS = st.text("0123456789", max_size=24)
NUMBERS = st.builds(
    lambda sign, whole, point, part, mark, power: sign + whole + point + part + mark + power,
    *(st.sampled_from(["", "-", "+"]), DIGITS, st.sampled_from(["", "."]), DIGITS, st.sampled_from(["", "e", "E"])),
    st.one_of(st.just(""), st.integers(-420, 420).map(str), st.sampled_from(["+5", "-", "9" * 30, "-" + "9" * 30])),
)
ANYTHING = st.one_of(NUMBERS, st.sampled_from(["nan", "-INF", "inf1", "0x1p3", "1_0", ".", "-", "infinity", "nan(1)"]))


@needs_extension
@settings(max_examples=400)
@given(token=ANYTHING, place=st.integers(0, 11))
def test_both_parsers_read_a_number_alike(token: str, place: int) -> None:
    fields = JOINT.split()
    fields[place] = token or "0"
    text = "\n".join(["1", "1", *one_body([" ".join(fields), *[JOINT] * 24])]).encode()
    assert outcome(skeleton.parse, text) == outcome(parse_by_line, text)


@needs_extension
@settings(max_examples=200)
@given(value=st.floats(width=64, allow_nan=False, allow_infinity=False), digits=st.integers(1, 22))
def test_numbers_are_rounded_as_python_rounds_them(value: float, digits: int) -> None:
    written = f"{value:.{digits}g}"
    text = "\n".join(["1", "1", *one_body([f"{written} {JOINT}".rsplit(" ", 1)[0], *[JOINT] * 24])]).encode()
    result = outcome(skeleton.parse, text)
    assert result == outcome(parse_by_line, text)
    if abs(float(written)) < 3e38:
        assert np.frombuffer(result[1][2], np.float32)[0] == np.float32(float(written))  # type: ignore[index]


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A cut, a change, an insertion or a deletion of bytes, tokens or lines, at a place given as a share of it."""
    unit = draw(st.sampled_from([None, b"\n", b" "]))
    kind = draw(st.sampled_from(["cut", "put", "insert", "delete", "swap"]))
    where, other = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    new = draw(st.sampled_from([b"", b"0", b"1", b"2", b"25", b"-", b"1e999", b"nan", b"\x00", b"\xff", b"\r", b"7.5"]))

    def damage(text: bytes) -> bytes:
        parts = ([text[i : i + 1] for i in range(len(text))] if unit is None else text.split(unit)) or [b""]
        at, to = (min(int(share * len(parts)), len(parts) - 1) for share in (where, other))
        if kind == "cut":
            del parts[at:]
        elif kind == "put":
            parts[at] = new
        elif kind == "insert":
            parts.insert(at, new)
        elif kind == "delete":
            del parts[at]
        else:
            parts[at], parts[to] = parts[to], parts[at]
        return (unit or b"").join(parts)

    return damage


@needs_extension
@settings(max_examples=400)
@given(changes=st.lists(damages(), min_size=1, max_size=2), newline=st.sampled_from(["\n", "\r\n"]))
def test_both_parsers_judge_damage_alike(ntu_files: Any, changes: list[Any], newline: str) -> None:
    people = {3: np.float32(np.arange(3 * 75).reshape(3, 25, 3) / 64 + 1), 8: np.ones((2, 25, 3), np.float32)}
    text = ntu_files.text(ntu_files.frames(people, lambda number, t: (number, t) != (3, 1)), newline)
    for change in changes:
        text = change(text)
    result = outcome(skeleton.parse, text)
    assert result == outcome(parse_by_line, text)
    if not isinstance(result, str):
        assert all(np.isfinite(np.frombuffer(joints, np.float32)).all() for _, _, joints in result[1:])


@needs_extension
@settings(max_examples=200)
@given(text=st.binary(max_size=60))
def test_both_parsers_judge_any_bytes_alike(text: bytes) -> None:
    assert outcome(skeleton.parse, text) == outcome(parse_by_line, text)
