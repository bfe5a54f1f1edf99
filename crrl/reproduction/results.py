"""From finished runs to the cells of a table: mean and standard deviation over seeds, beside the paper's number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

from crrl.errors import CrrlError
from crrl.files import read_json
from crrl.methods import METHODS
from crrl.reproduction.paper import Column, paper_number
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import losses

HEADLINES = {"linear": "last epoch", "knn": "1-NN", "loss": "last epoch"}
"""The reading of each protocol that stands for it; all others come after it."""
Readings = dict[tuple[str, str], float]
"""Numbers of one encoder by (reading, test set)."""
Found = list[list[Readings]]
"""[seeds][folds]."""


@dataclass(frozen=True)
class Cell:
    """One cell: the paper's number and ours.

    Attributes:
        runs: ours, one for each seed and fold, [seeds][folds]; a seed that lacks a fold is left out.
    """

    paper: float | None
    runs: tuple[tuple[float, ...], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """One value a seed, the mean of its folds."""
        return tuple(fmean(folds) for folds in self.runs)

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.paper is None or self.mean is None else self.mean - self.paper

    def beyond(self, other: Cell) -> tuple[float, float] | None:
        """The mean of ours less another row's, seed by seed and fold by fold, and its standard error.

        None where there are not as many of both, or fewer than two.
        """
        own, its = chain(*self.runs), chain(*other.runs)
        if [*map(len, self.runs)] != [*map(len, other.runs)] or sum(map(len, self.runs)) < 2:
            return None
        differences = [a - b for a, b in zip(own, its, strict=True)]
        return fmean(differences), stdev(differences) / len(differences) ** 0.5


@dataclass(frozen=True)
class Scores:
    """A whole table read one way: `reading` as crrl.evaluate names it, on one test set."""

    reading: str
    tests: str
    cells: dict[tuple[int, Column], Cell]

    @property
    def columns(self) -> set[Column]:
        """Columns with any number of ours."""
        return {column for (_, column), cell in self.cells.items() if cell.values}


def collect(plan: Plan, runs: Path) -> list[Scores]:
    """Every reading of a target's table, the headline on all test clips first."""
    found = {
        (number, column): _found(plan, number, column, runs)
        for number, row in enumerate(plan.target.rows)
        for column in plan.columns
        if row.kind == "ours"
    }
    headline = (HEADLINES[plan.target.protocol], "training clips" if plan.target.protocol == "loss" else "all")
    known = (key for seeds in found.values() for folds in seeds for fold in folds for key in fold)
    readings = dict.fromkeys([headline, *known])
    ordered = sorted(readings, key=lambda key: key[0] != headline[0])
    return [_scores(plan, reading, tests, found) for reading, tests in ordered]


def _scores(plan: Plan, reading: str, tests: str, found: dict[tuple[int, Column], Found]) -> Scores:
    cells = {}
    for number, row in enumerate(plan.target.rows):
        for column in plan.columns:
            whole = [
                tuple(fold[reading, tests] for fold in folds)
                for folds in found.get((number, column), [])
                if all((reading, tests) in fold for fold in folds)
            ]
            cells[number, column] = Cell(paper_number(plan.target, row, column), tuple(whole))
    return Scores(reading, tests, cells)


def _found(plan: Plan, number: int, column: Column, runs: Path) -> Found:
    """What is read in a cell."""
    row = plan.target.rows[number]
    if row.method is None:
        candidates = [plan.beside(column, seed) for seed in range(plan.settings.seeds)]
        return [[_random(fold, plan, runs) for fold in folds] for folds in candidates]
    if row.loss:
        return [[_loss(run, row.loss, runs) for run in folds] for folds in plan.cells[number, column]]
    return [[read(run, plan, runs) for run in folds] for folds in plan.cells[number, column]]


def _loss(run: Run, name: str, runs: Path) -> Readings:
    values = losses(runs / run.name, name)
    return {("last epoch", "training clips"): values[-1]} if len(values) == _last_phase_epochs(run) else {}


def _last_phase_epochs(run: Run) -> int:
    step = METHODS[run.config.method][-1].step
    return run.config.cml.epochs_cml if step == "cml" else run.config.ser.epochs_ser


def _random(candidates: list[Run], plan: Plan, runs: Path) -> Readings:
    """The random encoder, as tested beside the first of these runs that is evaluated."""
    return next((found for run in candidates if (found := read(run, plan, runs, random=True))), {})


def read(run: Run, plan: Plan, runs: Path, random: bool = False) -> Readings:
    """The accuracies, in percent, of a run's encoder or of the random one beside it; none where it is not evaluated.

    Raises:
        CrrlError: the evaluation's file is damaged or of another version.
    """
    path = runs / run.name / f"evaluation-{plan.target.protocol}.json"
    if not path.exists():
        return {}
    start = "random encoder, " if random else f"{run.config.method}, "
    try:
        return {
            (row.removeprefix(start), tests): float(accuracy)
            for row, values in read_json(path)["accuracy_percent"].items()
            if row.startswith(start)
            for tests, accuracy in values.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CrrlError(f"{path} is no evaluation of this version of crrl: delete it and run again") from error
