"""The protocols of Section IV-C: a linear classifier, and the nearest neighbour, on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

EPOCHS = 85
BATCH_SIZE = 16
LEARNING_RATE = 0.1
LR_DROPS = (15, 35, 50, 66, 75)


@dataclass(frozen=True)
class Features:
    """Features float32 [N, D] and labels int64 [N] of one set of clips."""

    features: Tensor
    labels: Tensor

    def accuracy(self, predicted: Tensor) -> float:
        """Percent of `predicted` (int64 [N]) that are right."""
        return 100 * (predicted == self.labels).double().mean().item()


def linear_probe(train: Features, tests: dict[str, Features], classes: int, seed: int = 0) -> dict[str, list[float]]:
    """Train a linear classifier on frozen features: SGD nesterov 0.9, lr 0.1 halved at LR_DROPS, weights N(0, 0.01).

    Returns:
        For each test set the accuracy in percent after every epoch; the last is the headline.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(train.features.shape[1], classes)
    nn.init.normal_(classifier.weight, 0, 0.01, generator=generator)
    nn.init.zeros_(classifier.bias)
    optimizer = SGD(classifier.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    schedule = MultiStepLR(optimizer, LR_DROPS, gamma=0.5)
    history: dict[str, list[float]] = {name: [] for name in tests}
    for _ in range(EPOCHS):
        for index in torch.split(torch.randperm(len(train.labels), generator=generator), BATCH_SIZE):
            loss = F.cross_entropy(classifier(train.features[index]), train.labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            for name, test in tests.items():
                history[name].append(test.accuracy(classifier(test.features).argmax(1)))
    return history


def nearest_neighbour(train: Features, tests: dict[str, Features]) -> dict[str, float]:
    """1-NN by cosine similarity: for each test set the accuracy in percent."""
    known = F.normalize(train.features, dim=1)
    result = {}
    for name, test in tests.items():
        chunks = torch.split(F.normalize(test.features, dim=1), 1024)
        nearest = torch.cat([(chunk @ known.t()).argmax(1) for chunk in chunks])
        result[name] = test.accuracy(train.labels[nearest])
    return result
