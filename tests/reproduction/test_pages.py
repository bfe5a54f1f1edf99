"""Pages against made-up results: means, deviations, differences, orders, failures, figures and their data."""

from __future__ import annotations

import builtins
import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.reproduction import TARGETS, write_page
from crrl.reproduction.paper import Row
from crrl.reproduction.plan import Plan
from crrl.reproduction.records import Record
from crrl.reproduction.results import Cell, Difference, collect

Planner = Callable[..., Plan]
Filler = Callable[..., Path]
TABLE_6 = {
    "cml": (70.0, 72.0, 74.0),
    "ser": (80.0, 81.0, 82.0),
    "cml-ser-joint": (60.0, 60.0, 60.0),
    "cml-pretrain-ser": (79.0, 79.0, 79.0),
    "ser-pretrain-cml": (78.0, 78.0, 78.0),
    "ser-distill-cml": (77.0, 77.0, 77.0),
    "crrl": (85.0, 86.0, 90.0),
}
"""Accuracies by seed on all test clips."""


def fill_table_6(plan: Plan, fill: Filler) -> Path:
    for run in plan.runs:
        if run.config.seed < len(TABLE_6[run.config.method]):
            runs = fill(run, "linear", TABLE_6[run.config.method][run.config.seed], random=50.0 + run.config.seed)
    return runs


def rows_of(text: str, section: int) -> dict[str, str]:
    """The rows of a page's table, by their name."""
    block = text.split("\n## ")[section]
    lines = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("| ")]
    return {line[0]: line[1] for line in lines if len(line) > 1}


def test_a_cell_is_the_mean_and_sample_deviation_less_the_papers() -> None:
    cell = Cell(83.8, {0: (85.0,), 1: (86.0,), 2: (89.0, 91.0)})
    assert cell.mean == pytest.approx(87.0)
    assert cell.std == pytest.approx(7**0.5)
    assert cell.difference == pytest.approx(3.2)
    assert Cell(None, {0: (3.0,)}).difference is None
    assert (Cell(1.0, {}).mean, Cell(1.0, {0: (2.0,)}).std) == (None, None)


def test_rows_are_held_against_each_other_fold_by_fold_over_the_seeds_of_both() -> None:
    first = Cell(None, {0: (60.0, 80.0, 70.0), 1: (70.0, 90.0, 80.0)})
    found = Cell(None, {1: (72.0, 94.0, 83.0), 0: (61.0, 83.0, 76.0), 2: (0.0, 0.0, 0.0)}).beyond(first)
    assert found is not None
    assert (found.mean, found.error, found.count) == pytest.approx((19 / 6, 7**0.5 / 3, 3)), "1.5, 3.5, 4.5"
    assert Cell(None, {1: (71.0, 92.0, 83.0)}).beyond(first).mean == pytest.approx(2.0)  # type: ignore[union-attr]
    assert Cell(None, {2: (71.0, 92.0, 83.0)}).beyond(first) is None, "no seed in common"
    assert Cell(None, {}).beyond(first) is None


def test_of_a_single_fold_the_seeds_are_held_against_each_other() -> None:
    first = Cell(None, {0: (60.0,), 1: (70.0,)})
    found = Cell(None, {0: (61.0,), 1: (73.0,)}).beyond(first)
    assert found is not None
    assert (found.mean, found.error, found.count) == pytest.approx((2.0, 1.0, 2))
    assert not found.told_apart
    assert Cell(None, {0: (61.0,)}).beyond(first) is None


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.71), (6, 2.57), (11, 2.23), (40, 2.23)])
def test_few_differences_must_be_larger_to_be_told_apart(count: int, quantile: float) -> None:
    assert Difference(-1.01 * quantile, 1.0, count).verdict == "worse"
    assert Difference(1.01 * quantile, 1.0, count).verdict == "better"
    assert Difference(0.99 * quantile, 1.0, count).verdict == "not told apart"


