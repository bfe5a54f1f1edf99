"""The protocols on a run: its clips and encoders, and the rows of the table that each protocol gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from crrl.bars import bar
from crrl.classifier import Classifier, ClassifierProtocol, load_classifier, save_classifier
from crrl.config import Config, Recipe
from crrl.data import Clips, ClipTensors, Prepared, prepare
from crrl.data.augmentation import choose_yaw
from crrl.data.registry import NAMED_BY_FOLDER, PRESETS, Dataset
from crrl.data.sources import data_root
from crrl.errors import CrrlError, command
from crrl.evaluation import frozen
from crrl.evaluation.finetuning import FineTuning, fine_tune
from crrl.evaluation.frozen import Features
from crrl.evaluation.logistic import logistic_regression
from crrl.features import encode, fit, raw
from crrl.models import Encoder, FeatureExtractor
from crrl.recipes import preset
from crrl.runs import EncoderFile, RunFolder, load_encoder

Protocol = Literal["linear", "logistic", "knn", "retrieval", "fine-tune", "semi-supervised"]
FROZEN = ("linear", "logistic", "knn", "retrieval")
"""Protocols on frozen features, which are computed once for all of them."""
TRAINED = ("fine-tune", "semi-supervised")
"""Protocols that train the encoder as well."""

ONLY_WITH: dict[str, tuple[str, ...]] = {
    "neighbours": ("knn",),
    "features": FROZEN,
    "labels": ("semi-supervised",),
    "draws": ("semi-supervised",),
    "epochs": TRAINED,
    "batch_size": TRAINED,
    "lr": TRAINED,
    "seed": ("linear", *TRAINED),
}
"""Options that need one of these protocols."""

RANDOM, RAW = "random encoder", "raw"
"""The floors beside the run's encoder: an untrained encoder, and the clips' coordinates (crrl.features.raw)."""
LAST, BEST = "last epoch", "best epoch on test"
"""Rows of what is trained in epochs: the headline, and what is often published, an epoch chosen on the test clips."""

Rows = dict[str, dict[str, list[float]]]
"""{row: {test set: percentages, one for each draw of labels}}."""


class NothingToScore(CrrlError):
    """The clips have no labels, or none of them is a test clip."""


@dataclass(frozen=True)
class Outcome:
    """The result of a protocol.

    Attributes:
        rows: the rows of its table.
        settled: settings that it chose itself, {setting: {what for: value}}: for logistic, the strength for each
            candidate; for protocols that train encoders, the epochs run for each part of the labels.
        classifiers: the classifier of each candidate; None for a protocol without one.
    """

    rows: Rows
    settled: dict[str, dict[str, float]] = field(default_factory=dict)
    classifiers: dict[str, Classifier | None] = field(default_factory=dict)


MOST_DRAWS = 1000


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a run's encoder on the test clips of its split, beside a randomly initialised encoder and, for protocols on
    frozen features, the clips' own coordinates."""

    run: tyro.conf.Positional[Path]
    """Run folder, the --out of crrl.train."""
    protocol: Annotated[tuple[Protocol, ...], tyro.conf.UseAppendAction] = ()
    """linear (the default): a linear classifier on frozen features; logistic: logistic regression on frozen features,
    with its penalty chosen by cross-validation on the training clips; knn: the label of the nearest training clips, by
    cosine; retrieval: mean average precision of training clips ranked by cosine; fine-tune: encoder and classifier
    trained end to end; semi-supervised: the same with a part of the labels. Repeat the option for more tables."""
    neighbours: int = 1
    """knn: number of neighbours, with one vote each; ties go to the larger summed similarity."""
    features: Recipe | None = None
    """linear, logistic, knn, retrieval: features of this recipe, fitted to the training clips; None: the run's."""
    labels: tuple[float, ...] = (0.01, 0.05, 0.1)
    """semi-supervised: parts of the training clips that keep their labels; at least one clip of each class does."""
    draws: int = 5
    """semi-supervised: number of random draws of labelled clips; the table has their mean."""
    epochs: int = FineTuning.epochs
    """fine-tune, semi-supervised: epochs over the labelled clips; more if these make fewer than 200 steps."""
    batch_size: int = FineTuning.batch_size
    """fine-tune, semi-supervised: clips per step."""
    lr: float = FineTuning.lr
    """fine-tune, semi-supervised: peak learning rate (Adam under one-cycle)."""
    seed: int = 0
    """Random seed of the protocol's training and draws."""
    dataset: Dataset | None = None
    """Transfer: evaluate on this data set, preprocessed as the run's own."""
    split: str | None = None
    """Transfer: evaluate on this split; None: the run's split, or on another data set that one's default split."""
    data: Path | None = None
    """Folder of the data set's files, if it is not the one trained from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""

    def __post_init__(self) -> None:
        for name in self.changed():
            if not set(ONLY_WITH[name]) & set(self.protocols):
                option = f"--{name.replace('_', '-')}"
                raise CrrlError(f"{option} needs --protocol {' or '.join(ONLY_WITH[name])}")
        if self.neighbours < 1:
            raise CrrlError("--neighbours must be at least 1")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise CrrlError(f"--draws is {self.draws}: it must be from 1 to {MOST_DRAWS}")
        if not 0 <= self.seed < 2**31:
            raise CrrlError(f"--seed is {self.seed}: it must be in [0, 2^31)")
        if not self.labels or not all(0 < part <= 1 for part in self.labels):
            raise CrrlError(f"--labels are parts of all clips, such as 0.01 0.1, above 0 and at most 1: {self.labels}")

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The chosen protocols, each once; linear if none is."""
        return tuple(dict.fromkeys(self.protocol)) or ("linear",)

    def changed(self) -> dict[str, Any]:
        """The options in ONLY_WITH that differ from their defaults."""
        values = {name: getattr(self, name) for name in ONLY_WITH}
        return {name: value for name, value in values.items() if value != getattr(EvaluateOptions, name)}

    @property
    def transfer(self) -> bool:
        """Whether the options name another data set or split than the run's."""
        return self.dataset is not None or self.split is not None

    def fine_tuning(self) -> FineTuning:
        return FineTuning(self.epochs, self.batch_size, self.lr)


