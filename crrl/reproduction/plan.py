"""Which runs a target needs: one for each distinct configuration, however many cells it serves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from crrl.config import Config, Dataset, Precision, Recipe, preset
from crrl.data import prepare
from crrl.errors import CrrlError
from crrl.files import content_hash
from crrl.methods import METHODS, Method, first_alone
from crrl.reproduction.paper import Column, Protocol, Row, Target, columns_of

QUICK_EPOCHS = 2
EVALUATION_EPOCHS = 2
"""Epochs of training that last about as long as an evaluation, for the estimate of the time left."""

NO_MATTER = ("data", "teacher", "device", "checkpoint_every", "capture", "compile_decoder")
"""Settings that are not part of what a run is: where things lie, and what changes speed alone."""

TEACHING = ("distill_weight", "teacher_dropout")
"""Settings of step 2 that only a method with a teacher reads."""


@dataclass(frozen=True)
class Settings:
    """What a user chose for all runs of a target.

    Attributes:
        seeds: 0 to seeds - 1 are run. quick: QUICK_EPOCHS epochs a phase, to see that everything works.
        folders: where data sets are looked for, in this order; none: $CRRL_DATA.
    """

    recipe: Recipe = "paper"
    seeds: int = 1
    quick: bool = False
    fused: bool = True
    precision: Precision = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    folders: tuple[Path, ...] = ()

    def config(self, dataset: str, split: str) -> Config:
        """What every run on a split shares."""
        config = preset(cast(Dataset, dataset), self.recipe)
        if self.quick:
            cml, ser = replace(config.cml, epochs_cml=QUICK_EPOCHS), replace(config.ser, epochs_ser=QUICK_EPOCHS)
            config = replace(config, cml=cml, ser=ser)
        return replace(config, split=split, fused=self.fused, precision=self.precision, device=self.device)


@dataclass(frozen=True)
class Material:
    """A split of a data set that is at hand.

    Attributes:
        data: the folder of its files, None: $CRRL_DATA, or none needed. fingerprint: of its clips.
        train_clips: how many train. tests: clips of each test set.
    """

    data: Path | None
    fingerprint: str
    train_clips: int
    tests: dict[str, int]


@dataclass(frozen=True)
class Run:
    """A run to train: a configuration (without teacher) on known clips, and the run that serves as its first phase."""

    config: Config
    material: Material
    first: Run | None

    @cached_property
    def name(self) -> str:
        """Its folder: readable, and with a hash of all that determines the result."""
        config, parts = self.config, []
        for name, value in departures(config).items():
            if name in ("queue_size", "temperature", "momentum_encoder", "momentum_mlp"):
                parts += [name.replace("_", "-"), f"{value:g}"]
        short = "quick" if "epochs_cml" in departures(config) else None
        fast = "bf16" if config.precision == "bf16" else None
        words = [config.dataset, config.split_name, config.method, *parts, config.recipe, fast, short]
        return "-".join(word for word in (*words, f"seed{config.seed}", self._hash()[:8]) if word)

    def _hash(self) -> str:
        return content_hash([json.dumps(_determining(self.config), sort_keys=True), self.material.fingerprint])

    @property
    def epochs(self) -> int:
        """Epochs that it trains itself."""
        lengths = {"cml": self.config.cml.epochs_cml, "ser": self.config.ser.epochs_ser}
        own = METHODS[self.config.method][1 if self.first else 0 :]
        return sum(lengths[phase.step] for phase in own)

    @property
    def work(self) -> int:
        """Clips that pass through it, an evaluation among them."""
        return (self.epochs + EVALUATION_EPOCHS) * self.material.train_clips

    def training(self, runs: Path) -> list[str]:
        """The arguments of crrl.train that make this run below the folder `runs`."""
        teacher = runs / self.first.name if self.first else None
        config = replace(self.config, data=self.material.data, teacher=teacher)
        options = ["--dataset", config.dataset, "--recipe", config.recipe]
        for name, value in departures(config).items():
            options += _option(name, value)
        return [*options, "--out", str(runs / self.name)]

    def evaluation(self, runs: Path, protocol: Protocol) -> list[str]:
        """The arguments of crrl.evaluate that test it."""
        options = [str(runs / self.name), "--protocol", protocol]
        if self.config.device != "auto":
            options += ["--device", self.config.device]
        if self.material.data is not None:
            options += ["--data", str(self.material.data)]
        return options


def _determining(config: Config) -> dict[str, Any]:
    """The settings that the result of a run depends on: none that its method does not read."""
    settings = {key: value for key, value in config.to_dict().items() if key not in NO_MATTER}
    phases = METHODS[config.method]
    if not any(phase.contrast for phase in phases):
        del settings["cml"]
    if not any(phase.recite for phase in phases):
        del settings["ser"]
    elif not any(phase.teacher for phase in phases):
        settings["ser"] = {key: value for key, value in settings["ser"].items() if key not in TEACHING}
    return settings


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def departures(config: Config) -> dict[str, Any]:
    """Settings, by the name of their option, that are not the recipe's own."""
    own, standard = dict(_flat(config)), dict(_flat(preset(config.dataset, config.recipe)))
    return {name: value for name, value in own.items() if value != standard[name]}