def test_the_page_has_every_reading_named_and_every_cell(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=3)
    page = write_page(plan, fill_table_6(plan, fill), tmp_path / "out", "crrl reproduce table6")
    text = page.read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## linear, last epoch, all test clips",
        "## linear, last epoch, clean test clips",
        "## linear, best epoch on test, all test clips",
        "## linear, best epoch on test, clean test clips",
        "## The paper's numbers in columns that were not run",
        "## Runs",
    ]
    last, clean, best, _ = (rows_of(text, section) for section in (1, 2, 3, 4))
    assert last["CRRL"] == "83.8 · 87.0 ± 2.6 · +3.2"
    assert last["CML"] == "72.8 · 72.0 ± 2.0 · −0.8"
    assert last["Rand-Enc"] == "50.5 · 51.0 ± 1.0 · +0.5"
    assert clean["SER"] == "81.4 · 76.0 ± 1.0 · −5.4"
    assert best["SER"] == "81.4 · 83.0 ± 1.0 · +1.6"
    assert "| CRRL | 73.8 | 67.6 | 57.0 | 56.2 | 78.7 |" in text
    assert "nw-ucla<br>C-View<br>40 clips" in text
    assert "ntu60 is left out: no files of ntu60" in text
    assert "quick" not in text.lower()


def test_the_csv_has_the_same_cells(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=3)
    write_page(plan, fill_table_6(plan, fill), tmp_path / "out", "")
    rows = list(csv.DictReader((tmp_path / "out" / "table6.csv").open()))
    assert len(rows) == (8 + 1) * 4, "Rand-Enc is a row already, raw is not"
    (crrl,) = [row for row in rows if (row["row"], row["reading"], row["tests"]) == ("CRRL", "last epoch", "all")]
    assert float(crrl["ours_mean"]) == pytest.approx(87.0)
    assert float(crrl["difference"]) == pytest.approx(3.2)
    assert (crrl["paper"], crrl["seeds"], crrl["quick"], crrl["splits"]) == ("83.8", "3", "no", "cross-view")


def test_where_our_order_is_another_the_page_says_so(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=3)
    text = write_page(plan, fill_table_6(plan, fill), tmp_path / "out", "").read_text()
    line, _on_clean_clips = [line for line in text.splitlines() if "the paper's order" in line]
    assert "the paper's order CRRL > CML-SER-joint > SER" in line
    assert "does not appear here; ours is CRRL > SER > CML-pretrain-SER" in line
    assert "6 of 28 pairs changed places: SER over CML-SER-joint by 21.0" in line


