"""BVH: files written to the format's description, kinematics against a scalar model, and every kind of damage."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from crrl.data import bvh
from crrl.data.parallel import use_workers
from crrl.errors import CrrlError

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

TURNS = "Zrotation Xrotation Yrotation"
MOVES = "Xposition Yposition Zposition"


@dataclass
class Node:
    """A joint to write, with what hangs on it; `tip` is the offset of an End Site."""

    name: str
    offset: tuple[float, float, float]
    channels: str = TURNS
    children: list[Node] = field(default_factory=list)
    tip: tuple[float, float, float] | None = None

    def text(self, depth: int = 0) -> str:
        pad = "\t" * depth
        text = f"{pad}{'JOINT' if depth else 'ROOT'} {self.name}\n{pad}{{\n{pad}\tOFFSET {numbers(self.offset)}\n"
        text += f"{pad}\tCHANNELS {len(self.channels.split())} {self.channels}\n"
        text += "".join(child.text(depth + 1) for child in self.children)
        if self.tip:
            text += f"{pad}\tEnd Site\n{pad}\t{{\n{pad}\t\tOFFSET {numbers(self.tip)}\n{pad}\t}}\n"
        return text + f"{pad}}}\n"

    def nodes(self) -> list[Node]:
        return [self, *(node for child in self.children for node in child.nodes())]


def numbers(values: object) -> str:
    return " ".join(map(repr, values))  # type: ignore[call-overload]


def write(path: Path, root: Node, frames: list[list[float]]) -> Path:
    rows = "".join(f"{numbers(frame)}\n" for frame in frames)
    path.write_text(f"HIERARCHY\n{root.text()}MOTION\nFrames: {len(frames)}\nFrame Time: 0.033333\n{rows}")
    return path


def place(path: Path) -> dict[str, np.ndarray]:
    """Positions [T, 3] by joint as the reader gives them."""
    skeleton, motion = bvh.read_file(path)
    frames = bvh.positions(skeleton, motion)
    return {name: frames[:, joint] for joint, name in enumerate(skeleton.names)}


def arm() -> Node:
    hand = Node("hand", (0.0, 3.0, 0.0), "Zrotation", tip=(0.0, 1.0, 0.0))
    return Node("hips", (0.0, 0.0, 0.0), f"{MOVES} {TURNS}", [Node("arm", (2.0, 0.0, 0.0), TURNS, [hand])])


STILL = [0.0] * 10


def test_with_all_angles_zero_the_joints_lie_by_their_offsets(tmp_path: Path) -> None:
    joints = place(write(tmp_path / "a.bvh", arm(), [[10.0, 20.0, 30.0, *STILL[3:]]]))
    assert list(joints) == ["hips", "arm", "hand", "hand_end"]
    np.testing.assert_allclose(
        np.concatenate(list(joints.values())), [[10, 20, 30], [12, 20, 30], [12, 23, 30], [12, 24, 30]]
    )


def test_a_joint_turns_what_hangs_on_it(tmp_path: Path) -> None:
    joints = place(write(tmp_path / "a.bvh", arm(), [[*STILL[:6], 90.0, 0.0, 0.0, 90.0]]))
    np.testing.assert_allclose(joints["arm"], [[2, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(joints["hand"], [[-1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(joints["hand_end"], [[-1, -1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "tip"),
    [("Xrotation Yrotation", (0.0, 0.0, 1.0)), ("Yrotation Xrotation", (1.0, 0.0, 0.0))],
)
def test_channels_turn_in_their_order_about_axes_that_turn_along(
    tmp_path: Path, channels: str, tip: tuple[float, float, float]
) -> None:
    """By 90 degrees each, of a tip along y. X then Y: the last named acts first; y stays, and goes to z."""
    root = Node("hips", (0.0, 0.0, 0.0), channels, tip=(0.0, 1.0, 0.0))
    joints = place(write(tmp_path / "a.bvh", root, [[90.0, 90.0]]))
    np.testing.assert_allclose(joints["hips_end"], [tip], atol=1e-5)


def test_positions_add_to_the_roots_offset_and_replace_those_of_other_joints(tmp_path: Path) -> None:
    root = Node("hips", (1.0, 2.0, 3.0), MOVES, [Node("arm", (5.0, 6.0, 7.0), "Yposition", tip=(0.0, 0.0, 1.0))])
    joints = place(write(tmp_path / "a.bvh", root, [[10.0, 20.0, 30.0, 8.0]]))
    np.testing.assert_allclose(joints["hips"], [[11, 22, 33]])
    np.testing.assert_allclose(joints["arm"], [[16, 30, 40]])


def turn(axis: str, degrees: float) -> np.ndarray:
    """A rotation by Rodrigues' formula."""
    x, y, z = np.eye(3)["xyz".index(axis)]
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def scalar_model(root: Node, frame: list[float]) -> list[np.ndarray]:
    """4 x 4 matrices down the tree, one joint at a time, as the description has it."""
    values = iter(frame)
    found: list[np.ndarray] = []

    def visit(node: Node, above: np.ndarray) -> None:
        local = np.eye(4)
        local[:3, 3] = node.offset
        for channel in node.channels.split():
            value, axis = next(values), "xyz".index(channel[0].lower())
            if channel.endswith("position"):
                local[axis, 3] = value + (node.offset[axis] if node is root else 0)
            else:
                local[:3, :3] = local[:3, :3] @ turn(channel[0].lower(), value)
        matrix = above @ local
        found.append(matrix[:3, 3])
        for child in node.children:
            visit(child, matrix)
        if node.tip:
            found.append((matrix @ np.array([*node.tip, 1.0]))[:3])

    visit(root, np.eye(4))
    return found


