"""BVH: files written to the format's description, kinematics against a scalar model, and every kind of damage."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from crrl.data import Preprocessing, prepare
from crrl.data.clips import Tree
from crrl.data.packing import prepare_folder
from crrl.data.readers import bvh, kinematics
from crrl.data.skeletons import skeleton_of
from crrl.data.sources import load_raw
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, cut, edit, put, swap

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


def test_the_tree_is_kept_with_clips_that_are_prepared(root: Path, tmp_path: Path) -> None:
    """By crrl prepare, and in the cache: by it bones are drawn."""
    raw = bvh.load(bvh.find_files(root))
    assert raw.tree == Tree(("hips", "arm", "hand", "hand_end"), (-1, 0, 1, 2))
    prepare_folder("bvh", root, tmp_path / "whole", workers=1)
    assert load_raw("prepared", tmp_path / "whole").tree == raw.tree
    for _ in range(2):  # made, then opened
        cached = prepare("prepared", tmp_path / "whole", "default", Preprocessing()).clips
        assert cached.tree == raw.tree
        assert skeleton_of(cached.frames, cached.tree).bones


def test_without_a_list_all_files_are_prepared_and_have_no_label(root: Path, tmp_path: Path) -> None:
    (root / "labels.csv").unlink()
    said = prepare_folder("bvh", root, tmp_path / "whole", workers=1)
    assert said.startswith("bvh: 6 clips without labels\n")
    assert "default: train 6" in said.splitlines()
    cached = prepare("prepared", tmp_path / "whole", "default", Preprocessing()).clips
    assert (cached.class_names, set(cached.labels.tolist()), cached.split("default").test) == ((), {-1}, {})


def text_of(*frames: list[float]) -> str:
    """The arm's file, as `write` writes it."""
    rows = "".join(f"{numbers(frame)}\n" for frame in frames)
    return f"HIERARCHY\n{arm().text()}MOTION\nFrames: {len(frames)}\nFrame Time: 0.033333\n{rows}"


TURNED = [[float(t), *STILL[1:6], 10.0 * t, 0.0, 5.0, 90.0] for t in range(3)]


