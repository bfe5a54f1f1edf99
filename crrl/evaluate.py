"""The command `python -m crrl.evaluate`: score a run's encoder, with a random encoder beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from crrl.config import choose_device
from crrl.data import ClipTensors, Split, prepare
from crrl.errors import CrrlError, run_command
from crrl.evaluation import Features, linear_probe, nearest_neighbour
from crrl.features import encode, standardise
from crrl.files import write_json
from crrl.models import Encoder, FeatureExtractor
from crrl.runs import RunFolder, load_encoder


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a run's encoder on the test clips of its split, with a randomly initialised encoder beside it."""

    run: tyro.conf.Positional[Path]
    """Run folder, as --out of crrl.train named it."""
    protocol: Literal["linear", "knn"] = "linear"
    """linear: a linear classifier on frozen features; knn: the label of the nearest training clip, by cosine."""
    data: Path | None = None
    """Folder of the data set's files, where it is no longer the one trained from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute the features; auto: the GPU if there is one."""


def features_of(features: FeatureExtractor, tensors: ClipTensors, split: Split) -> tuple[Features, dict[str, Features]]:
    """Features of the training clips and of each named test set."""

    def take(index: Tensor) -> Features:
        return Features(encode(features, tensors, index).cpu(), tensors.labels[index])

    return take(torch.from_numpy(split.train)), {name: take(torch.from_numpy(i)) for name, i in split.test.items()}


def score(protocol: str, train: Features, tests: dict[str, Features], classes: int) -> dict[str, dict[str, float]]:
    """Accuracies in percent: {row: {test set: accuracy}}; the row "last epoch" (or "1-NN") is the headline."""
    if protocol == "knn":
        return {"1-NN": nearest_neighbour(train, tests)}
    history = linear_probe(train, tests, classes)
    return {
        "last epoch": {name: values[-1] for name, values in history.items()},
        "best epoch on test": {name: max(values) for name, values in history.items()},
    }


def evaluate(
    run: RunFolder, protocol: str, data: Path | None, device: torch.device
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """All rows for the run's encoder and a random one, and the size of each test set; kept in the run folder as JSON.

    Raises:
        CrrlError: no finished run, or the data are not those it was trained on.
    """
    config = run.config()
    if not run.encoder_path.exists():
        raise CrrlError(f"{run.path} has no trained encoder yet: finish it by python -m crrl.train --resume {run.path}")
    trained = load_encoder(run.encoder_path)
    prepared = prepare(config.dataset, data or config.data, config.split_name, config.preprocessing)
    if prepared.fingerprint != trained.fingerprint:
        raise CrrlError(f"the data set is no longer the one that {run.encoder_path} was trained on: restore it")
    tensors, split = ClipTensors(prepared.clips, device), prepared.clips.split(config.split_name)
    torch.manual_seed(config.seed)
    random = FeatureExtractor(Encoder(tensors.channels, config.encoder.hidden_size), config.features.pooling).eval()
    standardise(random.to(device), tensors, split.train, config.features.feature_deviation)
    rows = {}
    for name, candidate in ((config.method, trained.features), ("random encoder", random)):
        scores = score(protocol, *features_of(candidate.to(device), tensors, split), len(prepared.clips.class_names))
        rows.update({f"{name}, {row}": values for row, values in scores.items()})
    sizes = {name: len(index) for name, index in split.test.items()}
    write_json(run.path / f"evaluation-{protocol}.json", {"accuracy_percent": rows, "test_clips": sizes})
    return rows, sizes


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and print one table."""
    options = tyro.cli(EvaluateOptions, prog="python -m crrl.evaluate", args=arguments)
    run = RunFolder(options.run)
    rows, sizes = evaluate(run, options.protocol, options.data, choose_device(options.device))
    config = run.config()
    title = f"{config.dataset}, {config.split_name}: accuracy, % ({options.protocol})"
    print(f"{title:48}" + "".join(f"{f'{name} ({size})':>14}" for name, size in sizes.items()))
    for row, values in rows.items():
        print(f"  {row:46}" + "".join(f"{values[name]:14.1f}" for name in sizes))
    print(f"encoder: {run.encoder_path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
