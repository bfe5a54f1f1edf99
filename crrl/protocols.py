"""The protocols on a run: which clips and which encoders, and the rows of the table that each protocol gives."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from crrl import evaluation
from crrl.config import DATASETS, Config, Dataset, Recipe, preset
from crrl.data import ClipTensors, Prepared, prepare
from crrl.data.augmentation import choose_yaw
from crrl.errors import CrrlError
from crrl.evaluation import Features
from crrl.features import encode, fit
from crrl.finetuning import FineTuning, fine_tune
from crrl.models import Encoder, FeatureExtractor
from crrl.runs import EncoderFile, RunFolder, load_encoder

Protocol = Literal["linear", "knn", "retrieval", "fine-tune", "semi-supervised"]
FROZEN = ("linear", "knn", "retrieval")
"""Protocols that go by the encoder's features, which are computed once for all of them."""
TRAINED = ("fine-tune", "semi-supervised")
"""Protocols that train the encoder, too."""

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
"""Options that one of these protocols must be there for."""

Rows = dict[str, dict[str, list[float]]]
"""{row: {test set: percent, one value for each draw of labels}}."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a run's encoder on the test clips of its split, with a randomly initialised encoder beside it."""

    run: tyro.conf.Positional[Path]
    """Run folder, as --out of crrl.train named it."""
    protocol: Annotated[tuple[Protocol, ...], tyro.conf.UseAppendAction] = ()
    """linear (the default): a linear classifier on frozen features; knn: the label of the nearest training clips, by
    cosine; retrieval: mean average precision of test clips among the training clips, by cosine; fine-tune: encoder and
    classifier trained end to end; semi-supervised: that with a part of the labels. Give it again for another table."""
    neighbours: int = 1
    """knn: how many vote, with one vote each; of a draw the larger summed similarity wins."""
    features: Recipe | None = None
    """linear, knn, retrieval: features as of this recipe, fitted to the training clips; None: the run's own."""
    labels: tuple[float, ...] = (0.01, 0.05, 0.1)
    """semi-supervised: parts of the training clips that keep their labels, drawn from every class, at least one."""
    draws: int = 5
    """semi-supervised: how often clips are drawn; the table has the mean."""
    epochs: int = FineTuning.epochs
    """fine-tune, semi-supervised: epochs over the labelled clips; more where they make fewer than 200 steps."""
    batch_size: int = FineTuning.batch_size
    """fine-tune, semi-supervised: clips per step."""
    lr: float = FineTuning.lr
    """fine-tune, semi-supervised: the peak of the learning rate (Adam under one-cycle)."""
    seed: int = 0
    """Random seed of what the protocol trains and draws."""
    dataset: Dataset | None = None
    """Transfer: evaluate on this data set, preprocessed as the run's own."""
    split: str | None = None
    """Transfer: evaluate on this split; None: the run's, on another data set that one's first."""
    data: Path | None = None
    """Folder of the data set's files, where it is no longer the one trained from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""

    def __post_init__(self) -> None:
        for item in fields(self):
            with_protocols = ONLY_WITH.get(item.name)
            changed = item.default is not MISSING and getattr(self, item.name) != item.default
            if with_protocols and changed and not set(with_protocols) & set(self.protocols):
                option = f"--{item.name.replace('_', '-')}"
                raise CrrlError(f"{option} goes with --protocol {' or '.join(with_protocols)} alone")
        if min(self.neighbours, self.draws) < 1:
            raise CrrlError("--neighbours and --draws take 1 at least")
        if not self.labels or not all(0 < part <= 1 for part in self.labels):
            raise CrrlError(f"--labels are parts of all clips, such as 0.01 0.1, above 0 and at most 1: {self.labels}")

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Those asked for, each once; linear where none is."""
        return tuple(dict.fromkeys(self.protocol)) or ("linear",)

    @property
    def transfer(self) -> bool:
        """Whether it is another data set, or split, than that of the run."""
        return self.dataset is not None or self.split is not None

    def fine_tuning(self) -> FineTuning:
        return FineTuning(self.epochs, self.batch_size, self.lr)


