"""CMU mocap: the list of trials, folds, joints and units on small files; in the real ones, bodies walk on the floor."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import asf, cmu
from crrl.errors import CrrlError
from tests.data.readers.changes import Change, remove

TREE = {
    "root": "lhipjoint rhipjoint lowerback",
    "lhipjoint": "lfemur",
    "lfemur": "ltibia",
    "ltibia": "lfoot",
    "lfoot": "ltoes",
    "rhipjoint": "rfemur",
    "rfemur": "rtibia",
    "rtibia": "rfoot",
    "rfoot": "rtoes",
    "lowerback": "upperback",
    "upperback": "thorax",
    "thorax": "lowerneck lclavicle rclavicle",
    "lowerneck": "upperneck",
    "upperneck": "head",
    "lclavicle": "lhumerus",
    "lhumerus": "lradius",
    "lradius": "lwrist",
    "lwrist": "lhand lthumb",
    "lhand": "lfingers",
    "rclavicle": "rhumerus",
    "rhumerus": "rradius",
    "rradius": "rwrist",
    "rwrist": "rhand rthumb",
    "rhand": "rfingers",
}
BONES = [child for children in TREE.values() for child in children.split()]


def skeleton(length: float = 0.45, tree: dict[str, str] = TREE) -> str:
    """An .asf file whose bones have lengths 1, 2, 3, ... upwards, in the order of BONES; only lfemur moves."""
    text = f":version 1.10\n:units\n length {length}\n angle deg\n:root\n order TX TY TZ RX RY RZ\n axis XYZ\n"
    text += " position 0 0 0\n orientation 0 0 0\n:bonedata\n"
    for number, name in enumerate(BONES, 1):
        text += f"begin\n id {number}\n name {name}\n direction 0 1 0\n length {number}\n axis 0 0 0 XYZ\n"
        text += " dof rx\n limits (-10 10)\nend\n" if name == "lfemur" else "end\n"
    return text + ":hierarchy\nbegin\n" + "".join(f"{a} {b}\n" for a, b in tree.items()) + "end\n"


def motion(frames: int, height: float = 9.0) -> str:
    body = "".join(f"{t}\nroot {t} {height} 0 0 0 0\nlfemur {t}\n" for t in range(1, frames + 1))
    return f":FULLY-SPECIFIED\n:DEGREES\n{body}"


def add(root: Path, name: str, frames: int = 3, length: float = 0.45) -> None:
    folder = root / "subjects" / name.partition("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.asf").write_text(skeleton(length))
    (folder / f"{name}.amc").write_text(motion(frames))


def write_labels(root: Path, rows: list[tuple[str, ...]], columns: str = "file,label") -> None:
    (root / "labels.csv").write_text("\n".join([columns, *map(",".join, rows)]) + "\n")


def load(root: Path) -> Clips:
    return cmu.load(cmu.find_files(root))


TRIALS = [("02_01", "walk"), ("02_02", "run"), ("07_01", "walk"), ("07_12", "run"), ("104_03", "walk")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five trials of three subjects, two classes."""
    for frames, (name, _) in enumerate(TRIALS, 2):
        add(tmp_path, name, frames)
    write_labels(tmp_path, [(f"{name}.amc", label) for name, label in TRIALS])
    return tmp_path


def test_trials_come_in_the_order_of_the_list_with_their_facts(root: Path) -> None:
    clips = load(root)
    assert clips.names == ("02_01", "02_02", "07_01", "07_12", "104_03")
    assert clips.subjects.tolist() == [2, 2, 7, 7, 104]
    assert clips.lengths.tolist() == [2, 3, 4, 5, 6]
    assert [clips.class_names[label] for label in clips.labels] == ["walk", "run", "walk", "run", "walk"]


def test_a_trial_is_named_by_subject_and_number_as_well(root: Path) -> None:
    expected = load(root)
    rows = [(str(int(s)), str(int(t)), label) for name, label in TRIALS for s, _, t in [name.partition("_")]]
    write_labels(root, rows, "subject,trial,label")
    clips = load(root)
    assert clips.names == expected.names
    np.testing.assert_array_equal(clips.frames, expected.frames)


