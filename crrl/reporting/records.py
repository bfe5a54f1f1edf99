"""The records in a run's folder: its losses per epoch, and the tables of its evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crrl.errors import CrrlError, command
from crrl.files import read_bytes, read_json
from crrl.runs import RunFolder

NO_LOSS = {"phase", "epoch", "step", "lr", "clips_per_second"}


@dataclass(frozen=True)
class Phase:
    """The epochs of one phase.

    Attributes:
        name: "cml" or "ser". losses: by name, a value per epoch.
        seconds: training time per clip, summed over the epochs.
    """

    name: str
    losses: dict[str, list[float]]
    seconds: float


@dataclass(frozen=True)
class Table:
    """An evaluation of a run.

    Attributes:
        title: the protocol and its options that are not the defaults, as in the file's name. measure: what the numbers
            are, in words.
        on: the data set and split, if they are not the run's; else "". clips: the number of clips of each test set.
        rows: percent, by row and test set.
    """

    title: str
    measure: str
    on: str
    clips: dict[str, int]
    rows: dict[str, dict[str, float]]


def read_phases(run: RunFolder) -> list[Phase]:
    """The phases in a run's metrics.jsonl.

    Raises:
        CrrlError: the file is missing, empty or damaged; names the damaged line.
    """
    path, epochs = run.metrics_path, list[dict[str, Any]]()
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            epochs.append(_epoch(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise CrrlError(f"{path}, line {number}: no epoch's losses ({error}): restore the file") from error
    if not epochs:
        raise CrrlError(f"{path} holds no epoch: restore it, or train this run again")
    names = dict.fromkeys(epoch["phase"] for epoch in epochs)
    return [_phase(name, [epoch for epoch in epochs if epoch["phase"] == name]) for name in names]


def _epoch(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("phase"), str):
        raise ValueError("it names no phase")
    if "loss" not in value or not all(isinstance(value[name], int | float) for name in value if name != "phase"):
        raise ValueError("a number is missing")
    return value


def _phase(name: str, epochs: list[dict[str, Any]]) -> Phase:
    losses = [loss for loss in epochs[0] if loss not in NO_LOSS]
    shown = losses if len(losses) > 2 else losses[:1]  # with a single part, the loss is that part
    rates = [epoch.get("clips_per_second", 0) for epoch in epochs]
    return Phase(
        name,
        {loss: [epoch.get(loss, float("nan")) for epoch in epochs] for loss in shown},
        sum(1 / rate for rate in rates if rate > 0),
    )


def read_tables(run: RunFolder, needed: bool = True) -> list[Table]:
    """The evaluations in a run's folder, linear ones first.

    Raises:
        CrrlError: there is none though one is `needed`, or one is damaged.
    """
    paths = sorted(run.path.glob("evaluation-*.json"), key=lambda path: ("-linear" not in path.name, path.name))
    if needed and not paths:
        raise CrrlError(f"{run.path} has no evaluation yet: make one by {command('evaluate', run.path)}")
    tables = []
    for path in paths:
        try:
            tables.append(_table(path.stem.removeprefix("evaluation-"), read_json(path)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CrrlError(f"{path} is not an evaluation by crrl ({error!r}): evaluate the run again") from error
    return tables


def _table(title: str, value: dict[str, Any]) -> Table:
    key = next(key for key in ("accuracy_percent", "map_percent", "") if key in value or not key)
    rows = {row: {test: float(number) for test, number in tests.items()} for row, tests in value[key].items()}
    clips = {test: int(count) for test, count in value["test_clips"].items()}
    if not rows or not all(tests.keys() == clips.keys() >= {"all"} for tests in rows.values()):
        raise ValueError("a row or a test set is missing")
    transferred = {name: value[name] for name in ("dataset", "split")} != value["pretrained_on"]
    measure = "accuracy" if key == "accuracy_percent" else "mean average precision"
    return Table(title, measure, ", ".join((value["dataset"], value["split"])) if transferred else "", clips, rows)


def settings_of(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a configuration and their values as text; nested ones are named like "cml.lr_cml"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, "default" if value is None else str(value)
