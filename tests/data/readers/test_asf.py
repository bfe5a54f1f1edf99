"""ASF/AMC: files written to the format's definition, kinematics against a scalar model, and every kind of damage."""

from __future__ import annotations

import itertools
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers import asf
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, cut, edit, put, swap

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Bone:
    """One bone of a skeleton to write; `axis` in degrees, `direction` of length 1."""

    parent: str
    direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    length: float = 1.0
    axis: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dof: str = "rx ry rz"


@dataclass
class Body:
    """A skeleton and a motion, written as the definition (M. Schafer, 1995) lays them out."""

    bones: dict[str, Bone]
    frames: list[dict[str, list[float]]] = field(default_factory=list)
    order: str = "TX TY TZ RX RY RZ"
    radians: bool = False

    def asf(self) -> str:
        turn = math.radians if self.radians else float
        text = "# made for a test\n:version 1.10\n:name test\n:units\n  mass 1.0\n  length 0.45\n"
        text += f"  angle {'rad' if self.radians else 'deg'}\n:documentation\n  any words, even root and begin\n"
        text += f":root\n  order {self.order}\n  axis XYZ\n  position 0 0 0\n  orientation 0 0 0\n:bonedata\n"
        for number, (name, bone) in enumerate(self.bones.items(), 1):
            text += f"  begin\n    id {number}\n    name {name}\n    direction {' '.join(map(repr, bone.direction))}\n"
            text += f"    length {bone.length!r}\n    axis {' '.join(repr(turn(a)) for a in bone.axis)} XYZ\n"
            if bone.dof:
                limits = "\n           ".join("(-180.0, 180.0)" for _ in bone.dof.split())
                text += f"    dof {bone.dof}\n    limits {limits}\n"
            text += "  end\n"
        text += ":hierarchy\n  begin\n"
        for parent in ("root", *self.bones):
            children = [name for name, bone in self.bones.items() if bone.parent == parent]
            if children:
                text += f"    {parent} {' '.join(children)}\n"
        return text + "  end\n"

    def amc(self) -> str:
        text = "#!OML:ASF test.ASF\n:FULLY-SPECIFIED\n" + (":RADIANS\n" if self.radians else ":DEGREES\n")
        for number, frame in enumerate(self.frames, 1):
            text += f"{number}\n" + "".join(f"{name} {' '.join(map(repr, v))}\n" for name, v in frame.items())
        return text

    def write(self, folder: Path) -> tuple[Path, Path]:
        skeleton, motion = folder / "01.asf", folder / "01_01.amc"
        skeleton.write_text(self.asf())
        motion.write_text(self.amc())
        return skeleton, motion


def read(folder: Path) -> tuple[asf.Hierarchy, np.ndarray]:
    skeleton = asf.read_skeleton(folder / "01.asf")
    return skeleton, asf.positions(skeleton, asf.read_motion(folder / "01_01.amc", skeleton))


def place(body: Body, folder: Path) -> dict[str, np.ndarray]:
    """Positions [T, 3] by joint as the reader gives them."""
    body.write(folder)
    skeleton, frames = read(folder)
    return {name: frames[:, joint] for joint, name in enumerate(skeleton.names)}


ARM = {"upper": Bone("root", (1.0, 0.0, 0.0), 2.0), "lower": Bone("upper", (0.0, 1.0, 0.0), 3.0, dof="rz")}
STILL = {"root": [0.0] * 6, "upper": [0.0] * 3, "lower": [0.0]}


def test_with_all_angles_zero_the_bones_lie_as_drawn(tmp_path: Path) -> None:
    joints = place(Body(ARM, [{**STILL, "root": [10.0, 20.0, 30.0, 0.0, 0.0, 0.0]}]), tmp_path)
    np.testing.assert_allclose(joints["root"], [[10, 20, 30]])
    np.testing.assert_allclose(joints["upper"], [[12, 20, 30]])
    np.testing.assert_allclose(joints["lower"], [[12, 23, 30]])