def test_where_the_order_is_the_papers_the_page_says_that(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table8", "synthetic", datasets=["synthetic"])
    for number, accuracies in enumerate([(60.0, 61.0), (59.0, 60.0), (62.0, 63.0)]):
        for column, accuracy in zip(plan.columns, accuracies, strict=True):
            runs = fill(plan.cells[number, column][0][0], "linear", accuracy)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert text.count("the paper's order (by the mean of its columns) SER (forward+reverse) > forward > reverse") == 4
    assert text.count("appears here too") == 4, "two columns, all and clean test clips"
    assert "spread" not in text, "one seed has none"
    assert rows_of(text, 1)["forward"] == "– · 60.0 · –"


def test_rows_closer_than_their_seeds_are_named(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table8", "nw-ucla", datasets=["nw-ucla"], seeds=2)
    (column,) = plan.columns
    for number, accuracies in enumerate([(60.0, 61.0), (58.0, 58.2), (60.5, 62.5)]):
        for seed, accuracy in enumerate(accuracies):
            runs = fill(plan.cells[number, column][seed][0], "linear", accuracy)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert "appears here too. Closer than their spread over seeds: SER (forward+reverse) and forward.\n" in text


def test_quoted_rows_stand_beside_and_take_part_in_the_order(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table5", "nw-ucla")
    runs = fill(plan.runs[1], "knn", 80.0)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert "## knn, 1-NN, all test clips" in text
    rows = rows_of(text, 1)
    assert rows["P&C FW-AEC [13] (unsupervised, quoted)"] == "84.9"
    assert rows["CRRL (Ours)"] == "86.4 · 80.0 · −6.4"
    assert "P&C FW-AEC [13] over CRRL (Ours) by 4.9" in text


def test_alternatives_are_held_against_the_recipe(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("settings-crrl", "nw-ucla", recipe="tuned")
    accuracies = ((70, 72, 74, 76, 78, 80), (71, 72.5, 75, 76.5, 79, 81), (60, 72, 74, 76, 78), *[()] * 6)
    for seeds, row in zip(plan.cells.values(), accuracies, strict=True):
        for run, accuracy in zip(seeds[0], row, strict=False):
            runs = fill(run, "linear", accuracy)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    rows = rows_of(text, 1)
    assert rows["the recipe"] == "75.0 · –"
    assert rows["no other takes"] == "75.8 · +0.8 ± 0.1"
    assert rows["nothing turned"] == "– · –", "a fold is missing"
    assert (
        "(chance alone: one row in 20 is called better or worse): "
        "better: no other takes; worse: none; not told apart: none." in text
    )
    assert "The paper's" not in text
    table = {row["row"]: row for row in csv.DictReader((tmp_path / "out" / "settings-crrl.csv").open())}
    assert float(table["no other takes"]["beyond_first"]) == pytest.approx(5 / 6)
    for row in ("nothing turned", "the recipe"):
        assert table[row]["beyond_first"] == table[row]["beyond_first_error"] == ""


SETS = {
    "the recipe": (70.0, 80.0),
    "λ_d = 2": (75.0, 78.0),
    "K = 8": (71.0, 80.5),
    "τ = 0.5": (60.0, 81.0),
    "61 epochs": (74.0,),
    "m_enc = 0.5": (),
}
"""Accuracies on NW-UCLA and on synthetic."""


@pytest.fixture
def two_sets(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Rows that are no recipe on either."""
    settings = (
        *((), (("distill_weight", 2.0),), (("queue_size", 8),), (("temperature", 0.5),)),
        *((("epochs_ser", 61),), (("momentum_encoder", 0.5),)),
    )
    rows = (Row(name, (None,), "crrl", each) for name, each in zip(SETS, settings, strict=True))
    monkeypatch.setitem(TARGETS, "settings-crrl", replace(TARGETS["settings-crrl"], rows=tuple(rows)))
    return plan_of("settings-crrl", "nw-ucla", "synthetic", datasets=["nw-ucla", "synthetic"], recipe="tuned")


def over_sets(plan: Plan, fill: Filler, accuracies: Iterable[tuple[float, ...]]) -> Path:
    """Fill rows with an accuracy for each column: of every fold, a point more in each fold after the first."""
    for number, by_column in enumerate(accuracies):
        for column, accuracy in zip(plan.columns, by_column, strict=False):
            for fold, run in enumerate(plan.cells[number, column][0]):
                runs = fill(run, "linear", accuracy + fold, raw=20.0)
    return runs


def test_over_several_sets_rows_are_sorted_by_their_worst(two_sets: Plan, fill: Filler, tmp_path: Path) -> None:
    text = write_page(two_sets, over_sets(two_sets, fill, SETS.values()), tmp_path / "out", "").read_text()
    section = text.split("\n### ")[1].split("\n## ")[0]
    assert section.startswith("2 data sets together: nw-ucla, synthetic\n")
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert table[1:] == [
        ["**K = 8**", "2.0", "synthetic: +0.5 ± 0.0"],
        ["the recipe", "3.0", "the other rows are compared with it"],
        ["λ_d = 2", "2.5", "synthetic: −2.0 ± 0.0"],
        ["τ = 0.5", "2.5", "nw-ucla: −10.0 ± 0.0"],
    ]
    assert "Not in every set: 61 epochs, m_enc = 0.5." in section
    assert text.count("\n### ") == 2, "by the last epoch, on all and on clean clips; not by one that test clips chose"
    rows = list(csv.DictReader((tmp_path / "out" / "settings-crrl.csv").open()))
    headline = [row for row in rows if (row["reading"], row["tests"]) == ("last epoch", "all")]
    found = {row["row"]: [row[name] for name in list(row)[-4:]] for row in headline}
    assert found["λ_d = 2"] == ["2.5", "synthetic", "-2.0", "0.0"]
    assert found["the recipe"] == ["3.0", "", "0.0", ""]
    assert found["61 epochs"] == found["raw"] == [""] * 4
    assert not any(row["mean_rank"] for row in rows if row["reading"] == "best epoch on test")


def test_sets_that_are_tested_on_test_clips_choose_nothing(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    datasets = ["nw-ucla", "synthetic", "cmu"]
    plan = plan_of("settings-crrl", *datasets, datasets=datasets, recipe="tuned")
    for (number, _), (folds,) in plan.cells.items():
        for run in folds:
            runs = fill(run, "linear", 70.0 - (number and 30 * (run.config.dataset == "cmu")))
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    section = text.split("\n### ")[1].split("\n## ")[0]
    assert section.startswith("2 of 3 data sets together: nw-ucla, synthetic\n")
    assert "−" not in section
    assert "Not among the sets, since nothing should be chosen by test clips: cmu 4 folds." in section


def test_equal_rows_share_their_ranks(two_sets: Plan, fill: Filler, tmp_path: Path) -> None:
    names, accuracies = list(SETS), ((70.0, 80.0), (70.0, 80.0), (70.0, 90.0), (65.0, 80.0))
    text = write_page(two_sets, over_sets(two_sets, fill, accuracies), tmp_path / "out", "").read_text()
    section = text.split("\n### ")[1].split("\n## ")[0]
    ranks = {row.split(" | ")[0]: row.split(" | ")[1] for row in section.splitlines() if " | " in row}
    assert ranks[f"| {names[0]}"] == ranks[f"| {names[1]}"] == "2.5", "2 of 1, 2, 3 and 3 of 2, 3, 4"
    assert ranks[f"| **{names[2]}**"] == "1.5"
    assert ranks[f"| {names[3]}"] == "3.5"


def test_a_single_set_is_not_summed_up(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("settings-crrl", "nw-ucla", recipe="tuned")
    for run in plan.runs:
        runs = fill(run, "linear", 70.0)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert "together" not in text
    assert not any(row["mean_rank"] for row in csv.DictReader((tmp_path / "out" / "settings-crrl.csv").open()))


def test_floors_stand_below_the_rows_and_what_is_below_them_is_named(
    plan_of: Planner, fill: Filler, tmp_path: Path
) -> None:
    plan = plan_of("table8", "nw-ucla", datasets=["nw-ucla"], seeds=2)
    (column,) = plan.columns
    for number, accuracy in enumerate([45.0, 62.0, 70.0]):
        for seed in (0, 1):
            run = plan.cells[number, column][seed][0]
            runs = fill(run, "linear", accuracy, random=50.0 + 2 * seed, raw=65.0)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    rows = rows_of(text, 1)
    assert list(rows)[-2:] == ["random encoder", "raw"]
    assert rows["random encoder"] == "– · 51.0 ± 1.4 · –"
    assert rows["raw"] == "– · 65.0 ± 0.0 · –"
    below = "Below the random encoder: forward (nw-ucla C-View). Below raw: forward, reverse (nw-ucla C-View)."
    assert text.split("\n## ")[1].count(below) == 1
    table = list(csv.DictReader((tmp_path / "out" / "table8.csv").open()))
    floors = [row for row in table if (row["kind"], row["reading"], row["tests"]) == ("floor", "last epoch", "clean")]
    assert [(row["row"], float(row["ours_mean"]), row["seeds"]) for row in floors] == [
        ("random encoder", 50.0, "2"),
        ("raw", 63.0, "2"),
    ]


def test_the_random_encoder_is_no_floor_where_it_is_a_row(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=3)
    text = write_page(plan, fill_table_6(plan, fill), tmp_path / "out", "").read_text()
    rows = rows_of(text, 1)
    assert list(rows)[-1] == "raw"
    assert rows["raw"] == "– · – · –", "files of before it was tested"
    assert "random encoder" not in rows
    assert "\nBelow the random encoder: none.\n" in text
    assert "Below raw" not in text


def test_floors_of_settings_are_those_beside_the_recipe(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("settings-ser", "nw-ucla", recipe="tuned")
    for (number, _), (runs_of_row,) in reversed(plan.cells.items()):
        for fold, run in enumerate(runs_of_row):
            runs = fill(run, "linear", 70.0 + fold, random=40.0 + number, raw=69.0 + 2 * fold + number)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    rows = rows_of(text, 1)
    assert "Below raw: all rows (nw-ucla training views, 6 folds)." in text
    assert rows["random encoder"] == "40.0 · −32.5 ± 0.8"
    assert rows["raw"] == "74.0 · +1.5 ± 0.8"


def test_losses_have_no_floors(plan_of: Planner, tmp_path: Path) -> None:
    plan = plan_of("figure4", "ntu60", quick=True)
    log_losses(plan, tmp_path)
    text = write_page(plan, tmp_path, tmp_path / "out", "").read_text()
    assert "\n| raw |" not in text
    assert "\n| random encoder |" not in text


def test_logistic_is_a_way_to_measure(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla").measured_by("logistic")
    for run in plan.runs:
        runs = fill(run, "logistic", 80.0, random=60.0, raw=70.0)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert "\n## logistic, all test clips\n" in text
    rows = rows_of(text, 1)
    assert (rows["CRRL"], rows["Rand-Enc"], rows["raw"]) == ("80.0", "60.0", "70.0")
    assert "--protocol logistic" in text


def test_the_same_runs_measured_another_way_have_no_paper_beside_them(
    plan_of: Planner, fill: Filler, tmp_path: Path
) -> None:
    by_linear = plan_of("table6", "nw-ucla")
    plan = by_linear.measured_by("knn")
    assert [run.name for run in plan.runs] == [run.name for run in by_linear.runs]
    for run in plan.runs:
        runs = fill(run, "knn", 80.0)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert text.startswith("# Table VI: fusion strategies, by knn\n")
    assert rows_of(text, 1)["CRRL"] == "80.0"
    assert "paper's" not in text
    by_linear = plan_of("table5", "nw-ucla").measured_by("linear")
    assert [row.name for row in by_linear.target.rows] == ["CRRL (Ours)"], "none that is quoted"
    assert [(number, seeds[0][0].config.method) for (number, _), seeds in by_linear.cells.items()] == [(0, "crrl")]


def test_an_order_needs_numbers_that_differ(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("figure8", "ntu60")
    for run in plan.runs:
        runs = fill(run, "linear", 80.0)
    assert "the paper's order" not in write_page(plan, runs, tmp_path / "out", "").read_text(), "62.8 twice"


def test_missing_seeds_and_failed_runs_are_shown(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table4", "nw-ucla", seeds=2)
    runs = fill(plan.runs[1], "linear", 80.0)
    assert plan.runs[1].config.method == "crrl"
    Record("python -m crrl.train ...", ["abc", "def"], 12.3, "the disk is full").write(runs / plan.runs[2].name)
    text = write_page(plan, runs, tmp_path / "out", "").read_text()
    assert "83.8 · 80.0 (1 of 2 seeds) · −3.8" in text
    assert f"- `{plan.runs[2].name}`: the disk is full" in text
    assert f"| `{plan.runs[2].name}` | 12 s | abc, def | failed: the disk is full |" in text
    assert "not finished" in text


def test_a_page_of_nothing_is_a_table_of_the_papers_numbers(plan_of: Planner, tmp_path: Path) -> None:
    text = write_page(plan_of("table4", "nw-ucla"), tmp_path, tmp_path / "out", "").read_text()
    assert rows_of(text, 1)["CRRL (Ours)"] == "83.8 · – · –"


def test_folds_are_averaged_before_seeds_and_a_missing_fold_leaves_the_seed_out(plan_of: Planner, fill: Filler) -> None:
    plan = plan_of("table3", "cmu", seeds=2)
    column, number = plan.columns[0], len(plan.target.rows) - 1
    for fold, run in enumerate(plan.cells[number, column][0]):
        runs = fill(run, "linear", 70.0 + fold)
    fill(plan.cells[number, column][1][0], "linear", 10.0)
    assert collect(plan, runs)[0].cells[number, column].values == (71.5,)


def test_quick_is_said_with_every_table_and_figure(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("table6", "nw-ucla", quick=True)
    text = write_page(plan, fill_table_6(plan, fill), tmp_path / "out", "").read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ") and "test clips" in line]
    assert len(titles) == 4
    assert all("quick: 2 epochs" in title for title in titles)
    assert "do not reproduce the paper's" in text
    assert {row["quick"] for row in csv.DictReader((tmp_path / "out" / "table6.csv").open())} == {"yes"}


def log_losses(plan: Plan, runs: Path) -> None:
    """Two epochs of losses for each run, as --quick trains."""
    for run in plan.runs:
        (runs / run.name).mkdir(parents=True, exist_ok=True)
        lines = [
            {"phase": "cml" if run.config.method == "cml" else "ser", "epoch": e, "loss_c": 3 / e, "loss_r": 9 / e}
            | ({"loss_d": 0.5 / e} if run.config.method == "crrl" else {})
            for e in (1, 2)
        ]
        (runs / run.name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("matplotlib_is_there", [True, False])
def test_losses_are_read_drawn_and_kept_as_csv(
    plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matplotlib_is_there: bool
) -> None:
    if matplotlib_is_there:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    else:
        forbid(monkeypatch, "matplotlib")
    plan = plan_of("figure4", "ntu60", quick=True)
    log_losses(plan, tmp_path)
    text = write_page(plan, tmp_path, tmp_path / "out", "").read_text()
    assert rows_of(text, 1)["CML, L_c"] == "2.15 · 1.50 · −0.65"
    assert rows_of(text, 1)["CRRL, L_d"] == "– · 0.25 · –"
    rows = list(csv.DictReader((tmp_path / "out" / "figure4-ntu60-cross-subject.csv").open()))
    assert rows[1] == {"curve": "CML, L_c", "seed": "0", "epoch": "2", "loss": "1.5"}
    image = tmp_path / "out" / "figure4-ntu60-cross-subject.png"
    assert image.exists() == matplotlib_is_there
    assert ("Not drawn: matplotlib cannot be imported" in text) != matplotlib_is_there
    assert ("](figure4-ntu60-cross-subject.png)" in text) == matplotlib_is_there


def test_sweeps_have_a_curve_for_each_setting(plan_of: Planner, fill: Filler, tmp_path: Path) -> None:
    plan = plan_of("figure8", "ntu60", seeds=2)
    for number, run in enumerate(plan.runs):
        runs = fill(run, "linear", 40.0 + number)
    write_page(plan, runs, tmp_path / "out", "")
    rows = list(csv.DictReader((tmp_path / "out" / "figure8-ntu60-cross-subject.csv").open()))
    assert [row["value"] for row in rows if row["setting"] == "K"] == ["2", "8", "32", "64", "128", "512"]
    assert [row["paper"] for row in rows if row["paper"]] == ["62.8", "62.8"]


def forbid(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Have imports of a library fail."""
    real = builtins.__import__

    def fail(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_confusion_is_percent_of_the_true_class() -> None:
    from crrl.reproduction.inspection import Inspected, confusion

    labels, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 0])
    found = confusion(Inspected(np.zeros((5, 2), np.float32), labels, ("a", "b", "c"), predicted))
    assert found.tolist() == [[75, 25, 0], [100, 0, 0], [0, 0, 0]]