OFFSETS = st.tuples(*([st.sampled_from([-1.5, 0.25, 1.0, 3.0])] * 3))
CHANNELS = st.lists(st.sampled_from([*MOVES.split(), *TURNS.split()]), unique=True, max_size=6).map(" ".join)
TREES = st.recursive(
    st.builds(Node, st.just("leaf"), OFFSETS, CHANNELS, st.just([]), OFFSETS),
    lambda below: st.builds(Node, st.just("joint"), OFFSETS, CHANNELS, st.lists(below, min_size=1, max_size=2)),
    max_leaves=4,
)


@given(root=TREES, data=st.data())
@settings(max_examples=40)
def test_kinematics_of_any_hierarchy_are_the_descriptions(
    tmp_path_factory: pytest.TempPathFactory, root: Node, data: st.DataObject
) -> None:
    root.channels = root.channels or "Xrotation"
    count = sum(len(node.channels.split()) for node in root.nodes())
    value = st.floats(-180, 180).map(lambda number: round(number, 3))
    frames = data.draw(st.lists(st.lists(value, min_size=count, max_size=count), min_size=1, max_size=3))
    path = write(tmp_path_factory.getbasetemp() / "any.bvh", root, frames)
    found = bvh.positions(*bvh.read_file(path))
    np.testing.assert_allclose(found, [scalar_model(root, frame) for frame in frames], rtol=1e-4, atol=1e-3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six clips of three frames, two classes, one joint lifted further from clip to clip."""
    for number in range(6):
        write(tmp_path / f"{number}.bvh", arm(), [[float(number), *STILL[1:]]] * 3)
    rows = [
        f"{number}.bvh,{'walk' if number % 2 else 'run'},{'test' if number > 3 else 'train'}" for number in range(6)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")
    return tmp_path


def test_clips_are_labelled_and_split_by_labels_csv(root: Path) -> None:
    clips = bvh.load(bvh.find_files(root))
    assert clips.names == tuple(f"{number}.bvh" for number in range(6))
    assert [clips.class_names[label] for label in clips.labels] == ["run", "walk"] * 3
    assert clips.split("default").test["all"].tolist() == [4, 5]
    assert clips.frames.shape == (18, 4, 3)
    assert clips.clip(5)[0, 0, 0] == 5


def test_another_skeleton_than_the_first_is_refused(root: Path) -> None:
    other = arm()
    other.children[0].name = "leg"
    write(root / "3.bvh", other, [STILL])
    with pytest.raises(CrrlError, match=r"3\.bvh has another skeleton than .*0\.bvh"):
        bvh.load(bvh.find_files(root))


def test_workers_read_the_same_as_one_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        write(tmp_path / f"{number}.bvh", arm(), rng.uniform(-90, 90, (1 + number % 3, 10)).round(4).tolist())
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{number}.bvh,walk\n" for number in range(20)))
    with use_workers(1):
        one = bvh.load(bvh.find_files(tmp_path))
    with use_workers(2):
        two = bvh.load(bvh.find_files(tmp_path))
        np.testing.assert_array_equal(two.frames, one.frames)
        assert (two.names, two.offsets.tolist()) == (one.names, one.offsets.tolist())
        other = arm()
        other.children[0].name = "leg"
        write(tmp_path / "17.bvh", other, [STILL])
        with pytest.raises(CrrlError, match=r"17\.bvh has another skeleton than .*/0\.bvh"):
            bvh.load(bvh.find_files(tmp_path))


def edit(old: str, new: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(kept: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:kept])


@pytest.mark.parametrize(
    ("damage", "line", "problem"),
    [
        pytest.param(put(b""), 1, "empty", id="empty"),
        pytest.param(put(b"\xff\xfe\x00"), 1, "not UTF-8", id="binary"),
        pytest.param(put(b"HIERARCHY\n"), 1, "no HIERARCHY followed by a MOTION", id="first line alone"),
        pytest.param(edit("HIERARCHY", "HIERACHY"), 28, "no HIERARCHY followed", id="first line"),
        pytest.param(edit("MOTION", "MOTIONS"), 28, "no HIERARCHY followed by a MOTION", id="no motion"),
        pytest.param(edit("ROOT hips", "JOINT hips"), 2, "'JOINT' does not belong here", id="no root"),
        pytest.param(edit("JOINT hand", "ROOT hand"), 10, "'ROOT' does not belong here", id="two roots"),
        pytest.param(edit("\tOFFSET 2.0", "\tOFFST 2.0"), 8, "OFFSET should stand here, not 'OFFST'", id="offset"),
        pytest.param(edit("OFFSET 2.0 0.0", "OFFSET 2.0"), 9, "'CHANNELS' is no finite number", id="offset of two"),
        pytest.param(edit("OFFSET 2.0", "OFFSET nan"), 8, "'nan' is no finite number", id="NaN offset"),
        pytest.param(edit("CHANNELS 3 Z", "CHANNELS 2 Z"), 9, "'Yrotation' does not belong here", id="channel count"),
        pytest.param(edit("CHANNELS 3 Z", "CHANNELS 7 Z"), 9, "'7' channels, not 0 to 6", id="too many channels"),
        pytest.param(edit("CHANNELS 3 Zro", "CHANNELS 3 Zrto"), 9, "unknown or there twice", id="channel name"),
        pytest.param(edit("CHANNELS 3 Z", "CHANNELS 3 X"), 9, "unknown or there twice", id="channel twice"),
        pytest.param(edit("End Site", "End Sit"), 14, "Site should stand here", id="end site"),
        pytest.param(edit("\t\t\t}\n", ""), 19, "before its last brace", id="brace missing"),
        pytest.param(edit("}\nMOTION", "}\n}\nMOTION"), 21, "'}' does not belong here", id="brace too many"),
        pytest.param(edit("Frames: 5", "Frames: 4"), 22, "4 frames, but 5 follow", id="frames"),
        pytest.param(edit("Frames: 5", "Frame: 5"), 22, "Frames: should stand here", id="no frames"),
        pytest.param(edit("Frames: 5", "Frames: five"), 22, "'five' is no finite number", id="frames in words"),
        pytest.param(edit("Time: 0.03", "Time: -0.03"), 23, "the frame time is not positive", id="time"),
        pytest.param(edit("\n3.0 0.0", "\n3.0"), 27, "9 numbers, not 10", id="a number too few"),
        pytest.param(edit("\n3.0 0.0", "\n3.0 0.0 0.0"), 27, "11 numbers, not 10", id="a number too many"),
        pytest.param(edit("\n3.0 0.0", "\n3.0 0,0"), 27, "'0,0' is no finite number", id="comma"),
        pytest.param(edit("\n3.0 0.0", "\n3.0 inf"), 27, "'inf' is no finite number", id="infinity"),
        pytest.param(cut(-1), 28, "stops in the middle of a line", id="last line break"),
    ],
)
def test_damage_is_one_line_with_file_and_line(
    tmp_path: Path, damage: Callable[[Path], object], line: int, problem: str
) -> None:
    path = write(tmp_path / "a.bvh", arm(), [[float(t), *STILL[1:]] for t in range(5)])
    damage(path)
    with pytest.raises(CrrlError) as caught:
        bvh.read_file(path)
    assert re.fullmatch(rf"{re.escape(f'{path}, line {line}: ')}.*{re.escape(problem)}.*restore .*", str(caught.value))


def test_a_truncated_file_is_told_wherever_it_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bvh", arm(), [STILL] * 2)
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(CrrlError):
            bvh.read_file(path)


def test_a_lost_or_doubled_line_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bvh", arm(), [STILL] * 2)
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        for changed in (lines[:number] + lines[number + 1 :], [*lines[:number], line, *lines[number:]]):
            path.write_text("".join(changed))
            with pytest.raises(CrrlError):
                bvh.read_file(path)


@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_byte_gives_an_array_or_the_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "damaged.bvh", arm(), [[float(t), *STILL[1:]] for t in range(3)])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(CrrlError):
        skeleton, motion = bvh.read_file(path)
        frames = bvh.positions(skeleton, motion)
        assert frames.shape == (3, 4, 3)
        assert np.isfinite(frames).all()
