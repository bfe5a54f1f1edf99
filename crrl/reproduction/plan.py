"""The runs that a target needs: one for each distinct configuration, however many cells it fills."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

from crrl.config import Config, Precision, Recipe
from crrl.data import Preprocessing, prepare
from crrl.data.folds import fold_names
from crrl.data.registry import PRESETS, SOURCES, Dataset
from crrl.data.sources import own_folders
from crrl.errors import CrrlError
from crrl.files import content_hash
from crrl.methods import METHODS, Method, first_alone
from crrl.recipes import preset
from crrl.reproduction.paper import Column, Protocol, Row, Target, columns_of, measured_by

QUICK_EPOCHS = 2
EVALUATION_EPOCHS = 2
"""An evaluation takes about as long as so many epochs of training: for the estimate of the time left."""

NO_MATTER = ("data", "teacher", "device", "compile")
"""Settings that do not identify a run: the places of files, and what changes speed alone."""

NAMED_ALREADY = ("dataset", "split", "method", "recipe", "precision", "seed", "fused")
"""Settings that a run's name has in a place of their own, or only in its hash."""

TEACHING = ("distill_weight",)
"""Settings of step 2 that only methods with a teacher read."""


@dataclass(frozen=True)
class Settings:
    """The user's choices for all runs of a target.

    Attributes:
        seeds: how many seeds, from 0 on. quick: QUICK_EPOCHS epochs a phase, to see that everything works.
        folders: where data sets are looked for, in this order; empty: $CRRL_DATA.
    """

    recipe: Recipe = "paper"
    seeds: int = 1
    quick: bool = False
    fused: bool = True
    precision: Precision = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    folders: tuple[Path, ...] = ()

    def config(self, dataset: str, split: str) -> Config:
        """The configuration that all runs on a split share."""
        config = preset(cast(Dataset, dataset), self.recipe)
        if self.quick:
            cml, ser = replace(config.cml, epochs_cml=QUICK_EPOCHS), replace(config.ser, epochs_ser=QUICK_EPOCHS)
            config = replace(config, cml=cml, ser=ser)
        return replace(config, split=split, fused=self.fused, precision=self.precision, device=self.device)


@dataclass(frozen=True)
class Material:
    """An available split of a data set.

    Attributes:
        data: the folder of its files; None: $CRRL_DATA, or none needed. fingerprint: the fingerprint of its clips.
        train_clips: the number of training clips. tests: the number of clips of each test set.
        folds: the splits that are folds of the training clips alone.
    """

    data: Path | None
    fingerprint: str
    train_clips: int
    tests: dict[str, int]
    folds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run to train: a configuration (without teacher), its clips, and the run that serves as its first phase."""

    config: Config
    material: Material
    first: Run | None

    @cached_property
    def name(self) -> str:
        """The name of the run's folder: readable words, and a hash of all that determines the result."""
        config = self.config
        quick = "quick" if config.cml.epochs_cml == config.ser.epochs_ser == QUICK_EPOCHS else ""
        unsaid = (*NAMED_ALREADY, "epochs_cml", "epochs_ser") if quick else NAMED_ALREADY
        matter = set(_leaves(_determining(config))).difference(unsaid)
        parts = [f"{name}-{_short(value)}" for name, value in departures(config).items() if name in matter]
        fast = "bf16" if config.precision == "bf16" else ""
        words = [self._dataset, config.split_name, config.method, *parts, config.recipe, fast, quick]
        said = "-".join(word for word in (*words, f"seed{config.seed}", self._hash()[:8]) if word)
        return said.replace("_", "-")

    @property
    def _dataset(self) -> str:
        """The data set's name; for the user's own clips, their folder's."""
        if self.config.dataset != "folder" or self.material.data is None:
            return self.config.dataset
        return file_word(self.material.data.name)

    def _hash(self) -> str:
        return content_hash([json.dumps(_determining(self.config), sort_keys=True), self.material.fingerprint])

    @property
    def epochs(self) -> int:
        """Epochs that this run trains itself, without those of `first`."""
        lengths = {"cml": self.config.cml.epochs_cml, "ser": self.config.ser.epochs_ser}
        own = METHODS[self.config.method][1 if self.first else 0 :]
        return sum(lengths[phase.step] for phase in own)

    @property
    def work(self) -> int:
        """Clips that the run processes over all epochs, with its evaluation."""
        return (self.epochs + EVALUATION_EPOCHS) * self.material.train_clips

    def training(self, runs: Path) -> list[str]:
        """The arguments with which crrl.train makes this run below the folder `runs`."""
        teacher = runs / self.first.name if self.first else None
        config = replace(self.config, data=self.material.data, teacher=teacher)
        options = ["--dataset", config.dataset, "--recipe", config.recipe]
        for name, value in departures(config).items():
            options += _option(name, value)
        return [*options, "--no-evaluate", "--out", str(runs / self.name)]

    def evaluation(self, runs: Path, *protocols: Protocol) -> list[str]:
        """The arguments with which crrl.evaluate tests this run."""
        options = [str(runs / self.name)]
        for protocol in protocols:
            options += ["--protocol", protocol]
        if self.config.device != "auto":
            options += ["--device", self.config.device]
        if self.material.data is not None:
            options += ["--data", str(self.material.data)]
        return options


