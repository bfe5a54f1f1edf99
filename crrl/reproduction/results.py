"""The cells of a table from finished runs: mean and standard deviation over seeds, beside the paper's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from crrl.files import explain_damage, read_json
from crrl.methods import METHODS
from crrl.reproduction.paper import Column, Row, Target, paper_number
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import losses

HEADLINES = {"linear": "last epoch", "knn": "1-NN", "logistic": "logistic", "loss": "last epoch"}
"""The headline of each protocol among its readings; the page has the others after it."""
Key = int | str
"""A row's number, or a floor's name."""
Readings = dict[tuple[str, str], float]
"""One encoder's numbers by (reading, test set)."""
Found = list[list[Readings]]
"""[seeds][folds]."""
RANDOM = "random encoder"
FLOORS = (RANDOM, "raw")
"""What is tested beside every run: a randomly initialised encoder, and the coordinates without an encoder."""
VERDICTS = ("better", "worse", "not told apart")
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Two-sided 5 % critical values of Student's t for 1, 2, ... 10 degrees of freedom; 2.23 serves for more."""


@dataclass(frozen=True)
class Difference:
    """The mean of `count` differences, and its standard error."""

    mean: float
    error: float
    count: int

    @property
    def told_apart(self) -> bool:
        """Whether the mean differs from 0 by a two-sided t-test at the level of 5 %."""
        return abs(self.mean) > T_QUANTILES[min(self.count - 1, len(T_QUANTILES)) - 1] * self.error

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        better, worse, neither = VERDICTS
        return neither if not self.told_apart else better if self.mean > 0 else worse


@dataclass(frozen=True)
class Cell:
    """One cell: the paper's number and ours.

    Attributes:
        runs: our numbers by seed, one per fold; a seed that lacks a fold is left out.
    """

    paper: float | None
    runs: dict[int, tuple[float, ...]]

    @property
    def values(self) -> tuple[float, ...]:
        """One value per seed, the mean over its folds."""
        return tuple(fmean(folds) for folds in self.runs.values())

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's number."""
        return None if self.paper is None or self.mean is None else self.mean - self.paper

    def beyond(self, other: Cell) -> Difference | None:
        """This cell minus another row's, over the seeds that both have; None for fewer than two differences.

        The seeds of one fold share its clips, so they are averaged, and the folds are the sample. With a single fold,
        the seeds are the sample.
        """
        found = self._differences(other)
        return Difference(fmean(found), stdev(found) / len(found) ** 0.5, len(found)) if len(found) > 1 else None

    def lead(self, other: Cell) -> float | None:
        """The mean of this cell minus another row's, over the seeds that both have; None if they share no seed."""
        found = self._differences(other)
        return fmean(found) if found else None

    def _differences(self, other: Cell) -> list[float]:
        """One difference per fold or, with a single fold, per seed."""
        pairs = [(self.runs[seed], other.runs[seed]) for seed in self.runs if seed in other.runs]
        by_seed = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
        by_fold = [fmean(differences) for differences in zip(*by_seed, strict=True)]
        return by_fold if len(by_fold) > 1 else [difference for (difference,) in by_seed]


@dataclass(frozen=True)
class Scores:
    """All cells of a table for one reading, as crrl.evaluate names it, and one test set; losses have no floors."""

    reading: str
    tests: str
    cells: dict[tuple[Key, Column], Cell]

    @property
    def columns(self) -> set[Column]:
        """The columns in which any cell has a number of ours."""
        return {column for (_, column), cell in self.cells.items() if cell.values}

    def beyond_first(self, key: Key, column: Column) -> Difference | None:
        """A row's or floor's difference from the first row; None for the first row itself."""
        return None if key == 0 else self.cells[key, column].beyond(self.cells[0, column])


def lines(target: Target) -> list[tuple[Key, Row]]:
    """The rows of a target, and below them the floors that are not among its rows."""
    is_row = any(row.kind == "ours" and row.method is None for row in target.rows)
    shown = () if target.protocol == "loss" else FLOORS[1:] if is_row else FLOORS
    return [*enumerate(target.rows), *((name, Row(name, kind="floor")) for name in shown)]


@dataclass(frozen=True)
class Overall:
    """A row over several data sets, each a column.

    Attributes:
        number: the row's number. rank: its mean rank over the sets, 1 for the best row of a set; ties share their mean.
        worst: the set in which it has the smallest lead over the first row. lead: that lead, negative if it is behind.
        error: the standard error of the lead.
    """

    number: int
    rank: float
    worst: Column
    lead: float
    error: float | None


