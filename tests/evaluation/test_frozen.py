"""Protocols on frozen features: against small cases by hand, and against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from crrl import ops
from crrl.evaluation.frozen import (
    EPOCHS,
    Features,
    linear_probe,
    mean_average_precision,
    nearest_neighbours,
    stratified,
)

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402


def clusters(clips: int, seed: int, spread: float = 0.05) -> Features:
    """Features around three directions, labelled by direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(clips) % 3
    return Features(torch.eye(3, 8)[labels] + spread * torch.randn(clips, 8, generator=generator), labels)


def test_the_linear_probe_separates_clusters_and_reports_every_epoch() -> None:
    history, _ = linear_probe(clusters(60, 0), {"all": clusters(30, 1)}, classes=3)
    assert len(history["all"]) == EPOCHS
    assert history["all"][-1] == 100


def test_the_linear_probe_on_labels_that_mean_nothing_is_chance() -> None:
    test = clusters(300, 1)
    shuffled = Features(test.features, test.labels[torch.randperm(300, generator=torch.Generator().manual_seed(2))])
    assert linear_probe(clusters(60, 0), {"all": shuffled}, classes=3)[0]["all"][-1] == pytest.approx(33.3, abs=10)


def test_the_linear_probe_is_deterministic_by_seed() -> None:
    train_set, test = clusters(30, 0, spread=1.0), {"all": clusters(60, 1, spread=1.0)}
    first, _ = linear_probe(train_set, test, 3, seed=1)
    assert first == linear_probe(train_set, test, 3, seed=1)[0]
    assert first != linear_probe(train_set, test, 3, seed=2)[0]