def test_a_bone_turns_with_its_parent_and_by_itself(tmp_path: Path) -> None:
    joints = place(Body(ARM, [{**STILL, "upper": [0.0, 0.0, 90.0], "lower": [90.0]}]), tmp_path)
    np.testing.assert_allclose(joints["upper"], [[0, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(joints["lower"], [[0, -1, 0]], atol=1e-6)


def test_the_axes_stand_still_while_the_angles_of_dof_are_applied_in_order(tmp_path: Path) -> None:
    """A bone along y, by 90 degrees about x (to z), then by 90 about y (to x)."""
    bones = {"upper": Bone("root", (0.0, 1.0, 0.0), 2.0)}
    joints = place(Body(bones, [{"root": [0.0] * 6, "upper": [90.0, 90.0, 0.0]}]), tmp_path)
    np.testing.assert_allclose(joints["upper"], [[2, 0, 0]], atol=1e-6)


def test_the_angles_are_about_the_bones_own_axes(tmp_path: Path) -> None:
    """Its x axis, turned by 90 degrees about z, is y: a turn about it takes z to x."""
    bones = {"upper": Bone("root", (0.0, 0.0, 1.0), 2.0, axis=(0.0, 0.0, 90.0), dof="rx")}
    joints = place(Body(bones, [{"root": [0.0] * 6, "upper": [90.0]}]), tmp_path)
    np.testing.assert_allclose(joints["upper"], [[2, 0, 0]], atol=1e-6)


def test_the_root_takes_its_channels_in_the_order_it_says(tmp_path: Path) -> None:
    bones = {"upper": Bone("root", (0.0, 1.0, 0.0), 2.0)}
    frame = {"root": [90.0, 1.0, 0.0, 2.0, 90.0, 3.0], "upper": [0.0] * 3}
    joints = place(Body(bones, [frame], order="RX TX RZ TY RY TZ"), tmp_path)
    np.testing.assert_allclose(joints["root"], [[1, 2, 3]], atol=1e-6)
    np.testing.assert_allclose(joints["upper"], [[3, 2, 3]], atol=1e-6)  # y to z, z stays, z to x


def turn(axis: int, degrees: float) -> np.ndarray:
    """A rotation, entry by entry."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array(
        [[[1, 0, 0], [0, c, -s], [0, s, c]], [[c, 0, s], [0, 1, 0], [-s, 0, c]], [[c, -s, 0], [s, c, 0], [0, 0, 1]]][
            axis
        ]
    )


def scalar_model(body: Body) -> dict[str, np.ndarray]:
    """One frame and one bone at a time, the equations of the definition written out."""
    result: dict[str, list[np.ndarray]] = {name: [] for name in ("root", *body.bones)}
    for frame in body.frames:
        values = dict(zip(body.order.split(), frame["root"], strict=True))
        rotation = {"root": turn(2, values["RZ"]) @ turn(1, values["RY"]) @ turn(0, values["RX"])}
        position = {"root": np.array([values["TX"], values["TY"], values["TZ"]])}
        for name, bone in body.bones.items():
            own = turn(2, bone.axis[2]) @ turn(1, bone.axis[1]) @ turn(0, bone.axis[0])
            motion = np.eye(3)
            for kind, value in zip(bone.dof.split(), frame.get(name, []), strict=True):
                motion = turn("xyz".index(kind[1]), value) @ motion
            rotation[name] = rotation[bone.parent] @ own @ motion @ np.linalg.inv(own)
            position[name] = position[bone.parent] + rotation[name] @ np.array(bone.direction) * bone.length
        for name, point in position.items():
            result[name].append(point)
    return {name: np.array(points) for name, points in result.items()}


ANGLES = st.floats(-180, 180).map(lambda value: round(value, 4))


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    bones: dict[str, Bone] = {}
    for number in range(draw(st.integers(1, 6))):
        raw = np.array(draw(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(1, 3))))
        direction = tuple((raw / np.linalg.norm(raw)).tolist())
        parent = draw(st.sampled_from(["root", *bones]))
        dof = draw(st.sampled_from(["", "rx", "rz", "ry rz", "rx rz", "rx ry rz", "rz rx"]))
        axis = draw(st.tuples(ANGLES, ANGLES, ANGLES))
        bones[f"b{number}"] = Bone(parent, direction, draw(st.sampled_from([0.5, 1.0, 7.25])), axis, dof)
    counts = {"root": 6, **{name: len(bone.dof.split()) for name, bone in bones.items() if bone.dof}}
    frames = [
        {name: draw(st.lists(ANGLES, min_size=count, max_size=count)) for name, count in counts.items()}
        for _ in range(draw(st.integers(1, 4)))
    ]
    return Body(bones, frames)


@given(body=bodies())
@settings(max_examples=40)
def test_kinematics_of_any_skeleton_are_the_definitions(tmp_path_factory: pytest.TempPathFactory, body: Body) -> None:
    joints = place(body, tmp_path_factory.getbasetemp())
    for name, expected in scalar_model(body).items():
        np.testing.assert_allclose(joints[name], expected, rtol=1e-5, atol=2e-5)


def test_joints_come_depth_first_children_in_the_hierarchys_order(tmp_path: Path) -> None:
    bones = {"c": Bone("a"), "a": Bone("root"), "b": Bone("root"), "d": Bone("c"), "e": Bone("a")}
    Body(bones).write(tmp_path)
    skeleton = asf.read_skeleton(tmp_path / "01.asf")
    assert skeleton.names == ("root", "a", "c", "d", "e", "b")
    assert skeleton.parents == (-1, 0, 1, 2, 1, 0)


def test_radians_are_read_as_such(tmp_path: Path) -> None:
    bones = {"upper": Bone("root", (0.0, 0.0, 1.0), 2.0, axis=(0.0, 0.0, 90.0), dof="rx")}
    joints = place(Body(bones, [{"root": [0.0] * 6, "upper": [math.pi / 2]}], radians=True), tmp_path)
    np.testing.assert_allclose(joints["upper"], [[2, 0, 0]], atol=1e-6)


def test_a_root_at_the_origin_is_present(tmp_path: Path) -> None:
    joints = place(Body(ARM, [STILL]), tmp_path)
    assert joints["root"].any()
    assert np.abs(joints["root"]).max() < 1e-5


ASF, AMC = "01.asf", "01_01.amc"

DAMAGE = {
    "empty skeleton": (put(ASF, b""), "01.asf, line 1", "empty"),
    "empty motion": (put(AMC, b"\n \n"), "01_01.amc, line 1", "empty"),
    "binary": (put(ASF, b"\x00\x01\xff\xfe"), "01.asf, line 1", "not UTF-8"),
    "Latin-1": (put(ASF, ":units é\n".encode("latin1")), "01.asf, line 1", "not UTF-8"),
    "UTF-16": (put(ASF, "\ufeff:units\n".encode("utf-16")), "01.asf, line 1", "not UTF-8"),
    "another text file": (put(ASF, b"hello\n"), "01.asf, line 1", "no keyword"),
    "skeleton cut short": (cut(ASF, 300), "01.asf", "cut short"),
    "keyword": (edit(ASF, ":hierarchy", ":hierarchi"), "01.asf, line 36", "':hierarchi' is unknown"),
    "doubled": (edit(ASF, ":root", ":name"), "01.asf, line 10", "':name' is unknown or occurs twice"),
    "unit": (edit(ASF, "angle deg", "angle grad"), "01.asf, line 7", "'grad' is not deg or rad"),
    "unit of length": (edit(ASF, "length 0.45", "length -1"), "01.asf, line 6", "not positive"),
    "no unit": (edit(ASF, "  mass 1.0\n  length 0.45", ""), "01.asf, line 6", "field 'length' is missing"),
    "root order": (edit(ASF, "TX TY TZ", "TX TX TZ"), "01.asf, line 11", "must name some"),
    "position": (edit(ASF, "position 0 0 0", "position 0 0"), "01.asf, line 13", "2 numbers, not 3"),
    "orientation": (edit(ASF, "orientation 0 0 0", ""), "01.asf, line 11", "field 'orientation' is missing"),
    "root axis": (edit(ASF, "axis XYZ", "axis XYY"), "01.asf, line 14", "three angles and their order"),
    "direction": (edit(ASF, "direction 1.0", "direction 1.1"), "01.asf, line 19", "has length 1.1"),
    "NaN": (edit(ASF, "direction 1.0", "direction nan"), "01.asf, line 19", "'nan' is not a finite"),
    "letter": (edit(ASF, "length 2.0", "length 2.O"), "01.asf, line 20", "'2.O' is not a finite number"),
    "short": (edit(ASF, "direction 1.0", "direction 0.97"), "01.asf, line 19", "has length 0.97, not 1"),
    "negative length": (edit(ASF, "length 2.0", "length -2"), "01.asf, line 20", "negative"),
    "tx": (edit(ASF, "dof rx ry rz", "dof tx ry rz"), "01.asf, line 22", "move or stretch are not read"),
    "field": (edit(ASF, "    length 2.0\n", "    length 2.0\n    color 1 0 0\n"), ASF, "'color' is unknown"),
    "section": (edit(ASF, ":hierarchy", ":markers\n x 1\n:hierarchy"), ASF, "':markers' is unknown"),
    "no end of all": (cut(ASF, -7), "01.asf, line 39", "the hierarchy ends before its end: the file is cut"),
    "no root order": (edit(ASF, "TX TY TZ RX RY RZ", ""), "01.asf, line 11", "must name some of TX"),
    "dof twice": (edit(ASF, "dof rx ry rz", "dof rx rx rz"), "01.asf, line 22", "once each"),
    "dof l": (edit(ASF, "dof rx ry rz", "dof rx l rz"), "01.asf, line 22", "must be some of rx ry rz"),
    "limits": (edit(ASF, "dof rx ry rz", "dof rx ry"), "01.asf, line 23", "2 pairs"),
    "bone twice": (edit(ASF, "name lower", "name upper"), "01.asf, line 27", "occurs twice"),
    "no id": (edit(ASF, "    id 2\n", ""), "01.asf, line 28", "field 'id' is missing"),
    "no end": (edit(ASF, "  end\n  begin", "  begin"), "01.asf, line 26", "do not alternate"),
    "loose bone": (edit(ASF, "upper lower", "upper"), "01.asf", "lower is not connected to the root"),
    "two parents": (edit(ASF, "upper lower", "upper upper"), "01.asf, line 39", "two parents"),
    "unknown": (edit(ASF, "upper lower", "upper hand"), "01.asf, line 39", "'hand' is not in :bonedata"),
    "no angle unit": (edit(AMC, ":DEGREES\n", ""), "01_01.amc, line 1", "first frame, found neither"),
    "two units": (edit(AMC, ":DEG", ":RADIANS\n:DEG"), "01_01.amc, line 1", "first frame, found both"),
    "not specified": (edit(AMC, ":FULLY-SPECIFIED\n", ""), AMC, "no line :FULLY-SPECIFIED before the"),
    "force": (edit(AMC, ":DEG", ":FORCE 1\n:DEG"), "01_01.amc, line 3", "keyword ':FORCE 1' is unknown"),
    "late unit": (edit(AMC, "\n2\n", "\n:DEGREES\n2\n"), "01_01.amc, line 8", "':DEGREES' is not a bone"),
    "twice": (edit(AMC, "lower 0.0\n2", "lower 0.0\nlower 0.0\n2"), "01_01.amc, line 8", "'lower' occurs twice"),
    "CR": (edit(AMC, "lower 0.0\n2", "lower \r0.0\n2"), "01_01.amc, line 7", "a carriage return inside"),
    "no number": (edit(AMC, "1\nroot", "one\nroot"), "01_01.amc, line 4", "a frame's number"),
    "frame skipped": (edit(AMC, "\n2\n", "\n3\n"), "01_01.amc, line 8", "frame 2 should start here"),
    "frame of two": (edit(AMC, "2\nroot", "2 1\nroot"), "01_01.amc, line 8", "a frame's number is"),
    "bone of none": (edit(AMC, "upper 0.0", "uper 0.0"), "01_01.amc, line 6", "'uper' is not a bone of the"),
    "bone missing first": (edit(AMC, "lower 0.0\n2", "2"), "01_01.amc, line 7", "lower of frame 1 is"),
    "bone missing": (edit(AMC, "lower 0.0\n3", "3"), "01_01.amc, line 11", "lower of frame 2 is"),
    "one more": (edit(AMC, "lower 0.0\n2", "lower 0.0 1\n2"), "01_01.amc, line 7", "2 numbers, not 1"),
    "bone of no number": (edit(AMC, "lower 0.0\n2", "lower\n2"), "01_01.amc, line 7", "0 numbers, not 1"),
    "hexadecimal": (edit(AMC, "lower 0.0\n2", "lower 0x1\n2"), "01_01.amc, line 7", "'0x1' is not a"),
    "underscore": (edit(AMC, "lower 0.0\n2", "lower 1_0\n2"), "01_01.amc, line 7", "'1_0' is not a"),
    "too large": (edit(AMC, "lower 0.0\n2", "lower 1e99\n2"), "01_01.amc, line 7", "'1e99' is not a"),
    "infinity": (edit(AMC, "lower 0.0\n2", "lower inf\n2"), "01_01.amc, line 7", "'inf' is not a"),
    "last number": (cut(AMC, -4), "01_01.amc, line 15", "stops in the middle of a line"),
    "cut in a line": (cut(AMC, -12), "01_01.amc, line 14", "stops in the middle"),
    "cut in a frame": (cut(AMC, -10), "01_01.amc, line 14", "ends before lower"),
}


def reorder(text: str) -> str:
    """The joints of the second frame in another order."""
    head, second, rest = re.split(r"(?m)(?=^[23]$)", text)
    number, *joints = second.splitlines(keepends=True)
    return "".join([head, number, *reversed(joints), rest])


DIALECTS = {
    "small keywords": (AMC, swap((":DEGREES", ":degrees"), (":FULLY-SPECIFIED", ":fully-specified"))),
    "frame numbers with zeros": (AMC, lambda text: re.sub(r"(?m)^(\d+)$", r"00\1", text)),
    "frames from 0": (AMC, lambda text: re.sub(r"(?m)^(\d+)$", lambda match: str(int(match[1]) - 1), text)),
    "frames from 130": (AMC, lambda text: re.sub(r"(?m)^(\d+)$", lambda match: str(int(match[1]) + 129), text)),
    "another order in a frame": (AMC, reorder),
    "a capital Root": (AMC, swap(("root ", "Root "))),
    "frames a second": (AMC, swap((":DEGREES", ":DEGREES\n:SAMPLES-PER-SECOND 120"))),
    "comments between frames": (AMC, swap(("\n2\n", "\n# the second\n2\n"))),
    "blank lines between frames": (AMC, swap(("\n2\n", "\n\n2\n\n"))),
    "tabs": (AMC, swap((" ", "\t"))),
    "exponents": (AMC, swap(("1.0", "1E+0"))),
    "old Mac": (AMC, swap(("\n", "\r"))),
    "Windows": (AMC, swap(("\n", "\r\n"))),
    "Windows' skeleton": (ASF, swap(("\n", "\r\n"))),
    "old Mac's skeleton": (ASF, swap(("\n", "\r"))),
    "a skeleton in tabs": (ASF, swap(("  ", "\t"))),
    "degrees in full": (ASF, swap(("angle deg", "angle degrees"))),
    "Degrees": (ASF, swap(("angle deg", "angle Deg"))),
    "keywords in capitals": (ASF, swap((":units", ":UNITS"), (":bonedata", ":BoneData"))),
    "fields in capitals": (
        ASF,
        swap(("direction", "Direction"), ("  axis", "  AXIS"), ("begin", "BEGIN"), (" end", " End")),
    ),
    "a capital Root in the hierarchy": (ASF, swap(("    root upper", "    Root upper"))),
    "a direction of three digits": (ASF, swap(("direction 1.0", "direction 0.999"))),
    "a direction a little too long": (ASF, swap(("direction 1.0", "direction 1.0011"))),
    "no limits": (ASF, lambda text: re.sub(r"( +limits)?[ ]+\(-180.0, 180.0\)\n|    limits", "", text)),
    "no line break at the end": (ASF, lambda text: text.rstrip()),
    "no notes": (ASF, swap((":documentation\n  any words, even root and begin\n", ""))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_dialects_are_the_same_motion(tmp_path: Path, dialect: str) -> None:
    Body(ARM, [{"root": [1.0] * 6, "upper": [1.0, 2.0, 3.0], "lower": [float(t)]} for t in range(3)]).write(tmp_path)
    expected = read(tmp_path)[1]
    name, change = DIALECTS[dialect]
    text = (tmp_path / name).read_text()
    changed = change(text)
    assert changed != text
    (tmp_path / name).write_bytes(changed.encode())
    np.testing.assert_allclose(read(tmp_path)[1], expected, rtol=1e-6)


def test_a_root_of_some_channels_stays_where_it_has_none(tmp_path: Path) -> None:
    bones = {"upper": Bone("root", (0.0, 1.0, 0.0), 2.0)}
    for order, frame, upper in (
        ("RZ", [90.0], [-2, 0, 0]),
        ("TY RZ", [5.0, 90.0], [-2, 5, 0]),
        ("TY", [5.0], [0, 7, 0]),
    ):
        joints = place(Body(bones, [{"root": frame, "upper": [0.0] * 3}], order=order), tmp_path)
        np.testing.assert_allclose(joints["upper"], [upper], atol=1e-6)


def test_a_last_row_that_is_whole_but_not_ended_is_read_with_a_warning(tmp_path: Path) -> None:
    Body(ARM, [STILL, STILL]).write(tmp_path)
    expected = read(tmp_path)[1]
    (tmp_path / AMC).write_text((tmp_path / AMC).read_text()[:-1])
    with pytest.warns(
        UserWarning, match=r"01_01\.amc is without a line break at the end: the last number may have lost"
    ):
        np.testing.assert_array_equal(read(tmp_path)[1], expected)


@pytest.mark.parametrize("count", [999, 1000])
def test_a_body_has_at_most_a_thousand_joints(tmp_path: Path, count: int) -> None:
    """A chain of 999 and the root; more are no body's."""
    names = ["root", *(f"b{number}" for number in range(count))]
    bones = "".join(f"begin\nid 1\nname {name}\ndirection 0 1 0\nlength 1\naxis 0 0 0 XYZ\nend\n" for name in names[1:])
    chain = "".join(f"{parent} {child}\n" for parent, child in itertools.pairwise(names))
    head = Body({}).asf().partition(":bonedata")[0]
    (tmp_path / ASF).write_text(f"{head}:bonedata\n{bones}:hierarchy\nbegin\n{chain}end\n")
    if count < 1000:
        assert asf.read_skeleton(tmp_path / ASF).parents == tuple(range(-1, count))
    else:
        with pytest.raises(CrrlError, match=r"01\.asf has more than 1000 joints: this is no body"):
            asf.read_skeleton(tmp_path / ASF)


def test_bones_that_do_not_move_cannot_be_many_in_many_frames(tmp_path: Path) -> None:
    """Each would take memory in every frame, and none of the file."""
    Body({f"b{number}": Bone("root", dof="") for number in range(900)}, [{"root": [0.0] * 6}] * 5000).write(tmp_path)
    with pytest.raises(
        CrrlError, match=r"01_01\.amc: 901 joints in 5000 frames are more than so small a file can move"
    ):
        read(tmp_path)


def test_limits_on_many_lines_take_no_time(tmp_path: Path) -> None:
    Body({"upper": Bone("root", dof="rx")}, [{"root": [0.0] * 6, "upper": [0.0]}]).write(tmp_path)
    edit(ASF, "(-180.0, 180.0)\n", "(-180.0, 180.0)\n" + "(0 1)\n" * 200_000)(tmp_path)
    start = time.process_time()
    with pytest.raises(CrrlError, match="limits are not 1 pairs, one for each dof"):
        asf.read_skeleton(tmp_path / ASF)
    assert time.process_time() - start < 10


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    """Three frames of two bones."""
    Body(ARM, [STILL, STILL, STILL]).write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("damage", "where", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_file_and_line(arm: Path, damage: Change, where: str, problem: str) -> None:
    damage(arm)
    with pytest.raises(CrrlError) as caught:
        read(arm)
    assert re.fullmatch(rf".*{re.escape(str(arm / where))}\b.*{re.escape(problem)}.*", str(caught.value))


MOVING = Body(ARM, [{"root": [*map(float, range(6))], "upper": [1.0, 2.0, 3.0], "lower": [float(t)]} for t in range(5)])


@pytest.mark.parametrize("name", [ASF, AMC])
def test_a_lost_or_doubled_line_is_told_wherever_it_matters(tmp_path: Path, name: str) -> None:
    """Only comments, notes and fields that move nothing may go."""
    MOVING.write(tmp_path)
    lines = (tmp_path / name).read_text().splitlines(keepends=True)
    harmless = re.compile(r"#|:version|:name|:documentation|\s*(mass|limits|any|\(-180)|  begin\n|:FULLY")
    for place, line in enumerate(lines):
        for changed in (lines[:place] + lines[place + 1 :], [*lines[:place], line, *lines[place:]]):
            (tmp_path / name).write_text("".join(changed))
            try:
                frames = read(tmp_path)[1]
            except CrrlError:
                continue
            assert harmless.match(line) or line.startswith(":"), line
            (tmp_path / name).write_text("".join(lines))
            np.testing.assert_array_equal(frames, read(tmp_path)[1])


@pytest.mark.filterwarnings("error")
def test_a_truncated_motion_is_told_unless_whole_frames_are_gone(tmp_path: Path) -> None:
    MOVING.write(tmp_path)
    path = tmp_path / AMC
    content = path.read_bytes()
    whole = read(tmp_path)[1]
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        try:
            frames = read(tmp_path)[1]
        except (CrrlError, UserWarning):
            continue
        assert re.match(rb"\d\n", content[kept:])  # the file says nowhere how many frames there are
        np.testing.assert_array_equal(frames, whole[: len(frames)])
