"""A finished run's encoder on the clips of its split: features, and the linear classifier's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from crrl.data import ClipTensors, prepare
from crrl.device import choose_device
from crrl.errors import CrrlError
from crrl.evaluation.frozen import Features
from crrl.evaluation.inspection import confusions, linear_scores
from crrl.features import encode
from crrl.reproduction.plan import Run
from crrl.runs import RunFolder, load_encoder

TESTS = "all"
"""The test set that figures show."""


@dataclass(frozen=True)
class Inspected:
    """The test clips' features and predictions.

    Attributes:
        features: float32 [N, D]. labels: int64 [N], indices into class_names. predicted: int64 [N], by the linear
            classifier after its last epoch; None if not wanted.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    predicted: npt.NDArray[np.int64] | None


def inspect(run: Run, runs: Path, with_predictions: bool) -> Inspected:
    """Load a finished run's encoder and compute the features of its split.

    Raises:
        CrrlError: the encoder file is damaged, or the data have changed since training.
    """
    config, material = run.config, run.material
    trained = load_encoder(RunFolder(runs / run.name).encoder_path)
    prepared = prepare(config.dataset, material.data, config.split_name, config.preprocessing)
    if prepared.fingerprint != trained.fingerprint:
        raise CrrlError(f"the data set has changed since {run.name} was trained on it: restore it")
    device = choose_device(config.device)
    tensors, split = ClipTensors(prepared.clips, device), prepared.clips.split(config.split_name)
    extractor = trained.features.to(device)

    def features(index: npt.NDArray[np.int64]) -> Features:
        clips = torch.from_numpy(index)
        return Features(encode(extractor, tensors, clips).cpu(), tensors.labels[clips])

    test, classes, predicted = features(split.test[TESTS]), prepared.clips.class_names, None
    if with_predictions:
        predicted = linear_scores(features(split.train), test, len(classes)).argmax(1).numpy()
    return Inspected(test.features.numpy(), test.labels.numpy(), classes, predicted)


def confusion(inspected: Inspected) -> npt.NDArray[np.float64]:
    """Percent of each class's clips (a row) that are classified as each class, [C, C]; 0 for a class without clips."""
    assert inspected.predicted is not None
    counts = confusions(inspected.labels, inspected.predicted, len(inspected.class_names))
    percent: npt.NDArray[np.float64] = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return percent