DIALECTS = {
    "names with spaces": swap(("JOINT ", "JOINT Bip01 L "), ("ROOT ", "ROOT Bip01 ")),
    "names with colons": swap(("JOINT ", "JOINT mixamorig:"), ("ROOT ", "ROOT mixamorig:")),
    "a joint called as a keyword": swap(("JOINT arm", "JOINT Offset End Site")),
    "names in quotes, with dots": swap(("JOINT arm", 'JOINT "Left.Arm_01"')),
    "names in other letters": swap(("JOINT arm", "JOINT 左腕")),
    "names on the next line": swap(("JOINT arm", "JOINT\n   arm")),
    "braces on the line of the name": swap(("arm\n\t{", "arm {"), ("hand\n\t\t{", "hand{")),
    "a hierarchy on few lines": lambda text: re.sub(r"\n\s*(?=[{}OC])(?!MOTION)", " ", text),
    "End site": swap(("End Site", "End site")),
    "END SITE": swap(("End Site", "END SITE")),
    "EndSite": swap(("End Site", "EndSite")),
    "End  Site, with tabs": swap(("End Site", "End\t Site\t")),
    "an End Site with CHANNELS 0": swap(("OFFSET 0.0 1.0 0.0\n", "OFFSET 0.0 1.0 0.0\n\t\t\t\tCHANNELS 0\n")),
    "CHANNELS before OFFSET": swap(
        ("OFFSET 2.0 0.0 0.0\n\t\tCHANNELS 3 " + TURNS, "CHANNELS 3 " + TURNS + "\n\t\tOFFSET 2.0 0.0 0.0")
    ),
    "Hierarchy": swap(("HIERARCHY", "Hierarchy")),
    "Motion": swap(("MOTION", "Motion")),
    "all in small letters": lambda text: text.lower(),
    "all in capitals": lambda text: text.upper(),
    "Joint, Offset, Channels": swap(("JOINT", "Joint"), ("OFFSET", "Offset"), ("CHANNELS", "Channels")),
    "channels in capitals": swap(("rotation", "ROTATION"), ("position", "Position")),
    "Frames :3": swap(("Frames: ", "Frames :")),
    "Frames:3": swap(("Frames: ", "Frames:")),
    "Frames 3": swap(("Frames:", "Frames")),
    "Frames:\t3": swap(("Frames: ", "Frames:\t")),
    "Frame time:": swap(("Frame Time", "Frame time")),
    "Frame  Time :": swap(("Frame Time:", "Frame  Time :")),
    "FrameTime:": swap(("Frame Time:", "FrameTime:")),
    "Frame\tTime:\t": swap(("Frame Time: ", "Frame\tTime:\t")),
    "Frame Time before Frames": swap(("Frames: 3\nFrame Time: 0.033333\n", "Frame Time: 0.033333\nFrames: 3\n")),
    "space at the ends of lines": swap(("\n", " \t\n")),
    "blank lines": swap(("\n", "\n\n")),
    "tabs between numbers": swap((" 0.0", "\t0.0")),
    "numbers with exponents": swap((" 90.0", " 9.0E+01")),
    "Windows": swap(("\n", "\r\n")),
    "old Mac": swap(("\n", "\r")),
    "doubled by a transfer": swap(("\n", "\r\r\n")),
    "a byte order mark": lambda text: f"\ufeff{text}",
    "the end of DOS": lambda text: f"{text}\x1a",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_dialects_are_the_same_motion(tmp_path: Path, dialect: str) -> None:
    text = text_of(*TURNED)
    (tmp_path / "plain.bvh").write_text(text)
    expected = bvh.positions(*bvh.read_file(tmp_path / "plain.bvh"))
    changed = DIALECTS[dialect](text)
    assert changed != text
    (tmp_path / "a.bvh").write_bytes(changed.encode())
    skeleton, motion = bvh.read_file(tmp_path / "a.bvh")
    assert skeleton.parents == [-1, 0, 1, 2]
    np.testing.assert_array_equal(bvh.positions(skeleton, motion), expected)


def test_a_name_is_the_rest_of_its_line(tmp_path: Path) -> None:
    changed = swap(("JOINT arm", "JOINT  Bip01 L  Arm \t"), ("End Site", "End Site  finger tip"))(text_of(STILL))
    (tmp_path / "a.bvh").write_text(changed)
    assert bvh.read_file(tmp_path / "a.bvh")[0].names == ["hips", "Bip01 L  Arm", "hand", "finger tip"]


def test_a_joint_without_channels_does_not_turn(tmp_path: Path) -> None:
    """And one whose channels say 0 is the same."""
    for line in ("", "\t\tCHANNELS 0\n"):
        text = text_of([*STILL[:6], 90.0])
        (tmp_path / "a.bvh").write_text(swap((f"\t\tCHANNELS 3 {TURNS}\n", line))(text))
        joints = place(tmp_path / "a.bvh")
        np.testing.assert_allclose(joints["hand"], [[2, 3, 0]], atol=1e-6)
        np.testing.assert_allclose(joints["hand_end"], [[1, 3, 0]], atol=1e-6)


def test_more_frames_than_are_announced_are_read_with_a_warning(tmp_path: Path) -> None:
    for said in (2, 0, 1):
        (tmp_path / "a.bvh").write_text(text_of(*TURNED).replace("Frames: 3", f"Frames: {said}"))
        with pytest.warns(
            UserWarning, match=r"a\.bvh is longer than its line Frames: says; all of its frames are read"
        ):
            assert len(bvh.read_file(tmp_path / "a.bvh")[1]) == 3


def test_a_last_row_that_is_whole_but_not_ended_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(text_of(*TURNED)[:-1])
    with pytest.warns(UserWarning, match=r"a\.bvh is without a line break at the end: the last number may have lost"):
        np.testing.assert_array_equal(bvh.read_file(tmp_path / "a.bvh")[1], TURNED)


def test_what_many_files_have_in_common_is_one_warning(root: Path, tmp_path: Path) -> None:
    for number in (1, 2, 5):
        path = root / f"{number}.bvh"
        path.write_text(path.read_text().replace("Frames: 3", "Frames: 2"))
    with pytest.warns(UserWarning, match=r"/1\.bvh and 2 more files are longer than") as caught:
        clips = bvh.load(bvh.find_files(root))
    assert (len(caught), clips.lengths.tolist()) == (1, [3] * 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_remarks_are_made_whoever_reads_and_kept_over_a_stop(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(20):
        (raw / f"{number}.bvh").write_text(text_of(*TURNED)[: -1 if number == 17 else None])
    (raw / "labels.csv").write_text("file,label\n" + "".join(f"{number}.bvh,walk\n" for number in range(20)))
    with monkeypatch.context() as patch:
        patch.setattr("crrl.data.packing.manifest_of", lambda *_: 1 / 0)
        with pytest.warns(UserWarning, match=r"17\.bvh is without a line break"), pytest.raises(ZeroDivisionError):
            prepare_folder("bvh", raw, tmp_path / "out", workers=workers)
    monkeypatch.setattr(bvh, "_read_clip", lambda *_: pytest.fail("reads again"))
    with pytest.warns(UserWarning, match=r"17\.bvh is without a line break"):
        prepare_folder("bvh", raw, tmp_path / "out", workers=workers)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["0.033333", "0.0333333", "0.033367"], ""),
        (["0.033333", "0.008333", "0.033333"], r"30 in 2 \(.*/0\.bvh, \.\.\.\), 120 in 1 \(.*/1\.bvh"),
        (["0.04", "0.041667", "0.033333"], r"24 in 1 \(.*/1\.bvh, \.\.\.\), 25 in 1 .*, 30 in 1 "),
    ],
)
def test_files_of_different_frame_times_are_told(tmp_path: Path, times: list[str], said: str) -> None:
    for number, time in enumerate(times):
        (tmp_path / f"{number}.bvh").write_text(text_of(*TURNED).replace("0.033333", time))
    rows = [f"{number}.bvh,walk,{'test' if number else 'train'}\n" for number in range(len(times))]
    (tmp_path / "labels.csv").write_text("".join(["file,label,split\n", *rows]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bvh.load(bvh.find_files(tmp_path))
    pattern = rf"files differ in frames a second, .*{said}.*: velocities \(Eq\. 2\) do not compare; resample them"
    assert [bool(re.search(pattern, str(warning.message))) for warning in caught] == ([True] if said else [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("JOINT ", "JOINT mixamorig:"), ("JOINT ", "JOINT mixamorig1:")),
        (("JOINT ", "JOINT mixamorig1_"), ("JOINT ", "JOINT mixamorig9_")),
        (("JOINT ", "JOINT "), ("JOINT ", "JOINT mixamorig:")),
        (("JOINT ", "JOINT Bip01 "), ("JOINT ", "JOINT Bip001 ")),
        (("JOINT ", "JOINT actor_1:rig:"), ("JOINT ", "JOINT actor_2:rig:")),
    ],
)
def test_what_a_program_puts_before_names_makes_no_other_skeleton(
    tmp_path: Path, one: tuple[str, str], other: tuple[str, str]
) -> None:
    for number, pair in enumerate((one, other)):
        (tmp_path / f"{number}.bvh").write_text(swap(pair)(text_of(STILL)))
    (tmp_path / "labels.csv").write_text("file,label,split\n0.bvh,a,train\n1.bvh,a,test\n")
    assert len(bvh.load(bvh.find_files(tmp_path))) == 2


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (("JOINT hand", "JOINT foot"), "joint 3 is 'foot', not 'hand'"),
        (("JOINT hand", "JOINT mixamorig:foot"), "joint 3 is 'mixamorig:foot', not 'hand'"),
        (
            (
                "\t\t\t\tOFFSET 0.0 1.0 0.0\n\t\t\t}\n\t\t}\n",
                "\t\t\t\tOFFSET 0.0 1.0 0.0\n\t\t\t}\n\t\t}\n\t\tEnd Site\n\t\t{\nOFFSET 1 1 1\n}\n",
            ),
            "5 joints, not 4: 'arm_end' is there in one of them alone",
        ),
    ],
)
def test_where_another_skeleton_differs_first_is_named(root: Path, change: tuple[str, str], difference: str) -> None:
    (root / "3.bvh").write_text(swap(change)(text_of(STILL)))
    with pytest.raises(
        CrrlError, match=rf"3\.bvh has another skeleton than .*0\.bvh, {re.escape(difference)}: one per"
    ):
        bvh.load(bvh.find_files(root))