@dataclass(frozen=True)
class Target:
    """What is evaluated on: a data set, by its name in the configuration and with its files, and one of its splits."""

    dataset: Dataset
    split: str
    data: Path | None

    @classmethod
    def of(cls, options: EvaluateOptions, config: Config) -> Target:
        if options.dataset is None or options.dataset == config.dataset:
            return cls(config.dataset, options.split or config.split_name, options.data or config.data)
        return cls(options.dataset, options.split or DATASETS[options.dataset].split, options.data)

    def prepare(self, run: RunFolder, trained: EncoderFile, transfer: bool) -> Prepared:
        """The clips, preprocessed as the run says.

        Raises:
            CrrlError: they have another joint count than the run's, or, without transfer, are others altogether.
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
                f"the data set is no longer the one that {run.encoder_path} was trained on: restore it, or give "
                "--dataset to transfer the encoder to another"
            )
        return prepared


class Evaluation:
    """A run's encoder and a random one on the clips of one split.

    Raises:
        CrrlError: there is no finished run, or the clips do not fit it.
    """

    def __init__(self, run: RunFolder, options: EvaluateOptions, device: torch.device):
        config = run.config()
        if not run.encoder_path.exists():
            raise CrrlError(
                f"{run.path} has no trained encoder yet: finish it by python -m crrl.train --resume {run.path}"
            )
        trained = load_encoder(run.encoder_path)
        self.run, self.options, self.config, self.target = run, options, config, Target.of(options, config)
        clips = self.target.prepare(run, trained, options.transfer).clips
        self.tensors, self.classes = ClipTensors(clips, device), len(clips.class_names)
        split = clips.split(self.target.split)
        self.train = torch.from_numpy(split.train)
        self.tests = {name: torch.from_numpy(index) for name, index in split.test.items()}
        if options.neighbours > len(self.train):
            raise CrrlError(f"--neighbours {options.neighbours}: there are {len(self.train)} training clips")
        torch.manual_seed(config.seed)
        sizes = config.encoder
        encoder = Encoder(self.tensors.channels, sizes.hidden_size, sizes.dropout, sizes.input_gain)
        self.kind = options.features or config.features
        recipe = preset(config.dataset, options.features) if options.features else config
        self.yaw = choose_yaw(recipe.turn_yaw, self.tensors, split.train)
        random = FeatureExtractor(encoder, self.kind)
        own = FeatureExtractor(trained.features.encoder, self.kind) if options.features else trained.features
        self.candidates = {config.method: own.eval().to(device), "random encoder": random.eval().to(device)}
        self.features = lru_cache(maxsize=None)(self._features)

    def _features(self, name: str) -> tuple[Features, dict[str, Features]]:
        """Features, by the candidate of that name, of the training clips and of each test set; each clip's once.

        What was trained is fitted already, but not to the clips of a transfer, nor as another recipe does.
        """
        extractor = self.candidates[name]
        clips = torch.unique(torch.cat([self.train, *self.tests.values()]))
        pooled = encode(extractor.pooled, self.tensors, clips)
        if self.options.transfer or self.options.features or name != self.config.method:
            train = torch.searchsorted(clips, self.train).to(pooled.device)
            fit(extractor, self.tensors, self.train, pooled[train], self.yaw)
        features = extractor.adjusted(pooled).cpu()

        def take(index: Tensor) -> Tensor:
            return features[torch.searchsorted(clips, index)]

        sets = {test: Features(take(index), self.tensors.labels[index]) for test, index in self.tests.items()}
        return Features(take(self.train), self.tensors.labels[self.train]), sets

    def rows(self, protocol: Protocol) -> Rows:
        """The rows of a protocol, of each encoder in turn."""
        if protocol in TRAINED:
            return self._fine_tuned(protocol)
        rows: Rows = {}
        for name in self.candidates:
            for row, values in self._frozen(protocol, *self.features(name)).items():
                rows[f"{name}, {row}"] = {test: [value] for test, value in values.items()}
        return rows

    def _frozen(self, protocol: Protocol, train: Features, tests: dict[str, Features]) -> dict[str, dict[str, float]]:
        if protocol == "knn":
            neighbours = self.options.neighbours
            return {f"{neighbours}-NN": evaluation.nearest_neighbours(train, tests, neighbours)}
        if protocol == "retrieval":
            return {"mAP": evaluation.mean_average_precision(train, tests)}
        return last_and_best(evaluation.linear_probe(train, tests, self.classes, self.options.seed))

    def _fine_tuned(self, protocol: Protocol) -> Rows:
        jobs, settings = self._jobs(protocol), self.options.fine_tuning()
        clips = sum(settings.epochs_over(len(index)) * len(index) for _, _, index in jobs)
        rows: Rows = {}
        interval = 0.2 if sys.stderr.isatty() else 30
        with tqdm(total=len(self.candidates) * clips, desc=protocol, unit="clip", mininterval=interval) as bar:
            for name, extractor in self.candidates.items():
                for labelled, seed, index in jobs:
                    bar.set_description(f"{protocol}: {', '.join(filter(None, (name, labelled)))}", refresh=False)
                    tune = partial(
                        fine_tune, extractor.encoder, self.tensors, index, self.tests, self.classes, settings, seed
                    )
                    for row, values in last_and_best(tune(bar.update)).items():
                        for test, value in values.items():
                            key = ", ".join(filter(None, (name, labelled, row)))
                            rows.setdefault(key, {}).setdefault(test, []).append(value)
        return rows

    def _jobs(self, protocol: Protocol) -> list[tuple[str, int, Tensor]]:
        """What is to be trained: the labels it has, in words, its seed and its clips."""
        options = self.options
        if protocol == "fine-tune":
            return [("", options.seed, self.train)]
        jobs, labels = [], self.tensors.labels[self.train]
        for part in options.labels:
            for seed in range(options.seed, options.seed + options.draws):
                index = self.train[evaluation.stratified(labels, part, seed)]
                jobs.append((f"{100 * part:g} % of labels ({len(index)})", seed, index))
        return jobs

    def sizes(self) -> dict[str, int]:
        """Clips of each test set."""
        return {name: len(index) for name, index in self.tests.items()}


def last_and_best(history: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The headline, and beside it what is often published: the epoch that the test clips themselves chose."""
    return {
        "last epoch": {name: values[-1] for name, values in history.items()},
        "best epoch on test": {name: max(values) for name, values in history.items()},
    }
