"""The figures of a page: their data always as CSV, drawn if matplotlib (and for t-SNE scikit-learn) is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crrl.errors import CrrlError
from crrl.reproduction import figures
from crrl.reproduction.figures import Missing
from crrl.reproduction.inspection import Inspected, confusion, inspect
from crrl.reproduction.paper import CONFUSIONS, Column
from crrl.reproduction.plan import Plan, file_word
from crrl.reproduction.records import losses
from crrl.reproduction.results import Scores
from crrl.reproduction.sheets import write_csv
from crrl.runs import RunFolder

SHOWN_CLIPS = 3000
"""A t-SNE shows at most so many clips, evenly spaced over the test clips."""


@dataclass(frozen=True)
class Canvas:
    """Where the figures of one column are written, such as `path(".png")`, and their title."""

    plan: Plan
    column: Column
    scores: list[Scores]
    runs: Path
    out: Path

    @property
    def title(self) -> str:
        return f"{self.column.name}, recipe {self.plan.settings.recipe}{self.plan.mark}"

    def path(self, suffix: str) -> Path:
        place = f"{file_word(self.column.dataset)}-{self.column.splits[0]}"
        return self.out / f"{self.plan.name}-{place}{suffix}"


def draw(plan: Plan, scores: list[Scores], runs: Path, out: Path) -> str:
    """Draw the figures of a target into `out`; returns the section of the page, empty if it has none."""
    if plan.name not in _DRAWN:
        return ""
    lines = []
    for column in plan.columns:
        canvas = Canvas(plan, column, scores, runs, out)
        lines += [f"### {canvas.title}", *(list(_DRAWN[plan.name](canvas)) or ["Not drawn: no run is finished."])]
    return "\n\n".join(["## Figures", *lines])


def _image(path: Path, drawing: Callable[[Path], None]) -> str:
    """The line of Markdown that shows a figure, or says why it is not drawn."""
    try:
        drawing(path)
    except Missing as error:
        return f"Not drawn: {error}."
    return f"![{path.stem}]({path.name})"


def _losses(canvas: Canvas) -> Iterator[str]:
    """Loss curves: a value per epoch, for each seed."""
    curves: dict[str, list[list[float]]] = {}
    for number, row in enumerate(canvas.plan.target.rows):
        runs = [folds[0] for folds in canvas.plan.cells[number, canvas.column]]
        curves[row.name] = [losses(canvas.runs / run.name, row.loss) for run in runs]
    rows = [
        (name, seed, epoch, value)
        for name, seeds in curves.items()
        for seed, values in enumerate(seeds)
        for epoch, value in enumerate(values, 1)
    ]
    if not rows:
        return
    data = canvas.path(".csv")
    write_csv(data, ("curve", "seed", "epoch", "loss"), rows)
    yield _image(canvas.path(".png"), lambda path: figures.loss_curves(path, curves, canvas.title))
    yield f"Data: [{data.name}]({data.name})."


def _inspected(canvas: Canvas) -> Iterator[tuple[str, str, list[Inspected]]]:
    """For each row with finished runs: its name, its method, and an encoder per seed, on the column's first split."""
    for number, row in enumerate(canvas.plan.target.rows):
        runs = [folds[0] for folds in canvas.plan.cells[number, canvas.column]]
        done = [run for run in runs if RunFolder(canvas.runs / run.name).encoder_path.exists()]
        found = []
        for run in done:
            try:
                found.append(inspect(run, canvas.runs, with_predictions=canvas.plan.name == "figure6"))
            except CrrlError:  # the run's evaluation failed for the same reason, which the page gives
                continue
        if found:
            yield row.name, str(row.method), found


def _confusions(canvas: Canvas) -> Iterator[str]:
    """Confusion matrices, each the mean over seeds, beside the values that the paper's text gives."""
    matrices, classes, stated = {}, [], []
    for name, method, seeds in _inspected(canvas):
        classes = list(seeds[0].class_names)
        matrix = matrices[name] = np.mean([confusion(each) for each in seeds], axis=0)
        for of, true, taken, paper in CONFUSIONS:
            if of == method and canvas.column in canvas.plan.target.columns and {true, taken} <= set(classes):
                ours = matrix[classes.index(true), classes.index(taken)]
                stated.append(f"- {name}: “{true}” classified as “{taken}”: paper {paper:.0f} %, ours {ours:.0f} %.")
    if not matrices:
        return
    rows = [
        (name, classes[i], classes[j], round(float(matrix[i, j]), 4))
        for name, matrix in matrices.items()
        for i, j in np.ndindex(*matrix.shape)
    ]
    data = canvas.path(".csv")
    write_csv(data, ("encoder", "class", "classified as", "percent of the class"), rows)
    yield _image(canvas.path(".png"), lambda path: figures.confusion_matrices(path, matrices, classes, canvas.title))
    yield f"Data: [{data.name}]({data.name})."
    yield "\n".join(stated)


def _features(canvas: Canvas) -> Iterator[str]:
    """t-SNE of the test clips' features, for the first finished seed."""
    points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    classes: list[str] = []
    for name, _, (first, *_rest) in _inspected(canvas):
        classes = list(first.class_names)
        data = canvas.path(f"-{name.lower()}.csv")
        shown = np.linspace(0, len(first.labels) - 1, min(len(first.labels), SHOWN_CLIPS)).astype(int)
        labels, features = first.labels[shown], first.features[shown]
        try:
            points[name] = figures.tsne(features), labels
            header, values = ["x", "y"], points[name][0]
        except Missing as error:
            header, values = [f"feature {i}" for i in range(features.shape[1])], features
            yield f"No t-SNE of {name}: {error}."
        rows = ([classes[label], *(f"{x:.5g}" for x in row)] for label, row in zip(labels, values, strict=True))
        write_csv(data, ("class", *header), rows)
        yield f"Data of {name}: [{data.name}]({data.name})."
    if points:
        yield _image(canvas.path(".png"), lambda path: figures.scatters(path, points, classes, canvas.title))


def _sweeps(canvas: Canvas) -> Iterator[str]:
    """Accuracy against K and against τ, from the cells of the table."""
    headline, column = canvas.scores[0], canvas.column
    sweeps: dict[str, list[tuple[float, float, float, float | None]]] = {}
    for number, row in enumerate(canvas.plan.target.rows):
        cell = headline.cells[number, column]
        if cell.mean is not None:
            symbol, ((_, value),) = row.name.split(" = ")[0], row.settings
            sweeps.setdefault(symbol, []).append((value, cell.mean, cell.std or 0.0, cell.paper))
    if not sweeps:
        return
    data = canvas.path(".csv")
    rows = [(symbol, *point) for symbol, points in sweeps.items() for point in points]
    write_csv(data, ("setting", "value", "mean", "std", "paper"), rows)
    yield _image(canvas.path(".png"), lambda path: figures.sweeps(path, sweeps, canvas.title))
    yield f"Data: [{data.name}]({data.name})."


_DRAWN: dict[str, Callable[[Canvas], Iterator[str]]] = {
    "figure4": _losses,
    "figure6": _confusions,
    "figure7": _features,
    "figure8": _sweeps,
}
