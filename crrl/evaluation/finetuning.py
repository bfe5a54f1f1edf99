"""Fine-tuning: a pretrained encoder and a new linear classifier, trained end to end on labelled clips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from crrl import ops
from crrl.config import MOST
from crrl.data import ClipTensors
from crrl.data.batches import epoch_order
from crrl.errors import CrrlError
from crrl.evaluation.frozen import percent_right
from crrl.features import encode
from crrl.models import Encoder
from crrl.optim import FlatAdam

LEAST_STEPS = 200
"""With few clips, training takes more epochs, until it has at least this many steps."""

LOOKS = 10
"""The test sets are scored after at most so many epochs, evenly spaced, the last included: with few labels, scoring
takes longer than an epoch."""


@dataclass(frozen=True)
class FineTuning:
    """Adam under a one-cycle schedule, with one learning rate for encoder and classifier and the encoder's dropout.

    Attributes:
        epochs: epochs over the labelled clips; more if these make fewer than LEAST_STEPS steps.
        batch_size: clips per step; the last batch of an epoch may be smaller. lr: the peak learning rate.
    """

    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if not 1 <= getattr(self, name) <= MOST:
                raise CrrlError(f"{name} is {getattr(self, name)}: it must be from 1 to {MOST}")
        if not 0 < self.lr < math.inf:
            raise CrrlError(f"lr is {self.lr}: it must be positive and finite")

    def steps(self, clips: int) -> int:
        """Steps per epoch over `clips` clips."""
        return math.ceil(clips / self.batch_size)

    def epochs_over(self, clips: int) -> int:
        """Epochs over `clips` clips, for at least LEAST_STEPS steps."""
        return max(self.epochs, math.ceil(LEAST_STEPS / self.steps(clips)))


def fine_tune(
    encoder: Encoder,
    tensors: ClipTensors,
    train: Tensor,
    tests: dict[str, Tensor],
    classes: int,
    settings: FineTuning,
    seed: int,
    advance: Callable[[int], object],
) -> dict[str, list[float]]:
    """Train a copy of `encoder` and a new linear classifier; neither is kept.

    Args:
        encoder: on the device of `tensors`; not changed. train: int64 [M], the labelled clips. tests: int64, by name.
        seed: for the classifier's initial weights, the order of clips and dropout.
        advance: called with the number of clips of each step.

    Returns:
        For each test set, the accuracy in percent after each of at most LOOKS epochs; the last is the headline.

    Raises:
        CrrlError: the loss or a weight is not finite.
    """
    torch.manual_seed(seed)
    encoder = copy.deepcopy(encoder)
    classifier = nn.Linear(encoder.features, classes).to(tensors.frames.device)
    optimizer = FlatAdam([*encoder.parameters(), *classifier.parameters()], settings.lr)
    epochs = settings.epochs_over(len(train))
    schedule = OneCycleLR(optimizer, settings.lr, total_steps=epochs * settings.steps(len(train)))
    looks = {math.ceil(epochs * look / LOOKS) for look in range(1, LOOKS + 1)}
    history: dict[str, list[float]] = {name: [] for name in tests}
    for epoch in range(epochs):
        encoder.train()
        for index in torch.split(epoch_order(train, seed, epoch), settings.batch_size):
            batch = tensors.batch(index)
            logits = classifier(encoder.pooled(batch.x, batch.lengths))
            loss = F.cross_entropy(logits, tensors.labels[index].to(logits.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(len(index))
        _check_finite(torch.stack([loss.detach(), optimizer.flat.sum()]), epoch)
        if epoch + 1 in looks:
            for name, index in tests.items():
                history[name].append(_accuracy(encoder.eval(), classifier, tensors, index))
    return history


@torch.no_grad()
def _accuracy(encoder: Encoder, classifier: nn.Linear, tensors: ClipTensors, index: Tensor) -> float:
    predicted = classifier(encode(encoder.pooled, tensors, index)).argmax(1).cpu()
    return percent_right(predicted, tensors.labels[index])


def _check_finite(values: Tensor, epoch: int) -> None:
    finite = bool(values.isfinite().all())
    ops.raise_if_timed_out()
    if not finite:
        raise CrrlError(f"fine-tuning is no longer finite after epoch {epoch + 1}; give a smaller --lr")
