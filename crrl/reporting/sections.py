"""The report of finished runs: its text on each run, and the data that its script draws."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from crrl.reporting import plots
from crrl.reporting.findings import MOST_MISTAKES, TESTS, Findings
from crrl.reporting.page import script_data, write_page
from crrl.reporting.records import settings_of


def write_report(out: Path, runs: Sequence[Findings]) -> None:
    """Write the report of finished and evaluated runs.

    Raises:
        CrrlError: `out` cannot be written.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    paths = [run.run.path.resolve() for run in runs]
    alike = len({path.name for path in paths}) < len(paths)
    names = [str(path) if alike else path.name for path in paths]
    sets: dict[str, dict[str, Any]] = {}
    described = [_data(run, sets) for run in runs]
    write_page(
        out,
        "report.html",
        title=f"crrl: {', '.join(names)}",
        versions=versions(),
        compared=_compared(names, runs) if len(runs) > 1 else None,
        runs=[_words(name, run) for name, run in zip(names, runs, strict=True)],
        page=script_data({"sets": [*sets.values()], "losses": plots.loss_curves(names, runs), "runs": described}),
        plotly=Markup(get_plotlyjs()),
    )


def _compared(names: Sequence[str], runs: Sequence[Findings]) -> dict[str, dict[str, float | None]]:
    """The headline (first row, all test clips) of each evaluation, by its title and the run's name; None: not run."""
    headlines = [{table.title: next(iter(table.rows.values()))[TESTS] for table in run.tables} for run in runs]
    titles = dict.fromkeys(title for found in headlines for title in found)
    return {title: {name: found.get(title) for name, found in zip(names, headlines, strict=True)} for title in titles}


def versions() -> list[tuple[str, str]]:
    """Names and versions of the software that makes the page."""
    found = [("Python", platform.python_version())]
    for package in ("crrl", "torch", "numpy", "scikit-learn", "plotly"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _data(run: Findings, sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The data of a run that the script draws; adds the clips shown to `sets`, once for runs that share them."""
    key = json.dumps([run.drawn.fingerprint, run.shown.tolist()])
    if key not in sets:
        packed = run.packed([run.clips.clip(int(index)) for index in run.shown])
        sets[key] = {**packed, "names": [run.clips.names[index] for index in run.shown]}
    nearest, cosines = run.neighbours
    recited: dict[str, Any] | None = None
    if not run.recited.missing:
        own, made = run.recited.own, run.recited.recited
        recited = {"own": run.packed(own), "made": run.packed(made, own), "clips": run.recited.clips}
        recited["direction"] = f"in direction {run.recited.direction}"
    return {
        "set": [*sets].index(key),
        "classes": run.class_names,
        "colors": plots.palette(len(run.class_names)),
        "labels": run.shown_labels.tolist(),
        "tested": run.tested.tolist(),
        "predicted": None if run.unscored else run.taken_for.tolist(),
        "neighbours": nearest.tolist(),
        "cosines": np.round(cosines.astype(np.float64), 3).tolist(),
        "map": plots.feature_map(run),
        "confusion": None if run.unscored else plots.confusion_matrix(run),
        "mistakes": run.mistakes[:MOST_MISTAKES],
        "recited": recited,
    }


def _words(name: str, run: Findings) -> dict[str, Any]:
    """The text about a run that the template shows."""
    config, tested = run.config, int(run.tested.sum())
    training, tests = len(run.work.train), len(run.labels)
    shown = f"{len(run.shown) - tested} of {training} training clips and {tested} of {tests} test clips"
    mistakes = f"{len(run.mistakes)} of the {tested} test clips shown are misclassified, the most confident first"
    if len(run.mistakes) > MOST_MISTAKES:
        mistakes += f"; the first {MOST_MISTAKES} of them"
    precision = f"{config.precision}, {'fused' if config.fused else 'reference'} backends"
    phases = [
        f"{phase.name}: {len(next(iter(phase.losses.values())))} epochs, about {phase.seconds * training:.0f} s"
        for phase in run.phases
    ]
    return {
        "name": name,
        "method": config.method,
        "about": f"Method {config.method}, recipe {config.recipe}, on {config.dataset}, split {config.split_name}; "
        f"{precision}; seed {config.seed}.",
        "tables": run.tables,
        "shown": shown,
        "skeleton": run.skeleton.name if run.skeleton.bones else "unknown, so its joints are points",
        "unscored": run.unscored,
        "accuracy": 0.0 if run.unscored else run.accuracy,
        "classifier": run.classifier,
        "mistakes_said": f"{mistakes}; each beside its nearest training clip.",
        "no_decoder": run.recited.missing,
        "recited_said": "Test clips" if tested else "Training clips",
        "times": "; ".join(phases) + " (clips by clips a second, as logged).",
        "settings": list(settings_of(config.to_dict())),
    }