def test_a_folder_before_the_files_name_does_not_matter(root: Path) -> None:
    write_labels(root, [(f"any/where/{name}.amc", label) for name, label in TRIALS])
    assert load(root).names == tuple(name for name, _ in TRIALS)


def test_joints_are_31_in_the_order_of_the_hierarchy(root: Path) -> None:
    frames = load(root).clip(0)
    assert frames.shape == (2, 31, 3)
    height = {"root": 9.0}
    for parent, children in TREE.items():
        for child in children.split():
            height[child] = height[parent] + BONES.index(child) + 1
    moving = {"lfemur", "ltibia", "lfoot", "ltoes"}
    for joint, name in enumerate(cmu.JOINTS):
        if name not in moving:
            assert frames[0, joint, 1] == pytest.approx(height[name] / 0.45 * 0.0254)


def test_another_order_of_bones_in_a_file_gives_the_same_joints(root: Path) -> None:
    expected = load(root)
    backwards = {parent: " ".join(reversed(children.split())) for parent, children in TREE.items()}
    (root / "subjects/07/07.asf").write_text(skeleton(tree=backwards))
    np.testing.assert_array_equal(load(root).frames, expected.frames)


def test_metres_follow_from_the_files_unit_of_length(root: Path) -> None:
    expected = load(root).clip(2)
    (root / "subjects/07/07.asf").write_text(skeleton(length=0.9))
    np.testing.assert_allclose(load(root).clip(2), expected / 2, rtol=1e-6)


def test_the_four_folds_share_out_every_class_and_test_every_sequence_once(tmp_path: Path) -> None:
    rows = [(f"{s:02d}_{t:02d}.amc", label) for s, label in ((1, "a"), (2, "b"), (3, "c")) for t in range(1, 7)]
    for name, _ in rows:
        add(tmp_path, name[:-4], frames=1)
    write_labels(tmp_path, rows)
    clips = load(tmp_path)
    tests = [clips.split(f"fold-{number}").test["all"] for number in (1, 2, 3, 4)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(18))
    assert {len(test) for test in tests} == {4, 5}
    for number, test in enumerate(tests, 1):
        assert sorted([*test, *clips.split(f"fold-{number}").train]) == list(range(18))
        assert set(np.bincount(clips.labels[test], minlength=3)) <= {1, 2}


def test_the_folds_do_not_depend_on_the_order_of_the_list(root: Path) -> None:
    def fold(number: int) -> set[str]:
        clips = load(root)
        return {clips.names[i] for i in clips.split(f"fold-{number}").test["all"]}

    expected = [fold(number) for number in (1, 2, 3, 4)]
    write_labels(root, [(f"{name}.amc", label) for name, label in reversed(TRIALS)])
    assert [fold(number) for number in (1, 2, 3, 4)] == expected


def test_trials_of_different_frames_a_second_are_told(root: Path) -> None:
    for name, rate in {"02/02_01": 120, "02/02_02": 120, "07/07_01": 60}.items():
        path = root / "subjects" / f"{name}.amc"
        path.write_text(path.read_text().replace(":DEGREES", f":DEGREES\n:SAMPLES-PER-SECOND {rate}"))
    with pytest.warns(UserWarning, match=r"a second, 60 in 1 \(.*07_01\.amc, \.\.\.\), 120 in 2 \(.*02_01\.amc"):
        load(root)


def test_trials_without_a_line_break_at_the_end_are_one_warning(root: Path) -> None:
    for name in ("02/02_01", "07/07_12"):
        path = root / "subjects" / f"{name}.amc"
        path.write_text(path.read_text()[:-1])
    with pytest.warns(UserWarning, match=r"02_01\.amc and 1 more files are without a line break") as caught:
        load(root)
    assert len(caught) == 1


