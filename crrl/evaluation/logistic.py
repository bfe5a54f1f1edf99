"""The logistic protocol: a linear evaluation that does not depend on the scale of features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.classifier import Classifier
from crrl.data.folds import by_class, by_subject
from crrl.evaluation.frozen import Features

STRENGTHS = tuple(10.0**exponent for exponent in range(2, -5, -1))
"""L2 penalties, the strongest first; each classifier starts from the previous one's weights."""
FOLDS = 5
TOLERANCE = 1e-6
"""L-BFGS stops when no derivative is larger, for weights scaled so that the curvature is about 1."""
MOST_STEPS = 1000

CHANGES = 1e-6
"""A feature whose standard deviation is a smaller part of its root mean square counts as constant: it is rounding."""
SEEN = 1e-12
"""The features' span leaves out axes whose variance is a smaller part of the largest variance."""


def logistic_regression(
    train: Features, tests: dict[str, Features], classes: int, subjects: Tensor
) -> tuple[dict[str, float], float, Classifier]:
    """L2-regularised multinomial logistic regression, which does not depend on the scale of any feature.

    Features are standardised over the training clips; a constant feature becomes 0. The loss is the mean log-loss plus
    strength/2 · ‖W‖², where W are the weights without the biases. Cross-validation over the training clips (see
    `folds`) chooses the strength from STRENGTHS: the highest accuracy, then the lower log-loss. The classifier is then
    fitted to all training clips. Nothing is random.

    Args:
        classes: the number of classes; a class without a training clip has probability 0.
        subjects: int64 [N], the subjects of the training clips; -1: unknown.

    Returns:
        For each test set, the accuracy in percent; the strength; and the classifier, in float64.
    """
    center, scale = _standard(train.features.double())
    x = (train.features.double() - center) * scale
    axes, variances = _principal_axes(x)
    x = x @ axes
    known, labels = torch.unique(train.labels, return_inverse=True)
    best = _best(x, variances, labels, folds(labels, subjects))
    *_, (weights, biases) = solutions(x, variances, labels, STRENGTHS[: best + 1])
    classifier = Classifier(
        weights.new_zeros(classes, len(axes)).index_copy_(0, known, weights @ axes.t()),
        biases.new_full((classes,), -torch.inf).index_copy_(0, known, biases),
        center,
        scale,
    )
    accuracy = {name: test.accuracy(classifier.labels(test.features)) for name, test in tests.items()}
    return accuracy, STRENGTHS[best], classifier


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of features [N, D] and the factor that standardises them, [D] each."""
    center, deviation = features.mean(0), features.std(0, correction=0)
    changes = deviation > CHANGES * features.square().mean(0).sqrt()
    return center, torch.where(changes, 1 / deviation, 0)


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes [D, R] of the span of rows x [N, D], R <= min(N, D), and the rows' mean squares along them, [R].

    The penalised weights lie in that span, and their norm is the same in its axes.
    """
    few = len(x) < x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.t() if few else x.t() @ x)
    there = values > SEEN * values[-1]
    values, vectors = values[there], vectors[:, there]
    return x.t() @ (vectors / values.sqrt()) if few else vectors, values / len(x)


def folds(labels: Tensor, subjects: Tensor) -> Tensor:
    """The fold, of at most FOLDS, that leaves out each clip: int64 [N].

    If all subjects are known and there are at least two, each subject is in one fold: subjects with the most clips come
    first, each into the fold with the fewest clips so far. Otherwise each class is spread evenly over the folds.

    Args:
        labels, subjects: int64 [N]; an unknown subject is -1.
    """
    people = torch.unique(subjects)
    if len(people) < 2 or people[0] < 0:
        return torch.from_numpy(by_class(labels.numpy(), FOLDS))
    return torch.from_numpy(by_subject(subjects.numpy(), FOLDS))


def _best(x: Tensor, variances: Tensor, labels: Tensor, fold: Tensor) -> int:
    """The index in STRENGTHS of the strength that is best on the clips left out; a tie goes to the stronger one.

    A clip whose class is absent from the other folds counts as wrong and adds nothing to the log-loss.
    """
    right, loss = [0] * len(STRENGTHS), [0.0] * len(STRENGTHS)
    for number in range(int(fold.max()) + 1):
        out = fold == number
        if out.all():
            continue
        known, targets = torch.unique(labels[~out], return_inverse=True)
        place = torch.searchsorted(known, labels[out]).clamp(max=len(known) - 1)
        found = known[place] == labels[out]
        for i, (weights, biases) in enumerate(solutions(x[~out], variances, targets, STRENGTHS)):
            likely = F.linear(x[out], weights, biases).log_softmax(1)
            right[i] += int((found & (likely.argmax(1) == place)).sum())
            loss[i] -= float(likely[torch.arange(len(place)), place][found].sum())
    return max(range(len(STRENGTHS)), key=lambda i: (right[i], -loss[i]))


def solutions(
    x: Tensor, variances: Tensor, labels: Tensor, strengths: tuple[float, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each strength, weights [C, R] and biases [C] that minimise mean log-loss + strength/2 · ‖weights‖², float64.

    L-BFGS works on weights divided by √(1 / (variance/C + strength)), which makes the curvature at weights 0 about 1 in
    all directions and saves nine tenths of the steps.

    Args:
        x: float64 [N, R]. variances: [R], about the mean squares of x. labels: int64 [N], with all of 0 to C - 1.
    """
    classes = int(labels.max()) + 1
    weights, biases = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    for strength in strengths:
        scale = torch.cat([(variances / classes + strength).rsqrt(), x.new_tensor([classes**0.5])])
        scaled = (torch.cat([weights, biases[:, None]], dim=1) / scale).requires_grad_()
        _minimise(scaled, scale, x, labels, strength)
        weights, biases = _parts(scaled.detach() * scale)
        yield weights, biases


def _minimise(scaled: Tensor, scale: Tensor, x: Tensor, labels: Tensor, strength: float) -> None:
    """Minimise the penalised loss over `scaled`, [C, R + 1], in place: weights and biases divided by `scale`."""
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights, biases = _parts(scaled * scale)
        value: Tensor = F.cross_entropy(F.linear(x, weights, biases), labels) + strength / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]


def _parts(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C, R] and biases [C], the last column, of `joint` [C, R + 1]."""
    return joint[:, :-1], joint[:, -1]