def written_out(train: Features, test: Features, classes: int, seed: int) -> list[float]:
    """The linear protocol as one writes it in PyTorch."""
    generator = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(train.features.shape[1], classes)
    nn.init.normal_(classifier.weight, 0, 0.01, generator=generator)
    nn.init.zeros_(classifier.bias)
    optimizer = SGD(classifier.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = MultiStepLR(optimizer, (15, 35, 50, 66, 75), gamma=0.5)
    history = []
    for _ in range(85):
        for index in torch.split(torch.randperm(len(train.labels), generator=generator), 16):
            optimizer.zero_grad()
            F.cross_entropy(classifier(train.features[index]), train.labels[index]).backward()
            optimizer.step()
        schedule.step()
        history.append(test.accuracy(classifier(test.features).argmax(1)))
    return history


@pytest.mark.parametrize("policy", ["auto", "reference"])
def test_the_linear_probe_is_the_protocol_written_out(policy: str) -> None:
    train_set, test = clusters(45, 0, spread=0.7), clusters(200, 1, spread=0.7)
    with ops.use_backends(policy):
        history = linear_probe(train_set, {"all": test}, 3, seed=4)[0]["all"]
    expected = written_out(train_set, test, 3, seed=4)
    assert len(set(expected)) > 5  # it moves from epoch to epoch
    # The kernel adds in another order: a clip on the boundary may fall to the other side.
    assert history == (expected if policy == "reference" else pytest.approx(expected, abs=0.51))


def test_the_nearest_neighbour_is_by_cosine_not_distance() -> None:
    known = Features(torch.tensor([[10.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 1]))
    test = Features(torch.tensor([[0.1, 0.0], [0.0, 9.0], [0.0, -1.0]]), torch.tensor([0, 1, 1]))
    assert nearest_neighbours(known, {"all": test})["all"] == pytest.approx(200 / 3)


def directions(*degrees: float) -> Tensor:
    """Unit vectors in a plane; the cosine of two is that of the angle between them."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.mark.parametrize(
    ("neighbours", "label"),
    [
        (1, 2),  # the nearest
        (2, 2),  # one vote each: the nearer
        (3, 1),  # two votes against one
        (4, 1),  # still
        (5, 0),  # two votes each for 0 and 1: 0 has one at 3 and one at 5 degrees, 1 at 2 and at 40
        (6, 0),  # three votes
    ],
)
def test_neighbours_vote_and_of_a_draw_the_larger_summed_similarity_wins(neighbours: int, label: int) -> None:
    known = Features(directions(1, 2, 3, -40, 5, 90), torch.tensor([2, 1, 1, 0, 0, 0]))
    if neighbours == 5:
        known = Features(directions(1, 2, 40, 3, 5, 90), torch.tensor([2, 1, 1, 0, 0, 0]))
    test = {"all": Features(directions(0), torch.tensor([label]))}
    assert nearest_neighbours(known, test, neighbours)["all"] == 100


def test_of_equal_votes_and_sums_the_lower_label_wins() -> None:
    known = Features(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([3, 1, 0]))
    test = {"all": Features(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))}
    assert nearest_neighbours(known, test, 2)["all"] == 100


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    known, test = clusters(30, 0, 0.6), {"all": clusters(41, 1, 0.6)}
    whole = nearest_neighbours(known, test, 5), mean_average_precision(known, test)
    monkeypatch.setattr("crrl.evaluation.frozen.CHUNK", 4)
    assert nearest_neighbours(known, test, 5) == whole[0]
    assert mean_average_precision(known, test)["all"] == pytest.approx(whole[1]["all"])


def test_the_mean_average_precision_of_a_case_by_hand() -> None:
    known = Features(directions(10, 20, 30, 40), torch.tensor([0, 1, 0, 1]))
    # From 0 degrees the classes come 0 1 0 1, from 50 degrees 1 0 1 0.
    queries = Features(directions(0, 0, 50), torch.tensor([0, 1, 1]))
    expected = [(1 / 1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, (1 / 1 + 2 / 3) / 2]
    got = mean_average_precision(known, {"all": queries, "first": Features(directions(0), torch.tensor([0]))})
    assert got["all"] == pytest.approx(100 * sum(expected) / 3)
    assert got["first"] == pytest.approx(100 * expected[0])


def test_equally_similar_clips_have_one_rank_and_a_class_without_clips_finds_nothing() -> None:
    known = Features(torch.ones(4, 3), torch.tensor([0, 1, 1, 1]))
    assert mean_average_precision(known, {"all": Features(torch.ones(1, 3), torch.tensor([0]))})["all"] == 25
    both = Features(torch.ones(2, 3), torch.tensor([1, 2]))
    assert mean_average_precision(known, {"all": both})["all"] == pytest.approx(75 / 2)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 4))
def test_the_mean_average_precision_is_its_definition(seed: int, clips: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    known = Features(
        torch.randn(clips, 3, generator=generator), torch.randint(0, classes, (clips,), generator=generator)
    )
    queries = Features(torch.randn(5, 3, generator=generator), torch.randint(0, classes, (5,), generator=generator))
    total = 0.0
    for query, label in zip(queries.directions(), queries.labels, strict=True):
        ranked = known.labels[torch.argsort(known.directions() @ query, descending=True)] == label
        hits = torch.nonzero(ranked)[:, 0].tolist()
        total += sum((found + 1) / (place + 1) for found, place in enumerate(hits)) / max(1, len(hits))
    assert mean_average_precision(known, {"all": queries})["all"] == pytest.approx(100 * total / 5, rel=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.floats(0.001, 1), st.integers(0, 99))
def test_a_stratified_part_takes_its_share_of_every_class(drawn: list[int], fraction: float, seed: int) -> None:
    labels = torch.tensor(drawn)
    index = stratified(labels, fraction, seed)
    assert torch.equal(index, index.unique())
    for label in range(6):
        whole, part = int((labels == label).sum()), int((labels[index] == label).sum())
        assert part == (max(1, round(fraction * whole)) if whole else 0)


def test_a_stratified_part_is_drawn_by_its_seed() -> None:
    labels = torch.arange(300) % 7
    assert torch.equal(stratified(labels, 0.2, 1), stratified(labels, 0.2, 1))
    assert not torch.equal(stratified(labels, 0.2, 1), stratified(labels, 0.2, 2))
    assert torch.equal(stratified(labels, 1.0, 3), torch.arange(300))