def _determining(config: Config) -> dict[str, Any]:
    """The settings that determine the result of a run; those that its method does not read are left out."""
    settings = {key: value for key, value in config.to_dict().items() if key not in NO_MATTER}
    phases = METHODS[config.method]
    if not any(phase.contrast for phase in phases):
        del settings["cml"]
    if not any(phase.recite for phase in phases):
        del settings["ser"]
    elif not any(phase.teacher for phase in phases):
        settings["ser"] = {key: value for key, value in settings["ser"].items() if key not in TEACHING}
    return settings


def file_word(name: str) -> str:
    """A name, cut to 40 characters, in characters that are safe in a file's name."""
    return re.sub(r"[^\w.]+", "-", name)[:40].strip("-.")


def _leaves(settings: dict[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        yield from _leaves(value) if isinstance(value, dict) else (name,)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def departures(config: Config) -> dict[str, Any]:
    """The settings that differ from the recipe, by the names of their options."""
    own, standard = dict(_flat(config)), dict(_flat(preset(config.dataset, config.recipe)))
    return {name: value for name, value in own.items() if value != standard[name]}


def _flat(config: Any) -> Iterator[tuple[str, Any]]:
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _flat(value)
        else:
            yield item.name, value


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """A configuration with the values in `settings`, by the names of their options; other names are ignored."""
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    parts = {name: changed(value, settings) for name, value in values.items() if is_dataclass(value)}
    return replace(config, **parts, **{name: settings[name] for name in values if name in settings})


@dataclass(frozen=True)
class Plan:
    """A target on the available data sets.

    Attributes:
        columns: the columns that can be filled. skipped: why each other data set, or column of one, cannot.
        materials: by data set and split, as the recipe prepares them.
        cells: by row number and column, the runs whose results the cell averages, [seeds][splits].
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
        """Each run once, after its first phase; in the order of seeds, so that the table is complete early."""
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
        """The warning in every caption of a quick page; empty otherwise."""
        return f" (quick: {QUICK_EPOCHS} epochs a phase, no result)" if self.settings.quick else ""

    @cached_property
    def tested(self) -> set[str]:
        """Names of the runs that belong to a cell; the others only serve as first phases."""
        return {run.name for seeds in self.cells.values() for runs in seeds for run in runs}

    def tests(self, run: Run) -> bool:
        """Whether the plan evaluates a run's encoder."""
        return self.target.protocol != "loss" and run.name in self.tested

    def beside(self, column: Column, seed: int) -> list[list[Run]]:
        """For each split of a column, the runs of a seed beside which the floors are tested; all give equal floors.

        For a target that is compared with its first row, only that row's runs: others may prepare clips differently.
        """
        rows = [seeds[seed] for (_, other), seeds in self.cells.items() if other == column]
        return [list(runs) for runs in zip(*rows[: 1 if self.target.against_first else None], strict=True)]

    def measured_by(self, protocol: Protocol) -> Plan:
        """The same runs measured by another protocol, on a page of its own."""
        numbers = [number for number, row in enumerate(self.target.rows) if row.kind == "ours"]
        cells = {(numbers.index(number), column): runs for (number, column), runs in self.cells.items()}
        return replace(self, name=f"{self.name}-{protocol}", target=measured_by(self.target, protocol), cells=cells)


@dataclass(frozen=True)
class DataSet:
    """A data set to look for: its name in a configuration, and the finder of its clips."""

    dataset: Dataset
    finder: Finder

    def material(self, split: str, settings: Settings) -> Material:
        """A split as the recipe prepares it.

        Raises:
            CrrlError: it is not available.
        """
        return self.finder.find(settings.config(self.dataset, split))

    def folds(self, settings: Settings) -> tuple[str, ...]:
        """The folds of its training clips; empty if it has none or is not available."""
        try:
            return self.material(PRESETS[self.dataset].split, settings).folds
        except CrrlError:
            return ()


def data_sets(datasets: Sequence[str], folders: Sequence[Path]) -> dict[str, DataSet]:
    """The data sets, by the names that pages give them.

    With "folder" in `datasets`, each of `folders` (empty: $CRRL_DATA) that holds the user's own clips is a data set of
    the folder's name. Other data sets are looked for in all folders.

    Raises:
        CrrlError: a folder that is searched for the user's own clips is missing, or its manifest is damaged.
    """
    everywhere = Finder(folders)
    found: dict[str, DataSet] = {}
    for dataset in datasets:
        own = own_folders(folders) if dataset == "folder" else []
        finders = {name: Finder((folder,)) for name, folder in zip(_names(own), own, strict=True)}
        for name, finder in (finders or {dataset: everywhere}).items():
            found[name] = DataSet(cast(Dataset, dataset), finder)
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that differ from each other and from the names of data sets."""
    longer = (["/".join(folder.parts[-parts:]) for folder in folders] for parts in count(1))
    return next(names for names in longer if len({*names, *PRESETS}) == len(names) + len(PRESETS))


def make_plan(name: str, target: Target, datasets: Sequence[str], settings: Settings) -> Plan:
    """The plan of `target` on `datasets`; if empty, on the target's own data sets that are available.

    Raises:
        CrrlError: none of the data sets is available.
    """
    sets = data_sets(datasets or [column.dataset for column in target.columns], settings.folders)
    columns, skipped, materials = _search(target, sets, settings)
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CrrlError(f"no data set for {name} was found ({reasons}); --dataset synthetic needs no files")
    if target.against_first:
        first, recipes = target.rows[0], [preset(sets[column.dataset].dataset, settings.recipe) for column in columns]
        rows = tuple(row for row in target.rows if row is first or _departs(row, first, recipes, settings))
        target = replace(target, rows=rows)
    cells = {
        (number, column): [_runs(row, column, seed, sets[column.dataset], settings) for seed in range(settings.seeds)]
        for number, row in enumerate(target.rows)
        for column in columns
        if row.method is not None
    }
    return Plan(name, target, settings, tuple(columns), skipped, materials, cells)


def _search(
    target: Target, sets: Mapping[str, DataSet], settings: Settings
) -> tuple[list[Column], dict[str, str], dict[tuple[str, str], Material]]:
    """The columns that can be filled, why others cannot, and the materials of the former."""
    columns: list[Column] = []
    skipped: dict[str, str] = {}
    materials: dict[tuple[str, str], Material] = {}
    for dataset, found in sets.items():
        missing: dict[str, str] = {}
        before = len(columns)
        for column in _columns(target, dataset, found, settings):
            try:
                for split in column.splits:
                    materials[dataset, split] = found.material(split, settings)
                columns.append(column)
            except CrrlError as error:
                missing[column.name] = str(error)
        skipped |= missing if len(columns) > before else {dataset: next(iter(missing.values()))}
    return columns, skipped, materials


def _columns(target: Target, name: str, found: DataSet, settings: Settings) -> tuple[Column, ...]:
    known = not target.against_first or any(column.dataset == name for column in target.columns)
    folds = () if known else found.folds(settings)
    columns = columns_of(target, name, PRESETS[found.dataset].split, folds)
    if settings.quick:
        return (replace(columns[0], splits=columns[0].splits[:1]),)
    return columns


def _departs(row: Row, first: Row, recipes: Sequence[Config], settings: Settings) -> bool:
    """Whether a row differs from the first row on any data set."""
    return any(
        changed(recipe, _settings(row, settings)) != changed(recipe, _settings(first, settings)) for recipe in recipes
    )


def _settings(row: Row, settings: Settings) -> dict[str, Any]:
    """A row's settings; without its numbers of epochs in a quick run, which has its own."""
    return {name: value for name, value in row.settings if not (settings.quick and name.startswith("epochs_"))}


class Finder:
    """Finds the clips of configurations; clips that several share are prepared once.

    Args:
        folders: where to look, in this order; empty: $CRRL_DATA.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders or (None,)
        self._found: dict[tuple[str, str, Preprocessing], Material] = {}

    def find(self, config: Config) -> Material:
        """The split of a configuration, in the first folder that has it; prepared, so that runs find it in the cache.

        Raises:
            CrrlError: no folder has it.
        """
        key = config.dataset, config.split_name, config.preprocessing
        if key not in self._found:
            self._found[key] = self._look(*key)
        return self._found[key]

    def _look(self, dataset: str, split: str, steps: Preprocessing) -> Material:
        reasons = []
        for folder in self.folders:
            try:
                if dataset == "folder" and not own_folders([folder] if folder else []):
                    raise CrrlError(f"{folder or '$CRRL_DATA'} holds no labels.csv")
                prepared = prepare(dataset, folder, split, steps)
            except CrrlError as error:
                reasons.append(str(error))
                continue
            chosen = prepared.clips.split(split)
            tests = {name: len(index) for name, index in chosen.test.items()}
            data = None if folder is None or SOURCES[dataset].embedded else folder.absolute()
            folds = fold_names(prepared.clips.splits)
            return Material(data, prepared.fingerprint, len(chosen.train), tests, folds)
        raise CrrlError("; ".join(reasons))


def _runs(row: Row, column: Column, seed: int, found: DataSet, settings: Settings) -> list[Run]:
    """A run for each split of the column."""
    runs = []
    for split in column.splits:
        config = replace(settings.config(found.dataset, split), method=cast(Method, row.method), seed=seed)
        config = changed(config, _settings(row, settings))
        runs.append(make_run(config, found.finder.find(config)))
    return runs


def make_run(config: Config, material: Material) -> Run:
    """The run of a configuration, with a run of its first phase if the method has two phases.

    The second phase takes only weights from the first, so the first always has the recipe's features.
    """
    if len(METHODS[config.method]) == 1:
        return Run(config, material, None)
    features = preset(config.dataset, config.recipe).features
    first = replace(config, method=first_alone(config.method), features=features)
    return Run(config, material, Run(first, material, None))
