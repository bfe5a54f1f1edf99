"""The protocols on frozen features: a linear classifier and nearest neighbours (Section IV-C), and retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl import ops
from crrl.classifier import Classifier

EPOCHS = 85
BATCH_SIZE = 16
LEARNING_RATE = 0.1
LR_DROPS = (15, 35, 50, 66, 75)
MOMENTUM = 0.9

CHUNK = 512
"""Test clips that are compared with all training clips at a time; bounds the memory, to 80 MB on NTU 60."""


@dataclass(frozen=True)
class Features:
    """Features float32 [N, D] and labels int64 [N] of one set of clips, on the CPU."""

    features: Tensor
    labels: Tensor

    def accuracy(self, predicted: Tensor) -> float:
        """Percent of `predicted` (int64 [N]) that are correct."""
        return percent_right(predicted, self.labels)

    def directions(self) -> Tensor:
        """The features scaled to unit length, [N, D], so that products are cosines."""
        return F.normalize(self.features, dim=1)


def percent_right(predicted: Tensor, labels: Tensor) -> float:
    """Percent of `predicted` that are equal to `labels`; int64 [N] each."""
    return 100 * (predicted == labels).double().mean().item()


def linear_probe(
    train: Features, tests: dict[str, Features], classes: int, seed: int = 0
) -> tuple[dict[str, list[float]], Classifier]:
    """Train a linear classifier on frozen features, by `linear_epochs`.

    Returns:
        For each test set, the accuracy in percent after every epoch, the last being the headline; and the classifier
        after the last epoch.
    """
    history: dict[str, list[float]] = {name: [] for name in tests}
    for parameters in linear_epochs(train, classes, seed):
        classifier = Classifier.plain(*parameters)
        for name, test in tests.items():
            history[name].append(test.accuracy(classifier.labels(test.features)))
    return history, classifier


def linear_epochs(train: Features, classes: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """A linear classifier by SGD: Nesterov momentum 0.9, lr 0.1 halved at LR_DROPS, weights from N(0, 0.01²).

    Yields its weights [classes, D] and biases [classes] after every epoch: the same tensors, trained further.
    """
    generator = torch.Generator().manual_seed(seed)
    features = train.features.contiguous()
    parameters = torch.empty(classes, features.shape[1]).normal_(0, 0.01, generator=generator), torch.zeros(classes)
    momenta = torch.zeros_like(parameters[0]), torch.zeros_like(parameters[1])
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train.labels), generator=generator)
        rate = LEARNING_RATE * 0.5 ** sum(epoch >= drop for drop in LR_DROPS)
        ops.linear_epoch(features, train.labels, order, BATCH_SIZE, parameters, momenta, rate, MOMENTUM)
        yield parameters


def nearest_neighbours(train: Features, tests: dict[str, Features], neighbours: int = 1) -> dict[str, float]:
    """k-NN by cosine similarity with k = `neighbours`, at most N: for each test set, the accuracy in percent.

    Each neighbour has one vote. Ties go to the class with the larger summed similarity, then to the lower label.
    """
    known = train.directions()
    result = {}
    for name, test in tests.items():
        chunks = torch.split(test.directions(), CHUNK)
        result[name] = test.accuracy(
            torch.cat([_elect(chunk @ known.t(), train.labels, neighbours) for chunk in chunks])
        )
    return result


def _elect(similarity: Tensor, labels: Tensor, neighbours: int) -> Tensor:
    """The labels, int64 [B], elected by the nearest training clips. similarity: [B, N]; labels: int64 [N]."""
    if neighbours == 1:
        return labels[similarity.argmax(1)]  # a tie goes to the first
    values, nearest = similarity.topk(neighbours, dim=1)
    voters = labels[nearest]
    votes = torch.zeros(len(voters), int(labels.max()) + 1, dtype=torch.float64)
    sums = votes.scatter_add(1, voters, values.double())
    votes.scatter_add_(1, voters, torch.ones_like(values, dtype=torch.float64))
    return sums.masked_fill(votes < votes.amax(1, keepdim=True), -torch.inf).argmax(1)


def mean_average_precision(train: Features, tests: dict[str, Features]) -> dict[str, float]:
    """Retrieval: each test clip ranks the training clips by cosine similarity; for each test set, the mAP in percent.

    A query's average precision is the mean, over the training clips of its class, of the precision among all training
    clips at least as similar; so equally similar clips share a rank. It is 0 if the class has no training clip.
    """
    known = train.directions()
    result = {}
    for name, test in tests.items():
        queries, total = test.directions(), 0.0
        for label in torch.unique(test.labels):
            relevant = train.labels == label
            for chunk in torch.split(queries[test.labels == label], CHUNK) if relevant.any() else ():
                total += float(_average_precision(chunk @ known.t(), relevant).sum())
        result[name] = 100 * total / len(test.labels)
    return result


def _average_precision(similarity: Tensor, relevant: Tensor) -> Tensor:
    """float64 [B], from similarity [B, N] and `relevant`, bool [N], with at least one True."""

    def at_least(ascending: Tensor) -> Tensor:
        return ascending.shape[1] - torch.searchsorted(ascending, wanted)

    everyone = torch.from_numpy(np.sort(similarity.numpy(), axis=1))  # several times faster than torch.sort
    wanted = torch.from_numpy(np.sort(similarity[:, relevant].numpy(), axis=1))
    return (at_least(wanted) / at_least(everyone).double()).mean(1)


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Places, int64 [M] in ascending order, of a random part of `labels` (int64 [N]), drawn from each class.

    Each class gives `fraction` of its clips, rounded to a whole number, but at least one.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in torch.unique(labels):
        places = torch.nonzero(labels == label)[:, 0]
        count = max(1, round(fraction * len(places)))
        chosen.append(places[torch.randperm(len(places), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