@dataclass(frozen=True)
class Target:
    """The data evaluated on: a data set by its name in a configuration, the folder of its files, and a split."""

    dataset: Dataset
    split: str
    data: Path | None

    @classmethod
    def of(cls, options: EvaluateOptions, config: Config) -> Target:
        if options.dataset is None or options.dataset == config.dataset:
            return cls(config.dataset, options.split or config.split_name, options.data or config.data)
        return cls(options.dataset, options.split or PRESETS[options.dataset].split, options.data)

    @property
    def folder(self) -> Path | None:
        """The folder that identifies the clips; None if the data set's name does."""
        return data_root(self.dataset, self.data).resolve() if self.dataset in NAMED_BY_FOLDER else None

    def prepare(self, run: RunFolder, trained: EncoderFile, transfer: bool) -> Prepared:
        """The clips, preprocessed as the run's were.

        Raises:
            CrrlError: their joint count is not the run's, or, without `transfer`, they are not the run's clips.
        """
        prepared = prepare(self.dataset, self.data, self.split, trained.preprocessor.steps)
        here, there = prepared.preprocessor.num_joints, trained.preprocessor.num_joints
        if here != there:
            raise CrrlError(
                f"the skeletons of {self.dataset} have {here} joints, but the encoder of {run.path} was trained on "
                f"{there}: it can be transferred to data sets of {there} joints alone"
            )
        if not transfer and prepared.fingerprint != trained.fingerprint:
            raise CrrlError(
                f"the data set has changed since {run.encoder_path} was trained on it: restore it, or give "
                "--dataset to transfer the encoder to another"
            )
        return prepared


@dataclass(frozen=True)
class Job:
    """One fine-tuning of an encoder.

    Attributes:
        part: the part of the training clips that keep their labels. seed: for the draw and the training.
        index: int64 [M], the labelled clips.
    """

    part: float
    seed: int
    index: Tensor

    @property
    def labelled(self) -> str:
        """The part of labels, in words."""
        return f"{100 * self.part:g} % of labels ({len(self.index)})"


