"""The logistic protocol: its folds, the optimum of its classifiers, the choice of strength, and what it must ignore."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.evaluation import logistic
from crrl.evaluation.frozen import Features
from crrl.evaluation.logistic import FOLDS, STRENGTHS, folds, logistic_regression, solutions

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402


def clusters(clips: int, seed: int, spread: float = 0.1, sizes: tuple[int, int] = (8, 3)) -> Features:
    """Features of `sizes` (features, classes) around a direction for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(clips) % sizes[1]
    return Features(
        torch.eye(sizes[1], sizes[0])[labels] + spread * torch.randn(clips, sizes[0], generator=generator), labels
    )


def unknown(features: Features) -> Tensor:
    """No subject of any of its clips."""
    return torch.full_like(features.labels, -1)


def regression(train: Features, tests: dict[str, Features], subjects: Tensor) -> tuple[dict[str, float], float]:
    """The accuracy on the test sets and the strength."""
    return logistic_regression(train, tests, 1 + int(train.labels.max()), subjects)[:2]


def standard(features: Tensor) -> Tensor:
    """Float64 features of mean 0 and standard deviation 1."""
    return (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)


def test_clusters_are_told_apart_and_labels_that_mean_nothing_are_not() -> None:
    train_set, test = clusters(60, 0), clusters(300, 1)
    shuffled = Features(test.features, test.labels[torch.randperm(300, generator=torch.Generator().manual_seed(2))])
    accuracy, _ = regression(train_set, {"all": test, "shuffled": shuffled}, unknown(train_set))
    assert accuracy["all"] == 100
    assert accuracy["shuffled"] == pytest.approx(33.3, abs=10)