def overall(scores: Scores, columns: Sequence[Column]) -> list[Overall]:
    """The rows that have numbers in all columns, the best worst lead first; empty for fewer than two columns."""
    if len(columns) < 2:
        return []
    leads: dict[int, dict[Column, float]] = {}
    for number in dict.fromkeys(key for key, _ in scores.cells if isinstance(key, int)):
        found = {column: scores.cells[number, column].lead(scores.cells[0, column]) for column in columns}
        leads[number] = {column: lead for column, lead in found.items() if lead is not None}
    whole = [number for number, found in leads.items() if len(found) == len(columns)]
    ranks = [_ranks({number: leads[number][column] for number in whole}) for column in columns]
    rows = []
    for number in whole:
        worst, lead = min(leads[number].items(), key=lambda item: item[1])
        beyond = scores.beyond_first(number, worst)
        rank = fmean(each[number] for each in ranks)
        rows.append(Overall(number, rank, worst, lead, beyond.error if beyond else None))
    return sorted(rows, key=lambda row: (-row.lead, row.rank))


def _ranks(values: dict[int, float]) -> dict[int, float]:
    """The rank of each value, 1 for the largest; ties share the mean of their ranks."""
    everyone = values.values()
    return {
        number: 1 + sum(other > value for other in everyone) + (sum(other == value for other in everyone) - 1) / 2
        for number, value in values.items()
    }


def collect(plan: Plan, runs: Path) -> list[Scores]:
    """The scores of every reading and test set of a target's table; the headline on all test clips is first."""
    found: dict[tuple[Key, Column], Found] = {
        (number, column): _found(plan, number, column, runs)
        for number, row in enumerate(plan.target.rows)
        for column in plan.columns
        if row.kind == "ours"
    }
    headline = (HEADLINES[plan.target.protocol], "training clips" if plan.target.protocol == "loss" else "all")
    known = (key for seeds in found.values() for folds in seeds for fold in folds for key in fold)
    readings = dict.fromkeys([headline, *known])
    ordered = sorted(readings, key=lambda key: key[0] != headline[0])
    if plan.target.protocol != "loss":
        found |= {(name, column): _floor(plan, column, name, runs) for name in FLOORS for column in plan.columns}
    return [_scores(plan, reading, tests, found) for reading, tests in ordered]


def _scores(plan: Plan, reading: str, tests: str, found: dict[tuple[Key, Column], Found]) -> Scores:
    cells: dict[tuple[Key, Column], Cell] = {
        (number, column): Cell(paper_number(plan.target, row, column), {})
        for number, row in enumerate(plan.target.rows)
        for column in plan.columns
    }
    for place, seeds in found.items():
        whole = {
            seed: tuple(fold[reading, tests] for fold in folds)
            for seed, folds in enumerate(seeds)
            if all((reading, tests) in fold for fold in folds)
        }
        cells[place] = Cell(cells[place].paper if place in cells else None, whole)
    return Scores(reading, tests, cells)


def _found(plan: Plan, number: int, column: Column, runs: Path) -> Found:
    """The numbers of a cell's encoders."""
    row = plan.target.rows[number]
    if row.method is None:
        return _floor(plan, column, RANDOM, runs)
    if row.loss:
        return [[_loss(run, row.loss, runs) for run in folds] for folds in plan.cells[number, column]]
    return [[read(run, plan, runs) for run in folds] for folds in plan.cells[number, column]]


def _loss(run: Run, name: str, runs: Path) -> Readings:
    values = losses(runs / run.name, name)
    return {("last epoch", "training clips"): values[-1]} if len(values) == _last_phase_epochs(run) else {}


def _last_phase_epochs(run: Run) -> int:
    step = METHODS[run.config.method][-1].step
    return run.config.cml.epochs_cml if step == "cml" else run.config.ser.epochs_ser


def _floor(plan: Plan, column: Column, name: str, runs: Path) -> Found:
    """A floor's numbers, from the first run of each split and seed that was tested beside it."""

    def beside(candidates: list[Run]) -> Readings:
        return next((found for run in candidates if (found := read(run, plan, runs, name))), {})

    return [[beside(fold) for fold in plan.beside(column, seed)] for seed in range(plan.settings.seeds)]


def read(run: Run, plan: Plan, runs: Path, floor: str = "") -> Readings:
    """The accuracies, in percent, of a run's encoder or of a floor beside it; empty if the run is not evaluated.

    Raises:
        CrrlError: the evaluation file is damaged or of another version.
    """
    path = runs / run.name / f"evaluation-{plan.target.protocol}.json"
    if not path.exists():
        return {}
    start = f"{floor or run.config.method}, "
    with explain_damage(path, "not an evaluation by this version of crrl", "delete it and run again"):
        return {
            (row.removeprefix(start), tests): float(accuracy)
            for row, values in read_json(path)["accuracy_percent"].items()
            if row.startswith(start)
            for tests, accuracy in values.items()
        }