def test_joints_that_hang_elsewhere_are_another_skeleton(root: Path) -> None:
    other = arm()
    other.children.append(Node("hand", (0.0, 3.0, 0.0), "Zrotation", tip=(0.0, 1.0, 0.0)))
    other.children[0].children, other.children[0].tip = [], None
    write(root / "3.bvh", other, [STILL])
    with pytest.raises(CrrlError, match="'hand' has the parent 'hips', not 'arm'"):
        bvh.load(bvh.find_files(root))


BOMBS = {
    "many tips": (4000, 300, "a", r"a\.bvh has more than 1000 joints: this is no body"),
    "tips in many frames": (900, 30_000, "a", r"901 joints in 30000 frames are more than so small a file can move"),
    "a long name": (900, 3, "a" * 10**6, r"line 2: the name of a joint has 1,000,000 characters, more than 255"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_takes_more_than_its_file_is_refused(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    tips, frames, joint, problem = BOMBS[name]
    hierarchy = (
        f"ROOT {joint}\n{{\nOFFSET 0 0 0\nCHANNELS 1 Xposition\n" + "End Site\n{\nOFFSET 0 1 0\n}\n" * tips + "}\n"
    )
    path = tmp_path / "a.bvh"
    path.write_text(f"HIERARCHY\n{hierarchy}MOTION\nFrames: {frames}\nFrame Time: 0.03\n" + "0\n" * frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CrrlError, match=problem):
        place(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_positions_are_the_same_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    path = write(tmp_path / "a.bvh", arm(), rng.uniform(-90, 90, (11, 10)).round(4).tolist())
    whole = bvh.positions(*bvh.read_file(path))
    for piece in (1, 9, 12):
        monkeypatch.setattr(kinematics, "PIECE", piece)
        np.testing.assert_array_equal(bvh.positions(*bvh.read_file(path)), whole)


NAME = "a.bvh"

DAMAGE = {
    "empty": (put(NAME, b""), 1, "empty"),
    "binary": (put(NAME, b"\xff\xfe\x00"), 1, "not UTF-8"),
    "first line alone": (put(NAME, b"HIERARCHY\n"), 1, "no HIERARCHY followed by a MOTION"),
    "first line": (edit(NAME, "HIERARCHY", "HIERACHY"), 1, "HIERARCHY is expected here, not 'HIERACHY'"),
    "no motion": (edit(NAME, "MOTION", "MOTIONS"), 28, "no HIERARCHY followed by a MOTION"),
    "no root": (edit(NAME, "ROOT hips", "JOINT hips"), 2, "'JOINT' does not belong here"),
    "two roots": (edit(NAME, "JOINT hand", "ROOT hand"), 10, "a second ROOT: only one body a file is"),
    "no name": (edit(NAME, "JOINT hand", "JOINT "), 11, "a name is expected after JOINT"),
    "a long name": (edit(NAME, "JOINT hand", f"JOINT {'x' * 1000}"), 10, "has 1,000 characters"),
    "offset": (edit(NAME, "\tOFFSET 2.0", "\tOFFST 2.0"), 8, "'OFFST' does not belong here, in 'arm'"),
    "no offset": (edit(NAME, "\t\tOFFSET 2.0 0.0 0.0\n", ""), 9, "OFFSET is expected before this, in"),
    "offset of two": (edit(NAME, "OFFSET 2.0 0.0", "OFFSET 2.0"), 8, "2 numbers, not 3"),
    "offset on two lines": (edit(NAME, "OFFSET 2.0 0.0", "OFFSET 2.0 \n0.0"), 8, "1 numbers, not 3"),
    "offset of four": (edit(NAME, "OFFSET 2.0 0.0", "OFFSET 2.0 0.0 1"), 8, "'0.0' does not belong"),
    "a CR for a sign": (edit(NAME, "OFFSET 2.0 0.0", "OFFSET 2.0 \r0.0"), 8, "a carriage return inside"),
    "NaN offset": (edit(NAME, "OFFSET 2.0", "OFFSET nan"), 8, "'nan' is not a finite number"),
    "channel count": (edit(NAME, "CHANNELS 3 Z", "CHANNELS 2 Z"), 9, "'Yrotation' does not belong here"),
    "channel too few": (edit(NAME, "CHANNELS 3 Z", "CHANNELS 4 Z"), 10, "channel 'JOINT' of 4 is none of"),
    "no count": (edit(NAME, "CHANNELS 3 Z", "CHANNELS x Z"), 9, "a number of channels is expected"),
    "channel name": (edit(NAME, "CHANNELS 3 Zro", "CHANNELS 3 Zrto"), 9, "channel 'Zrtotation' of 3"),
    "a scale": (edit(NAME, "CHANNELS 3 Zrot", "CHANNELS 3 Xscale Zrot"), 9, "channel 'Xscale' of 3"),
    "twice": (edit(NAME, "CHANNELS 3 Z", "CHANNELS 3 X"), 9, "'Xrotation' of 3 is none of .*, or occurs"),
    "late": (edit(NAME, "\t}\n}", f"\t}}\nCHANNELS 3 {TURNS}\n}}"), 20, "'CHANNELS' does not belong"),
    "in a tip": (edit(NAME, "End Site\n\t\t\t{", "End Site\n{\nJOINT x\n{\n"), 16, "'JOINT' does not"),
    "end site": (edit(NAME, "End Site", "End Sit"), 14, "Site is expected here"),
    "brace missing": (edit(NAME, "\t\t\t}\n", ""), 19, "before its last brace"),
    "brace too many": (edit(NAME, "}\nMOTION", "}\n}\nMOTION"), 21, "'}' does not belong here"),
    "frames": (edit(NAME, "Frames: 5", "Frames: 6"), 22, "6 frames, but 5 follow: the file is cut"),
    "half a frame": (edit(NAME, "Frames: 5", "Frames: 2.5"), 22, "2.5 is not a number of frames"),
    "no frames there": (edit(NAME, "Frames: 5", "Frames: -1"), 22, "-1 is not a number of frames"),
    "no frames": (edit(NAME, "Frames: 5", "Frame: 5"), 22, "Frames: is expected here"),
    "frames in words": (edit(NAME, "Frames: 5", "Frames: five"), 22, "'five' is not a finite number"),
    "time": (edit(NAME, "Time: 0.03", "Time: -0.03"), 23, "the frame time is not positive"),
    "a number too few": (edit(NAME, "\n3.0 0.0", "\n3.0"), 27, "9 numbers, not 10"),
    "a number too many": (edit(NAME, "\n3.0 0.0", "\n3.0 0.0 0.0"), 27, "11 numbers, not 10"),
    "comma": (edit(NAME, "\n3.0 0.0", "\n3.0 0,0"), 27, "'0,0' is not a finite number"),
    "infinity": (edit(NAME, "\n3.0 0.0", "\n3.0 inf"), 27, "'inf' is not a finite number"),
    "CR": (edit(NAME, "\n3.0 0.0", "\n3.0 \r0.0"), 27, "a carriage return inside of a line"),
    "zero byte": (edit(NAME, "\n3.0 0.0", "\n3.0 \x000.0"), 27, "a zero byte"),
    "cut in a line": (cut(NAME, -7), 28, "stops in the middle of a line"),
}


@pytest.mark.parametrize(("damage", "line", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_file_and_line(tmp_path: Path, damage: Change, line: int, problem: str) -> None:
    path = write(tmp_path / NAME, arm(), [[float(t), *STILL[1:]] for t in range(5)])
    damage(tmp_path)
    with pytest.raises(CrrlError) as caught:
        bvh.read_file(path)
    expected = re.escape(problem).replace(r"\.\*", ".*")
    assert re.fullmatch(
        rf"{re.escape(f'{path}, line {line}: ')}.*{expected}.*(restore|remove|take) .*", str(caught.value)
    )


@pytest.mark.filterwarnings("error")
def test_a_truncated_file_is_told_wherever_it_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bvh", arm(), [STILL] * 2)
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises((CrrlError, UserWarning), match=r"a\.bvh"):
            bvh.read_file(path)


@pytest.mark.filterwarnings("error")
def test_a_lost_or_doubled_line_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bvh", arm(), [STILL] * 2)
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        for changed in (lines[:number] + lines[number + 1 :], [*lines[:number], line, *lines[number:]]):
            path.write_text("".join(changed))
            with pytest.raises((CrrlError, UserWarning), match=r"a\.bvh"):
                bvh.read_file(path)