class Evaluation:
    """A run's encoder, a random one and the raw coordinates on the clips of one split.

    Attributes:
        train, tests: int64 [N], the training clips and those of each test set.
        trained: the run's encoder file.
        encoders: the run's, by the name of its method, and the random one.
        seen: for a transfer to another split of the run's own clips, the number of test clips that the encoder was
            trained on; None for other clips, or without transfer.

    Raises:
        CrrlError: the run is not finished, the clips do not fit it, or there are fewer training clips than
            --neighbours.
    """

    def __init__(self, run: RunFolder, options: EvaluateOptions, device: torch.device):
        config = run.config()
        if not run.encoder_path.exists():
            raise CrrlError(
                f"{run.path} has no trained encoder yet: finish it by {command('train', '--resume', run.path)}"
            )
        self.trained = trained = load_encoder(run.encoder_path)
        self.run, self.options, self.config, self.target = run, options, config, Target.of(options, config)
        prepared = self.target.prepare(run, trained, options.transfer)
        clips, self._fingerprint = prepared.clips, prepared.fingerprint
        self.tensors, self.class_names = ClipTensors(clips, device), clips.class_names
        self.subjects = torch.from_numpy(clips.subjects)
        split = clips.split(self.target.split)
        self.train = torch.from_numpy(split.train)
        self.tests = {name: torch.from_numpy(index) for name, index in split.test.items()}
        if options.neighbours > len(self.train):
            raise CrrlError(f"--neighbours {options.neighbours}: there are {len(self.train)} training clips")
        self.seen = self._seen(clips, trained) if options.transfer else None
        torch.manual_seed(config.seed)
        sizes = config.encoder
        encoder = Encoder(self.tensors.channels, sizes.hidden_size, sizes.dropout, sizes.input_gain)
        self.kind = options.features or config.features
        recipe = preset(config.dataset, options.features) if options.features else config
        self.yaw = choose_yaw(recipe.turn_yaw, self.tensors, split.train)
        random = FeatureExtractor(encoder, self.kind)
        own = FeatureExtractor(trained.features.encoder, self.kind) if options.features else trained.features
        self.encoders = {config.method: own.eval().to(device), RANDOM: random.eval().to(device)}
        self.features = lru_cache(maxsize=None)(self._features)

    def _seen(self, clips: Clips, trained: EncoderFile) -> int | None:
        name = self.config.split_name
        if name in clips.splits:
            with suppress(CrrlError):  # such as a split without test clips, which no run was trained on
                own = prepare(self.target.dataset, self.target.data, name, trained.preprocessor.steps)
                if own.fingerprint == trained.fingerprint:
                    return int(torch.isin(self.tested, torch.from_numpy(clips.split(name).train)).sum())
        return None

    def _features(self, name: str) -> tuple[Features, dict[str, Features]]:
        """The candidate `name`'s features of the training clips and of each test set; each clip is encoded once."""
        clips = torch.unique(torch.cat([self.train, self.tested]))
        features = (encode(raw, self.tensors, clips) if name == RAW else self._encoded(name, clips)).cpu()

        def take(index: Tensor) -> Features:
            return Features(features[torch.searchsorted(clips, index)], self.tensors.labels[index])

        return take(self.train), {test: take(index) for test, index in self.tests.items()}

    def _encoded(self, name: str, clips: Tensor) -> Tensor:
        """An encoder's features, [N, D], of `clips`, int64 [N] in ascending order.

        The run's own features are already fitted; a transfer, another recipe and the random encoder need a new fit.
        """
        extractor = self.encoders[name]
        pooled = encode(extractor.pooled, self.tensors, clips)
        if self.options.transfer or self.options.features or name != self.config.method:
            train = torch.searchsorted(clips, self.train).to(pooled.device)
            fit(extractor, self.tensors, self.train, pooled[train], self.yaw)
        return extractor.adjusted(pooled)

    def outcome(self, protocol: Protocol) -> Outcome:
        """A protocol's result for all candidates, the run's encoder first."""
        if protocol in TRAINED:
            return self._fine_tuned(protocol)
        outcome = Outcome({})
        for name in (*self.encoders, RAW):
            rows, settled, outcome.classifiers[name] = self._frozen(protocol, *self.features(name))
            for setting, value in settled.items():
                outcome.settled.setdefault(setting, {})[name] = value
            for row, values in rows.items():
                outcome.rows[f"{name}, {row}"] = {test: [value] for test, value in values.items()}
        return outcome

    def _frozen(
        self, protocol: Protocol, train: Features, tests: dict[str, Features]
    ) -> tuple[dict[str, dict[str, float]], dict[str, float], Classifier | None]:
        """A candidate's rows, the settings that the protocol chose for it, and its classifier, if it has one."""
        classes, neighbours = len(self.class_names), self.options.neighbours
        if protocol == "linear":
            history, classifier = frozen.linear_probe(train, tests, classes, self.options.seed)
            return last_and_best(history), {}, classifier
        if protocol == "logistic":
            subjects = self.subjects[self.train]
            accuracy, strength, classifier = logistic_regression(train, tests, classes, subjects)
            return {"logistic": accuracy}, {"strength": strength}, classifier
        if protocol == "knn":
            return {f"{neighbours}-NN": frozen.nearest_neighbours(train, tests, neighbours)}, {}, None
        return {"mAP": frozen.mean_average_precision(train, tests)}, {}, None

    def keep_classifier(self, protocol: Protocol, outcome: Outcome) -> bool:
        """Keep the classifier of the run's own encoder in the run folder; returns whether one was kept.

        It replaces an earlier one. A transfer's classifier is kept only if there is none yet, as after a run on clips
        without labels.
        """
        classifier = outcome.classifiers.get(self.config.method)
        if classifier is None or (self.options.transfer and self.run.classifier_path.exists()):
            return False
        kind: ClassifierProtocol = "logistic" if protocol == "logistic" else "linear"
        anew = self.options.features or self.options.transfer
        refitted = self.encoders[self.config.method] if anew else None
        fitted = self.trained, refitted, self._fingerprint
        save_classifier(self.run.classifier_path, classifier, kind, self.class_names, *fitted)
        return True

    def kept_logits(self, test: str) -> tuple[Tensor, ClassifierProtocol] | None:
        """Logits [N, C] of a test set by the classifier kept in the run folder, and the protocol that trained it.

        None if there is no classifier, or it was trained on other clips.

        Raises:
            CrrlError: its file is damaged, or it belongs to another encoder.
        """
        if not self.run.classifier_path.exists():
            return None
        file = load_classifier(self.run, self.trained)
        if file.facts.fingerprint != self._fingerprint:
            return None
        if file.facts.refitted is None and not self.options.features:
            features = self.features(self.config.method)[1][test].features
        else:
            features = encode(file.features.to(self.tensors.frames.device), self.tensors, self.tests[test]).cpu()
        return file.classifier.logits(features), file.facts.protocol

    def _fine_tuned(self, protocol: Protocol) -> Outcome:
        jobs, settings, classes = self._jobs(protocol), self.options.fine_tuning(), len(self.class_names)
        clips = sum(settings.epochs_over(len(job.index)) * len(job.index) for job in jobs)
        outcome = Outcome({}, {"epochs_run": {job.labelled: settings.epochs_over(len(job.index)) for job in jobs}})
        with bar(len(self.encoders) * clips, protocol, "clip") as done:
            for name, extractor in self.encoders.items():
                for job in jobs:
                    what = f"{name}, {job.labelled}" if protocol == "semi-supervised" else name
                    done.set_description_str(f"{protocol}: {what}", refresh=False)
                    history = fine_tune(
                        extractor.encoder,
                        self.tensors,
                        job.index,
                        self.tests,
                        classes,
                        settings,
                        job.seed,
                        done.update,
                    )
                    for row, values in last_and_best(history).items():
                        for test, value in values.items():
                            outcome.rows.setdefault(f"{what}, {row}", {}).setdefault(test, []).append(value)
        return outcome

    def _jobs(self, protocol: Protocol) -> list[Job]:
        options, labels = self.options, self.tensors.labels[self.train]
        if protocol == "fine-tune":
            return [Job(1, options.seed, self.train)]
        return [
            Job(part, seed, self.train[frozen.stratified(labels, part, seed)])
            for part in options.labels
            for seed in range(options.seed, options.seed + options.draws)
        ]

    @property
    def tested(self) -> Tensor:
        """The clips of all test sets, int64 [N] in ascending order."""
        tested: Tensor = torch.unique(torch.cat([self.train[:0], *self.tests.values()]))
        return tested

    def missing(self) -> str:
        """Why the clips cannot be scored, and the remedy; "" if they can."""
        again = command("evaluate", self.run.path, "--dataset", self.target.dataset, "--data", "FOLDER")
        if not self.class_names:
            return f"the clips have no labels: list some in a labels.csv, with columns file,label, and score by {again}"
        if not self.tests:
            return (
                f"{self.target.dataset}, {self.target.split}, has no test clips: mark some test in the column split of "
                f"a labels.csv, and score by {again}"
            )
        return ""

    def untrained_classes(self) -> list[str]:
        """Names of the classes with test clips but no training clip."""
        labels = self.tensors.labels
        without = ~torch.isin(labels[self.tested], labels[self.train])
        return [self.class_names[label] for label in torch.unique(labels[self.tested][without]).tolist()]

    def sizes(self) -> dict[str, int]:
        """The number of clips of each test set."""
        return {name: len(index) for name, index in self.tests.items()}


def last_and_best(history: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The rows LAST and BEST, from each test set's percentages after every epoch."""
    return {
        LAST: {name: values[-1] for name, values in history.items()},
        BEST: {name: max(values) for name, values in history.items()},
    }
