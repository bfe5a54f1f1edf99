"""The planner: which runs, each once, in an order that can be run, under names that say and tell apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crrl.config import Config, Recipe
from crrl.data import Preprocessing
from crrl.data.packing import prepare_folder
from crrl.errors import CrrlError
from crrl.methods import METHODS, Method, first_alone
from crrl.recipes import preset
from crrl.reproduction import TARGETS, Settings, TargetName, make_plan
from crrl.reproduction.plan import Finder, Material, Plan, departures, make_run
from tests.clips import write_clips

Planner = Callable[..., Plan]


def test_table_6_with_3_seeds_shares_first_phases(plan_of: Planner) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=3)
    assert len(plan.runs) == 3 * 7, "8 rows: the random encoder needs no run, and the first phases are rows themselves"
    phases = sum(1 if run.first else len(METHODS[run.config.method]) for run in plan.runs)
    assert phases == 3 * 7, "each run trains one phase; without sharing it were 11"
    teachers = [run.first.name for run in plan.runs if run.first]
    assert len(teachers) == 3 * 4
    assert len(set(teachers)) == 3 * 2


@pytest.mark.parametrize("name", TARGETS)
def test_first_phases_come_before_what_needs_them_and_no_run_comes_twice(plan_of: Planner, name: TargetName) -> None:
    plan = plan_of(name, "synthetic", datasets=["synthetic"], seeds=2)
    names = [run.name for run in plan.runs]
    assert len(set(names)) == len(names)
    for run in plan.runs:
        if run.first is not None:
            assert names.index(run.first.name) < names.index(run.name)
            assert run.first.config.method == first_alone(run.config.method)
            assert run.first.config.seed == run.config.seed


def test_first_phases_that_no_row_shows_are_run_but_not_tested(plan_of: Planner) -> None:
    plan = plan_of("table4", "nw-ucla")
    assert [run.config.method for run in plan.runs] == ["cml", "crrl"]
    assert plan.tested == {plan.runs[1].name}


def test_tables_share_runs_with_each_other_and_with_the_sweeps(plan_of: Planner) -> None:
    names = {
        target: {run.name for run in plan_of(target, "ntu60", datasets=["ntu60"]).runs}
        for target in ("table1", "table6", "table9", "table10", "figure8")
    }
    assert names["table1"] <= names["table6"]
    assert len(names["table9"]) == 11
    assert len(names["figure8"]) == 11, "12 points, of which K = 64 and τ = 0.1 are one"
    for target in ("table9", "figure8", "table10"):
        assert names[target] & names["table6"]
    assert len(names["table9"] & names["figure8"]) == 1


def test_what_changes_the_result_changes_the_folder_and_nothing_else_does(plan_of: Planner) -> None:
    def first(**settings: object) -> str:
        return plan_of("table4", "nw-ucla", **settings).runs[0].name

    assert len({first(), first(recipe="tuned"), first(quick=True), first(precision="bf16"), first(fused=False)}) == 5
    assert first() == first(device="cpu")
    run = plan_of("table4", "nw-ucla").runs[0]
    assert run.name != replace(run, material=replace(run.material, fingerprint="other clips")).name
    assert run.name == replace(run, material=replace(run.material, data=Path("/elsewhere"))).name
    assert run.name.startswith("nw-ucla-cross-view-cml-paper-seed0-")


@pytest.mark.parametrize(
    ("method", "cml", "ser"),
    [("cml", True, False), ("ser", False, True), ("crrl", True, True), ("cml-ser-joint", True, True)],
)
def test_a_setting_changes_the_folders_of_those_that_read_it(
    plan_of: Planner, method: Method, cml: bool, ser: bool
) -> None:
    material = next(iter(plan_of("table4", "nw-ucla").materials.values()))

    def name(config: Config) -> str:
        return make_run(replace(config, method=method), material).name.rsplit("-", 1)[1]

    config = preset("nw-ucla")
    changed = replace(config, cml=replace(config.cml, velocity_scale=2.0))
    assert (name(changed) != name(config)) is cml
    changed = replace(config, ser=replace(config.ser, lr_ser=0.5))
    assert (name(changed) != name(config)) is ser
    changed = replace(config, ser=replace(config.ser, distill_weight=0.5))
    assert (name(changed) != name(config)) is (method == "crrl")


def test_cmu_is_four_runs_a_cell(plan_of: Planner) -> None:
    plan = plan_of("table3", "cmu", seeds=2)
    assert len(plan.runs) == 2 * 4 * 2
    assert {run.config.split for run in plan.runs} == {"fold-1", "fold-2", "fold-3", "fold-4"}


def test_without_data_sets_named_those_at_hand_are_taken_and_the_others_skipped_with_a_reason(plan_of: Planner) -> None:
    plan = plan_of("table6", "nw-ucla", "ntu60")
    assert [column.name for column in plan.columns] == ["ntu60 C-View", "ntu60 C-Sub", "nw-ucla C-View"]
    assert plan.skipped == {"ntu120": "no files of ntu120", "cmu": "no files of cmu"}
    with pytest.raises(CrrlError, match="no data set for table6 was found"):
        plan_of("table6")


def test_a_column_whose_split_is_missing_is_skipped_alone(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan_of("table6", "ntu60", datasets=["ntu60"])

    def look(self: Finder, dataset: str, split: str, steps: Preprocessing) -> Material:
        if split == "cross-view":
            raise CrrlError("no split named 'cross-view'")
        return whole.materials[dataset, split]

    monkeypatch.setattr(Finder, "_look", look)
    plan = make_plan("table6", TARGETS["table6"], ["ntu60"], Settings())
    assert [column.label for column in plan.columns] == ["C-Sub"]
    assert plan.skipped == {"ntu60 C-View": "no split named 'cross-view'"}


def test_a_data_set_is_taken_from_the_first_folder_that_has_it(clip_folder: Path, tmp_path: Path) -> None:
    material = Finder((tmp_path, clip_folder)).find(preset("folder"))
    assert (material.data, material.train_clips, material.tests) == (clip_folder, 40, {"all": 10})
    with pytest.raises(CrrlError, match=str(tmp_path)):
        Finder((tmp_path,)).find(preset("folder"))


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of clips, of three subjects each, of which the last tests; and one that holds something else."""
    split, subject = ["train"] * 8 + ["test"] * 4, [number // 4 for number in range(12)]
    (tmp_path / "other").mkdir()
    lab, street = (
        write_clips(tmp_path / name, ["a", "b"] * 6, joints=joints, split=split, subject=subject)
        for name, joints in (("lab", 5), ("street", 7))
    )
    return lab, street


def plan_on(name: TargetName, *folders: Path, datasets: Sequence[str] = ("folder",), **settings: object) -> Plan:
    return make_plan(name, TARGETS[name], datasets, replace(Settings(folders=folders), **settings))


def test_each_folder_of_clips_is_a_data_set_called_as_it_is(two_folders: tuple[Path, Path], tmp_path: Path) -> None:
    plan = plan_on("table4", tmp_path / "other", *two_folders, tmp_path / "lab" / ".." / "lab")
    assert [(column.dataset, column.splits) for column in plan.columns] == [
        ("lab", ("default",)),
        ("street", ("default",)),
    ]
    assert plan.skipped == {}
    (number,) = {number for number, _ in plan.cells}
    for column, folder in zip(plan.columns, two_folders, strict=True):
        ((run,),) = plan.cells[number, column]
        assert run.name.startswith(f"{folder.name}-default-crrl-paper-seed0-")
        for each in (run, run.first):
            options = each.training(tmp_path / "runs")
            assert options[options.index("--data") + 1] == str(folder)
            assert options[options.index("--dataset") + 1] == "folder"
        assert str(folder) in run.evaluation(tmp_path / "runs", "linear")


def test_settings_are_tested_on_the_folds_that_a_folder_has(two_folders: tuple[Path, Path]) -> None:
    for row in (4, 5, 6, 7):  # its second training subject: the first is the only one
        change_subject(two_folders[1], row, 0)
    plan = plan_on("settings-crrl", *two_folders, recipe="tuned")
    assert [(column.name, column.splits) for column in plan.columns] == [
        ("lab training clips, 2 folds", ("validation-1", "validation-2")),
        ("street default", ("default",)),
    ]
    names = [run.name for run in plan.runs]
    assert len(set(names)) == len(names)
    quick = plan_on("settings-crrl", *two_folders, quick=True)
    assert [column.splits for column in quick.columns] == [("validation-1",), ("default",)]


def change_subject(folder: Path, row: int, subject: int) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()
    lines[row + 1] = lines[row + 1].rsplit(",", 1)[0] + f",{subject}"
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def test_folders_of_the_same_name_are_told_apart(two_folders: tuple[Path, Path], tmp_path: Path) -> None:
    others = [(tmp_path / place / name) for place, name in (("home", "lab"), ("home", "synthetic"))]
    for folder, other in zip(two_folders, others, strict=True):
        shutil.copytree(folder, other)
    np.save(others[0] / "0.npy", np.ones((6, 5, 3)))
    plan = plan_on("table4", two_folders[0], *others)
    assert [column.dataset for column in plan.columns] == [f"{tmp_path.name}/lab", "home/lab", "home/synthetic"]
    assert len({run.name for run in plan.runs}) == 2 * len(plan.columns)


def test_a_damaged_folder_is_left_out_by_name_and_the_others_are_run(two_folders: tuple[Path, Path]) -> None:
    lab, street = two_folders
    (lab / "3.npy").unlink()
    plan = plan_on("table4", lab, street)
    assert [column.dataset for column in plan.columns] == ["street"]
    assert list(plan.skipped) == ["lab"]
    assert "3.npy, which does not exist" in plan.skipped["lab"]


def test_without_folders_given_the_one_of_the_environment_is_taken(
    two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRRL_DATA", str(two_folders[1]))
    assert [column.dataset for column in plan_on("table4").columns] == ["street"]


def test_an_alternative_that_some_data_sets_have_themselves_stays_for_the_others(plan_of: Planner) -> None:
    names = "folder", "nw-ucla"
    both = plan_of("settings-ser", *names, datasets=names, recipe="tuned")
    alone = plan_of("settings-ser", "folder", datasets=["folder"], recipe="tuned")
    assert both.target.rows == TARGETS["settings-ser"].rows
    (own, _), left_out = both.columns, set(both.target.rows) - set(alone.target.rows)
    assert [row.name for row in left_out] == ["no view transform"]
    for row in left_out:
        assert both.cells[both.target.rows.index(row), own] == both.cells[0, own]


def test_each_split_is_taken_from_the_folder_that_has_it(tmp_path: Path) -> None:
    """CTR-GCN's files hold one split each: prepared apart, they are one data set."""
    values = np.random.default_rng(0).normal(size=(3, 8, 150)).astype(np.float32)
    for place, split in enumerate(["CV", "CS"]):
        (tmp_path / split).mkdir()
        values += 1
        data = {"x_train": values, "y_train": np.eye(3), "x_test": values[:1], "y_test": np.eye(3)[:1]}
        np.savez(tmp_path / split / f"NTU60_{split}.npz", **data)
        prepare_folder("ctr-gcn", tmp_path / split, tmp_path / str(place))
    finder = Finder((tmp_path / "0", tmp_path / "1"))
    found = [finder.find(replace(preset("ntu60"), split=split)).data for split in ("cross-subject", "cross-view")]
    assert found == [tmp_path / "1", tmp_path / "0"]
    with pytest.raises(CrrlError, match=r"no split named 'cross-setup' .*; no split named 'cross-setup'"):
        finder.find(replace(preset("ntu60"), split="cross-setup"))


def test_clips_are_looked_for_once_for_each_preparation(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[str, Preprocessing]] = []
    material = next(iter(plan_of("table4", "nw-ucla").materials.values()))

    def look(self: Finder, dataset: str, split: str, steps: Preprocessing) -> Material:
        looked.append((split, steps))
        return material

    monkeypatch.setattr(Finder, "_look", look)
    make_plan("settings-ser", TARGETS["settings-ser"], ["nw-ucla"], Settings("tuned", seeds=2))
    assert len(looked) == len(set(looked)) == 6 * 2, "the recipe's, no view transform"


SETTINGS = [name for name, target in TARGETS.items() if target.against_first]


@pytest.mark.parametrize("recipe", ["paper", "tuned"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_alternative_departs_from_the_recipe_in_what_its_row_says(
    plan_of: Planner, name: TargetName, recipe: Recipe
) -> None:
    plan = plan_of(name, "nw-ucla", datasets=["nw-ucla"], recipe=recipe)
    for (number, _), ((run, *others),) in plan.cells.items():
        said = {option for option, _ in plan.target.rows[number].settings}
        assert {other.config.split for other in others} == {f"validation-{fold}" for fold in range(2, 7)}
        departs = departures(run.config).keys() - {"method", "split", "fused", "recipe"}
        assert departs == said if recipe == "tuned" else departs <= said
        assert all(f"-{option.replace('_', '-')}-" in run.name for option in departs)
        assert "hidden_size" in departs, "all are tried at the same size"
        assert (len(departs) > 1) == bool(number), "what the recipe has itself is no alternative to it"
    assert recipe == "paper" or plan.target.rows == TARGETS[name].rows


def test_rows_name_settings_that_there_are() -> None:
    config = preset("synthetic").to_dict()
    known = config.keys() | {name for part in config.values() if isinstance(part, dict) for name in part}
    for target in TARGETS.values():
        assert {option for row in target.rows for option, _ in row.settings} <= known


def test_a_setting_that_the_first_phase_does_not_read_leaves_it_shared(plan_of: Planner) -> None:
    plan = plan_of("settings-crrl", "nw-ucla", datasets=["nw-ucla"], recipe="tuned")
    teachers = {run.first.name: [] for run in plan.runs if run.first}
    for run in plan.runs:
        if run.first:
            teachers[run.first.name].append(run.name)
    assert len(teachers) == 6 * 8, "one for all weights of distillation"
    assert not any("distill" in name for name in teachers)
    assert sorted({len(students) for students in teachers.values()}) == [1, 2]
    of_cml = plan_of("settings-cml", "nw-ucla", datasets=["nw-ucla"], recipe="tuned")
    shared = teachers.keys() & {run.name for run in of_cml.runs}
    assert len(shared) == 6 * 4, "the recipe's, and those of rows that both targets have"


def test_quick_runs_are_quick_whatever_a_row_says_of_epochs(plan_of: Planner) -> None:
    plan = plan_of("settings-cml", "nw-ucla", datasets=["nw-ucla"], quick=True)
    assert {run.config.cml.epochs_cml for run in plan.runs} == {2}
    assert all("-quick-" in run.name for run in plan.runs)
    assert "150 epochs" not in [row.name for row in plan.target.rows]


@pytest.mark.parametrize(("name", "dataset", "runs"), [("table3", "cmu", 2), ("settings-crrl", "nw-ucla", 7)])
def test_quick_is_one_fold(plan_of: Planner, name: TargetName, dataset: str, runs: int) -> None:
    plan = plan_of(name, dataset, datasets=[dataset], quick=True)
    assert len(plan.runs) == runs
    assert plan.columns == plan.target.columns


def test_arguments_are_read_back_by_the_train_command_as_the_same_configuration(
    plan_of: Planner, tmp_path: Path
) -> None:
    train = pytest.importorskip("crrl.train")
    quick = {"recipe": "tuned", "quick": True, "precision": "bf16"}
    tables = [("table9", {"seeds": 1}), ("table6", quick), *((name, quick) for name in SETTINGS)]
    for target, settings in tables:
        for run in plan_of(target, "nw-ucla", datasets=["nw-ucla"], **settings).runs:
            options = train.parse(run.training(tmp_path))
            assert options.out == tmp_path / run.name
            assert options.config.teacher == (tmp_path / run.first.name if run.first else None)
            assert make_run(replace(options.config, teacher=None), run.material).name == run.name
