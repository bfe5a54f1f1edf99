"""InfoNCE (Eq. 6), the queue (Algorithm 1, lines 17 and 18) and the momentum update (Eq. 5) against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from crrl.reference.contrast import ema_update, enqueue, info_nce, info_nce_enqueue


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_info_nce_by_hand() -> None:
    q = torch.tensor([[3.0, 0.0]])  # of any length: the loss normalises it
    k, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    loss = info_nce(q, k, queue, temperature=0.5)
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(-2)))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_is_eq_6_row_by_row() -> None:
    torch.manual_seed(0)
    q, k, queue = torch.randn(5, 8, dtype=torch.float64), unit(5, 8), unit(7, 8)
    losses = []
    for row in range(5):
        direction = q[row] / q[row].norm()
        keys = [k[row], *queue]
        exponentials = [math.exp(float(direction @ key) / 0.1) for key in keys]
        losses.append(-math.log(exponentials[0] / sum(exponentials)))
    assert info_nce(q, k, queue, 0.1).item() == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_info_nce_of_unrelated_keys_is_chance() -> None:
    torch.manual_seed(0)
    loss = info_nce(unit(64, 512), unit(64, 512), unit(64, 512), temperature=1.0)
    assert loss.item() == pytest.approx(math.log(65), abs=0.02)


def test_only_the_query_gets_a_gradient_and_it_is_right() -> None:
    q, k, queue = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), unit(3, 4), unit(6, 4)
    k.requires_grad_()
    queue.requires_grad_()
    info_nce(q, k, queue, 0.2).backward()  # type: ignore[no-untyped-call]
    assert k.grad is None
    assert queue.grad is None
    assert torch.autograd.gradcheck(lambda q: info_nce(q, k, queue, 0.2), q)


@pytest.mark.parametrize(("size", "batches"), [(6, [2, 2, 2, 2]), (5, [2, 2, 2]), (7, [3, 3, 3, 1, 3]), (3, [8, 2])])
def test_the_queue_holds_the_newest_keys_in_a_ring(size: int, batches: list[int]) -> None:
    queue, pointer = torch.zeros(size, 1), torch.zeros((), dtype=torch.int64)
    ring, position, value = [0.0] * size, 0, 0.0
    for batch in batches:
        keys = [value + 1 + i for i in range(batch)]
        value = keys[-1]
        enqueue(queue, pointer, torch.tensor(keys)[:, None])
        for key in keys:
            ring[position % size] = key
            position += 1
        assert queue[:, 0].tolist() == ring
        assert pointer.item() == position % size


def test_a_loss_does_not_see_its_own_keys_and_keeps_its_gradient() -> None:
    q, k, queue = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), unit(3, 4), unit(5, 4)
    want = info_nce(q, k, queue, 0.2)
    (gradient,) = torch.autograd.grad(want, q)
    changed, pointer = queue.clone(), torch.tensor(4)
    loss = info_nce_enqueue(q, k, changed, pointer, 0.2)
    assert torch.equal(loss, want)
    assert torch.equal(torch.autograd.grad(loss, q)[0], gradient)
    assert torch.equal(changed, torch.stack([k[1], k[2], queue[2], queue[3], k[0]]))
    assert pointer.item() == 2


def test_ema_update_is_eq_5_in_place_with_a_momentum_for_each_part() -> None:
    key, query = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, -2.0, 5.0])
    ema_update(key, query, 2, 0.75, 0.5)
    assert key.tolist() == [1.5, 1.0, 4.0]
    assert query.tolist() == [3.0, -2.0, 5.0]


@pytest.mark.parametrize("boundary", [0, 2, 4])
def test_momentum_1_never_moves_and_0_copies(boundary: int) -> None:
    key, query = torch.tensor([-0.0, 1.5, -2.0, 1e-42]), torch.tensor([torch.nan, torch.inf, 3.0, 4.0])
    before = key.clone()
    ema_update(key, query, boundary, 1.0, 1.0)
    assert torch.equal(key.view(torch.int32), before.view(torch.int32))
    query = torch.randn(4)
    ema_update(key, query, boundary, 0.0, 0.0)
    assert torch.equal(key, query)
