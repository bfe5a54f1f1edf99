"""Pages of one file: no network, nothing beside them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import FloatArray
from crrl.data.skeletons import Skeleton
from crrl.errors import CrrlError
from crrl.files import write_file
from crrl.reporting import plots
from crrl.reporting.findings import MOST_MISTAKES, TESTS, Findings
from crrl.reporting.motion import pack
from crrl.reporting.records import settings_of

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
"""By which a browser lets a page load nothing from anywhere, and send nothing."""


def need(extra: str, *libraries: str) -> None:
    """Raise where a library that an optional extra of crrl brings cannot be imported.

    Raises:
        CrrlError: names it, and the extra.
    """
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            raise CrrlError(f"{library} cannot be imported ({error}): pip install 'crrl[{extra}]'") from error


def refuse_place(out: Path) -> None:
    """Raise where a file cannot be written, before much is computed for it.

    Raises:
        CrrlError: its folder is not there or may not be written to, or it is a folder itself.
    """
    if out.is_dir():
        raise CrrlError(f"{out} is a folder: give --out the name of a file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise CrrlError(f"{out} cannot be written: {out.parent} is no folder that you may write to; choose another")


def write_page(out: Path, template: str, **values: Any) -> None:
    """Fill a template of this folder, with the scripts and styles that it names, and write it in one step.

    Raises:
        CrrlError: it cannot be written.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    def own(name: str) -> str:
        return (files(__package__) / name).read_text()

    environment = Environment(autoescape=True, trim_blocks=True)
    text = environment.from_string(own(template)).render(
        policy=POLICY, style=Markup(own("page.css")), skeleton_script=Markup(own("skeleton.js")), **values
    )
    write_file(out, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_clips(
    out: Path,
    title: str,
    lines: Sequence[str],
    labels: tuple[str, str, str],
    skeleton: Skeleton,
    rows: Sequence[tuple[str, Sequence[tuple[str, FloatArray]]]],
) -> None:
    """A page of moving clips, each [T, J, 3] and upright.

    Args:
        lines: stand above. labels: what the axes right, up and near are called. rows: a title, and clips by name.

    Raises:
        CrrlError: it cannot be written.
    """
    named = [clip for _, clips in rows for clip in clips]
    packed = {**pack([frames for _, frames in named], skeleton), "names": [name for name, _ in named]}
    counted = [(name, len(clips)) for name, clips in rows]
    write_page(
        out, "view.html", title=title, lines=lines, labels=labels, rows=counted, large=len(named) == 1,
        page=script_data({"clips": packed, "rows": [count for _, count in counted]}),
    )  # fmt: skip


def script_data(value: Any) -> Any:
    """JSON that can stand in a <script>: nothing in it can end that."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(text)


def write_report(out: Path, runs: Sequence[Findings]) -> None:
    """The report of runs, which are finished and evaluated.

    Raises:
        CrrlError: it cannot be written.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    names = [run.run.path.resolve().name for run in runs]
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
        script=Markup((files(__package__) / "report.js").read_text()),
    )


def _compared(names: Sequence[str], runs: Sequence[Findings]) -> dict[str, dict[str, float | None]]:
    """The headline of each evaluation, the first row on all test clips, by its title and the run's name."""
    headlines = [{table.title: next(iter(table.rows.values()))[TESTS] for table in run.tables} for run in runs]
    titles = dict.fromkeys(title for found in headlines for title in found)
    return {
        title: {name: found.get(title) for name, found in zip(names, headlines, strict=True)} for title in titles
    }


def versions() -> list[tuple[str, str]]:
    """What makes the page, by name and version."""
    found = [("Python", platform.python_version())]
    for package in ("crrl", "torch", "numpy", "scikit-learn", "plotly"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _data(run: Findings, sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the script draws of a run; the clips of its data set enter `sets`, once."""
    key = json.dumps([run.drawn.fingerprint, run.shown.tolist()])
    if key not in sets:
        packed = run.packed([run.clips.clip(int(index)) for index in run.shown])
        sets[key] = {**packed, "names": [run.clips.names[index] for index in run.shown]}
    nearest, cosines = run.neighbours
    recited = None
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
        "predicted": run.taken_for.tolist(),
        "neighbours": nearest.tolist(),
        "cosines": np.round(cosines.astype(np.float64), 3).tolist(),
        "map": plots.feature_map(run),
        "confusion": plots.confusion_matrix(run),
        "mistakes": run.mistakes[:MOST_MISTAKES],
        "recited": recited,
    }


def _words(name: str, run: Findings) -> dict[str, Any]:
    """What the template says of a run."""
    config, tested = run.config, int(run.tested.sum())
    training, tests = len(run.work.train), len(run.labels)
    shown = f"{len(run.shown) - tested} of {training} training clips and {tested} of {tests} test clips"
    mistakes = f"{len(run.mistakes)} of the {tested} test clips shown are taken for another class, the surest first"
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
        "accuracy": run.accuracy,
        "mistakes_said": f"{mistakes}; each beside its nearest training clip.",
        "no_decoder": run.recited.missing,
        "times": "; ".join(phases) + " (clips by clips a second, as logged).",
        "settings": list(settings_of(config.to_dict())),
    }