@pytest.mark.parametrize("sizes", [(5, 4), (90, 3)], ids=["more clips than features", "more features than clips"])
def test_the_classifiers_have_the_least_penalised_loss(sizes: tuple[int, int]) -> None:
    """By the gradient in the features' own space, though they are found along axes of their span."""
    features = clusters(41, 0, 0.8, sizes)
    x = standard(features.features)
    axes, variances = logistic._principal_axes(x)
    torch.testing.assert_close(axes.t() @ axes, torch.eye(axes.shape[1], dtype=torch.float64))
    found = solutions(x @ axes, variances, features.labels, STRENGTHS)
    for strength, (weights, biases) in zip(STRENGTHS, found, strict=True):
        own, offset = (weights @ axes.t()).requires_grad_(), biases.clone().requires_grad_()
        loss = F.cross_entropy(F.linear(x, own, offset), features.labels) + strength / 2 * own.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        assert offset.grad is not None
        assert max(own.grad.abs().max(), offset.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("sizes", [(6, 4), (60, 3)], ids=["more clips than features", "more features than clips"])
def test_the_classifiers_are_those_of_scikit_learn(sizes: tuple[int, int]) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    features, x_test = clusters(45, 0, 0.8, sizes), standard(clusters(30, 1, 0.8, sizes).features)
    x = standard(features.features)
    axes, variances = logistic._principal_axes(x)
    found = solutions(x @ axes, variances, features.labels, STRENGTHS)
    for strength, (weights, biases) in zip(STRENGTHS, found, strict=True):
        peer = linear_model.LogisticRegression(C=1 / (45 * strength), tol=1e-9, max_iter=100_000)
        expected = torch.from_numpy(peer.fit(x.numpy(), features.labels.numpy()).predict_log_proba(x_test.numpy()))
        likely = F.linear(x_test @ axes, weights, biases).log_softmax(1)
        torch.testing.assert_close(likely, expected, rtol=0.02, atol=0.02)


def test_the_strength_is_the_best_on_the_folds() -> None:
    """Written out with a plain optimiser: accuracy first, then the log-loss."""
    train_set = clusters(40, 3, 1.2, (12, 3))
    subjects = torch.arange(40) // 7
    x, fold = standard(train_set.features), folds(train_set.labels, subjects)
    scores = []
    for strength in STRENGTHS:
        right, loss = 0, 0.0
        for number in range(FOLDS):
            weights, biases = plainly(x[fold != number], train_set.labels[fold != number], strength)
            likely = F.linear(x[fold == number], weights, biases).log_softmax(1)
            right += int((likely.argmax(1) == train_set.labels[fold == number]).sum())
            loss += float(F.nll_loss(likely, train_set.labels[fold == number], reduction="sum"))
        scores.append((right, -loss))
    best = max(range(len(STRENGTHS)), key=lambda i: scores[i])
    assert len({right for right, _ in scores}) > 2, "the strengths differ"
    assert regression(train_set, {}, subjects)[1] == STRENGTHS[best]


def plainly(x: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weights and biases of least penalised loss."""
    weights, biases = (torch.zeros(*size, dtype=torch.float64, requires_grad=True) for size in ((3, x.shape[1]), (3,)))
    optimizer = torch.optim.LBFGS(
        [weights, biases], max_iter=2000, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weights, biases), labels) + strength / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), biases.detach()


def test_of_strengths_that_are_all_right_the_one_with_the_least_log_loss_is_chosen() -> None:
    train_set = clusters(60, 0, 0.01)
    assert regression(train_set, {}, unknown(train_set))[1] == STRENGTHS[-1]


def test_of_strengths_that_are_equal_in_all_the_strongest_is_chosen() -> None:
    same = Features(torch.ones(30, 4), torch.arange(30) % 3)
    assert regression(same, {"all": same}, unknown(same)) == ({"all": pytest.approx(100 / 3)}, STRENGTHS[0])


def test_scale_offset_and_features_that_never_change_do_not_matter() -> None:
    train_set, test = clusters(60, 0, 0.9), clusters(200, 1, 0.9)
    scale = 10.0 ** torch.linspace(-5, 5, 8)
    whole = regression(train_set, {"all": test}, unknown(train_set))

    def moved(features: Features) -> Features:
        constant = torch.tensor([0.0, 1e-7, 0.1, 1e7]).expand(len(features.labels), 4)
        return Features(torch.cat([features.features * scale + 3 * scale, constant], 1), features.labels)

    assert regression(moved(train_set), {"all": moved(test)}, unknown(train_set)) == whole


@pytest.fixture
def one_and_two_threads() -> Iterator[tuple[int, int]]:
    before = torch.get_num_threads()
    yield 1, 2
    torch.set_num_threads(before)


def test_it_is_the_same_each_time_and_for_any_number_of_threads(
    one_and_two_threads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "STRENGTHS", (1.0, 0.1))
    train_set, test = clusters(300, 0, 0.9, (40, 5)), clusters(300, 1, 0.9, (40, 5))
    results = []
    for threads in (*one_and_two_threads, 1):
        torch.set_num_threads(threads)
        torch.manual_seed(threads)
        results.append(regression(train_set, {"all": test}, unknown(train_set)))
    assert results[0] == results[1] == results[2]


def test_the_classes_of_the_training_clips_alone_matter() -> None:
    train_set, test = clusters(60, 0), clusters(60, 1)
    apart, known = (Features(part.features, 10 * part.labels + 2) for part in (train_set, test))
    other = Features(test.features, torch.where(known.labels == 12, 13, known.labels))
    accuracy, _ = regression(apart, {"known": known, "other": other}, unknown(apart))
    assert accuracy == {"known": 100, "other": pytest.approx(200 / 3)}


def test_a_class_of_one_subject_alone_is_learnt_from_all_training_clips() -> None:
    train_set, test = clusters(60, 0), clusters(30, 1)
    subjects = torch.where(train_set.labels == 2, 9, torch.arange(60) % 4)
    assert regression(train_set, {"all": test}, subjects)[0]["all"] == 100


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_few_clips_will_do(clips: int) -> None:
    train_set = Features(torch.eye(3)[:clips], torch.arange(clips))
    accuracy, _ = regression(train_set, {"all": train_set}, unknown(train_set))
    assert accuracy["all"] == 100


@given(st.lists(st.integers(0, 12), min_size=2, max_size=80))
def test_subjects_are_dealt_to_folds_of_about_equal_clips(drawn: list[int]) -> None:
    subjects = torch.tensor(drawn)
    people = subjects.unique()
    hypothesis.assume(len(people) > 1)
    fold = folds(torch.zeros_like(subjects), subjects)
    for one in people:
        assert len(fold[subjects == one].unique()) == 1
    sizes = torch.bincount(fold)
    assert len(sizes) == min(FOLDS, len(people))
    assert sizes.min() > 0
    # The largest fold was the smallest before it got its last subject.
    assert sizes.max() - sizes.min() <= torch.bincount(subjects).max()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.sampled_from(["unknown", "one", "partly"]))
def test_without_subjects_every_class_is_spread_evenly(drawn: list[int], subjects: str) -> None:
    labels = torch.tensor(drawn)
    known = {
        "unknown": torch.full_like(labels, -1),
        "one": torch.full_like(labels, 3),
        "partly": torch.arange(len(labels)) - 1,
    }
    fold = folds(labels, known[subjects])
    for part in (torch.ones_like(labels, dtype=torch.bool), *(labels == label for label in range(5))):
        counts = torch.bincount(fold[part], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