@pytest.mark.parametrize("link", ["subjects", "."])
def test_files_behind_a_linked_folder_are_found(
    root: Path, tmp_path_factory: pytest.TempPathFactory, link: str
) -> None:
    """Also where a link leads back to the folder it is in."""
    elsewhere = tmp_path_factory.mktemp("cmu")
    (root / "subjects" / "back").symlink_to(root)
    if link == ".":
        (elsewhere / "linked").symlink_to(root)
        assert len(load(elsewhere / "linked")) == len(TRIALS)
        return
    (elsewhere / "all").symlink_to(root / link)
    (elsewhere / "labels.csv").write_text((root / "labels.csv").read_text())
    assert len(load(elsewhere)) == len(TRIALS)


def test_a_listed_trial_that_is_there_twice_is_refused_and_another_left_alone(root: Path) -> None:
    add(root, "09_01")
    add(root / "copy", "09_01")
    assert len(load(root)) == len(TRIALS)
    add(root / "copy", "02_01")
    with pytest.raises(
        CrrlError, match=r"copy/subjects/02/02_01\.amc and .*subjects/02/02_01\.amc have the same name: remove one"
    ):
        load(root)


def relist(*rows: tuple[str, ...], columns: str = "file,label") -> Change:
    return lambda root: write_labels(root, list(rows), columns)


def replace(name: str, old: str, new: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


WRONG = {
    "no list": (remove("labels.csv"), r"labels\.csv is missing: it says .* subject,trial,label"),
    "no label": (
        relist(("02_01.amc",), columns="file"),
        r"labels\.csv has no column label: .* the columns, subject,trial,label or file,label$",
    ),
    "semicolons": (
        relist(("2;1;walk",), columns="subject;trial;label"),
        r"labels\.csv has no column label: .* subject,trial,label or file,label, separated by commas, not semicolons",
    ),
    "no trial": (relist(("walk",), columns="label"), r"labels\.csv, line 2: a trial .* needed"),
    "trial of letters": (relist(("2", "x", "a"), columns="subject,trial,label"), "line 2: a trial"),
    "empty label": (relist(("02_01.amc", "")), "line 2: a trial .* and its label"),
    "another kind of file": (relist(("02_01.bvh", "a")), "line 2: a trial"),
    "absent trial": (relist(("02_09.amc", "a")), r"line 2: 02_09\.amc is nowhere in"),
    "twice": (relist(*[("02_01.amc", "a")] * 2), r"line 3: 02_01\.amc is listed twice"),
    "skeleton": (remove("subjects/07/07.asf"), r"07\.asf is missing, the skeleton of .*07_01\.amc"),
    "too few": (relist(("02_01.amc", "a"), ("02_02.amc", "a")), r"labels\.csv: 4 folds need 4"),
    "a class of one": (
        relist(*[(f"{name}.amc", "a") for name, _ in TRIALS[:4]], ("104_03.amc", "rare")),
        r"labels\.csv: .*class 'rare' has one sequence",
    ),
    "bones": (replace("subjects/07/07.asf", "lthumb", "lpinky"), r"07\.asf is not a .* differs in lpinky, lthumb"),
    "frame": (replace("subjects/07/07_12.amc", "\n3\n", "\n4\n"), r"07_12\.amc, line 9: frame 3 should"),
}


@pytest.mark.parametrize(("damage", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line_with_file_and_remedy(root: Path, damage: Change, problem: str) -> None:
    damage(root)
    with pytest.raises(CrrlError, match=problem) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def real_trials(real_data: Path) -> dict[str, tuple[asf.Hierarchy, np.ndarray]]:
    """Skeleton and positions (metres) of each real trial by name."""
    trials = {}
    for path in sorted((real_data / "cmu").rglob("*.amc")):
        skeleton = asf.read_skeleton(path.with_name(f"{path.name.partition('_')[0]}.asf"))
        frames = asf.positions(skeleton, asf.read_motion(path, skeleton))
        trials[path.stem] = skeleton, frames * np.float32(0.0254 / skeleton.unit)
    if not trials:
        pytest.skip("needs the ASF/AMC files of CMU in $CRRL_DATA/cmu")
    return trials


@pytest.fixture(scope="module")
def index(real_data: Path) -> dict[str, dict[str, str]]:
    """CMU's own index: what is documented of each trial."""
    with open(real_data / "cmu" / "index.csv", newline="", encoding="utf-8") as file:
        return {f"{int(row['Subject']):02d}_{int(row['Trial #']):02d}": row for row in csv.DictReader(file)}


def joint(frames: np.ndarray, name: str) -> np.ndarray:
    return frames[:, cmu.JOINTS.index(name)]


def walks(trials: dict[str, tuple[asf.Hierarchy, np.ndarray]], index: dict[str, dict[str, str]]) -> list[np.ndarray]:
    found = [
        frames for name, (_, frames) in trials.items() if "walk" in index[name]["Motion Description"].split(",")[0]
    ]
    return [frames for frames in found if len(frames) < 600]


def test_real_skeletons_have_the_31_joints_in_this_order(
    real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]],
) -> None:
    assert {skeleton.names for skeleton, _ in real_trials.values()} == {cmu.JOINTS}


def test_real_bones_keep_the_length_their_file_gives(real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]]) -> None:
    for skeleton, frames in real_trials.values():
        bones = np.linalg.norm(frames[:, 1:] - frames[:, list(skeleton.parents[1:])], axis=2)
        expected = np.linalg.norm(skeleton.offsets[1:], axis=1) * 0.0254 / skeleton.unit
        np.testing.assert_allclose(bones, np.broadcast_to(expected, bones.shape), rtol=0, atol=2e-6)