def _flat(config: Any) -> Iterator[tuple[str, Any]]:
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _flat(value)
        else:
            yield item.name, value


@dataclass(frozen=True)
class Plan:
    """A target on the data sets at hand.

    Attributes:
        columns: those that can be filled. skipped: data sets, or columns of them, that cannot, and why.
        materials: by data set and split.
        cells: for a row's number and a column the runs whose results it averages, [seeds][splits].
    """

    name: str
    target: Target
    settings: Settings
    columns: tuple[Column, ...]
    skipped: dict[str, str]
    materials: dict[tuple[str, str], Material]
    cells: dict[tuple[int, Column], list[list[Run]]]

    @cached_property
    def runs(self) -> list[Run]:
        """Each run once, first phases before what needs them; seed by seed, so that the table is whole early."""
        ordered: dict[str, Run] = {}
        for seed in range(self.settings.seeds):
            for runs in self.cells.values():
                for run in runs[seed]:
                    if run.first is not None:
                        ordered.setdefault(run.first.name, run.first)
                    ordered.setdefault(run.name, run)
        return list(ordered.values())

    @property
    def mark(self) -> str:
        """What every caption of a quick page says; empty otherwise."""
        return f" (quick: {QUICK_EPOCHS} epochs a phase, no result)" if self.settings.quick else ""

    @cached_property
    def tested(self) -> set[str]:
        """Names of the runs that stand in a cell; the others are first phases alone."""
        return {run.name for seeds in self.cells.values() for runs in seeds for run in runs}

    def beside(self, column: Column, seed: int) -> list[list[Run]]:
        """For each split of a column the runs beside which the random encoder of a seed is tested."""
        rows = [seeds[seed] for (_, other), seeds in self.cells.items() if other == column]
        return [list(runs) for runs in zip(*rows, strict=True)]


def make_plan(name: str, target: Target, datasets: Sequence[str], settings: Settings) -> Plan:
    """What to run for `target` on `datasets`; none given: those of the target that are at hand.

    Raises:
        CrrlError: none of the data sets is at hand.
    """
    wanted = list(dict.fromkeys(datasets or (column.dataset for column in target.columns)))
    columns, skipped, materials = _search(target, wanted, settings)
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CrrlError(f"no data set for {name} is at hand ({reasons}); --dataset synthetic needs no files")
    cells = {
        (number, column): [_runs(row.method, row, column, seed, materials, settings) for seed in range(settings.seeds)]
        for number, row in enumerate(target.rows)
        for column in columns
        if row.method is not None
    }
    return Plan(name, target, settings, tuple(columns), skipped, materials, cells)


def _search(
    target: Target, datasets: Sequence[str], settings: Settings
) -> tuple[list[Column], dict[str, str], dict[tuple[str, str], Material]]:
    """The columns at hand, what is left out and why, and the splits of the former."""
    columns: list[Column] = []
    skipped: dict[str, str] = {}
    materials: dict[tuple[str, str], Material] = {}
    for dataset in datasets:
        missing: dict[str, str] = {}
        before = len(columns)
        for column in _columns(target, dataset, settings):
            try:
                materials |= {(dataset, split): find(dataset, split, settings) for split in column.splits}
                columns.append(column)
            except CrrlError as error:
                missing[column.name] = str(error)
        skipped |= missing if len(columns) > before else {dataset: next(iter(missing.values()))}
    return columns, skipped, materials


def _columns(target: Target, dataset: str, settings: Settings) -> tuple[Column, ...]:
    known = dataset in get_args(Dataset)
    default = preset(cast(Dataset, dataset)).split_name if known else ""
    columns = columns_of(target, dataset, default)
    return columns[:1] if settings.quick else columns


def find(dataset: str, split: str, settings: Settings) -> Material:
    """A data set's split, in the first of the folders that has it; prepared, so that every run finds it so.

    Raises:
        CrrlError: it is in none of them.
    """
    if dataset not in get_args(Dataset):
        raise CrrlError("this version of crrl does not read it")
    steps = settings.config(dataset, split).preprocessing
    reasons = []
    for folder in settings.folders or (None,):
        try:
            prepared = prepare(dataset, folder, split, steps)
        except CrrlError as error:
            reasons.append(str(error))
            continue
        chosen = prepared.clips.split(split)
        tests = {name: len(index) for name, index in chosen.test.items()}
        data = None if folder is None or dataset == "synthetic" else folder.absolute()
        return Material(data, prepared.fingerprint, len(chosen.train), tests)
    raise CrrlError("; ".join(reasons))


Materials = dict[tuple[str, str], Material]


def _runs(method: Method, row: Row, column: Column, seed: int, materials: Materials, settings: Settings) -> list[Run]:
    """A run for each split of the column."""
    runs = []
    for split in column.splits:
        config = replace(settings.config(column.dataset, split), method=method, seed=seed)
        config = replace(config, cml=replace(config.cml, **dict(row.settings)))  # type: ignore[arg-type]
        runs.append(make_run(config, materials[column.dataset, split]))
    return runs


def make_run(config: Config, material: Material) -> Run:
    """The run of a configuration, and of its first phase where that is a method of its own."""
    if len(METHODS[config.method]) == 1:
        return Run(config, material, None)
    return Run(config, material, Run(replace(config, method=first_alone(config.method)), material, None))