def test_real_feet_are_on_the_floor(real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]]) -> None:
    for frames in (frames for _, frames in real_trials.values()):
        feet = np.stack([joint(frames, name)[:, 1] for name in ("lfoot", "rfoot", "ltoes", "rtoes")])
        lowest = feet.min(axis=0)
        assert lowest.min() > -0.1
        assert abs(np.median(lowest)) < 0.06


def test_real_bodies_are_of_human_height(real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]]) -> None:
    for frames in (frames for _, frames in real_trials.values()):
        assert 0.85 < np.median(joint(frames, "root")[:, 1]) < 1.1
        assert 1.45 < np.median(joint(frames, "head")[:, 1]) < 1.75


def test_real_walks_go_the_way_the_body_faces_at_walking_speed(
    real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]], index: dict[str, dict[str, str]]
) -> None:
    found = walks(real_trials, index)
    assert found
    for frames in found:
        way = (joint(frames, "root")[-1] - joint(frames, "root")[0])[[0, 2]]
        left = (joint(frames, "lfemur") - joint(frames, "rfemur")).mean(axis=0)
        facing = np.array([-left[2], left[0]])  # left × up, on the floor
        assert way @ facing > 0.9 * np.linalg.norm(way) * np.linalg.norm(facing)
        assert 0.7 < np.linalg.norm(way) / (len(frames) / 120) < 2.2


def test_real_trials_have_the_documented_number_of_frames(
    real_trials: dict[str, tuple[asf.Hierarchy, np.ndarray]], index: dict[str, dict[str, str]]
) -> None:
    """The index counts at 60 frames a second; where it says nothing, nothing is compared."""
    documented = {name: float(row["Frames 60fps"]) for name, row in index.items() if row["Frames 60fps"]}
    compared = [name for name in real_trials if name in documented]
    assert compared
    for name in compared:
        assert len(real_trials[name][1]) / 2 == pytest.approx(documented[name], rel=0.2)


def test_real_trials_load_with_a_list_of_ones_own(tmp_path: Path, real_data: Path) -> None:
    trials = [("07", "01", "walk"), ("07", "02", "walk"), ("08", "01", "march"), ("08", "02", "march")]
    for subject in ("07", "08"):
        if not (real_data / "cmu/amc" / subject).is_dir():
            pytest.skip("needs the ASF/AMC files of CMU in $CRRL_DATA/cmu")
        (tmp_path / subject).mkdir()
        for path in (real_data / "cmu/amc" / subject).iterdir():
            (tmp_path / subject / path.name).symlink_to(path)
    write_labels(tmp_path, trials, "subject,trial,label")
    clips = load(tmp_path)
    assert clips.frames.shape[1:] == (31, 3)
    assert [len(clips.split(f"fold-{number}").test["all"]) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
