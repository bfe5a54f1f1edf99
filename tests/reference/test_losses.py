"""Reconstruction (Eq. 1) and distillation (Eq. 7) losses against hand-computed cases and loops."""

from __future__ import annotations

import torch

from crrl.reference.losses import distillation_loss, reconstruction_error, reconstruction_loss

LENGTHS = torch.tensor([4, 1, 2])


def test_reconstruction_error_by_hand() -> None:
    target = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    output = torch.tensor([[[0.0, 2.0], [3.0, 6.0], [-9.0, 9.0]]])
    assert reconstruction_error(target, output, torch.tensor([2])).item() == (1 + 4) / 2


def test_reconstruction_loss_adds_both_directions_over_valid_frames() -> None:
    torch.manual_seed(0)
    x, forward, backward = torch.randn(3, 3, 4, 2, dtype=torch.float64)
    expected = 0.0
    for row, length in enumerate(LENGTHS.tolist()):
        clip = x[row, :length]
        error = (clip - forward[row, :length]).square().sum() + (clip.flip(0) - backward[row, :length]).square().sum()
        expected += error.item() / length / 3
    torch.testing.assert_close(reconstruction_loss(x, forward, backward, LENGTHS).item(), expected)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    x = torch.randn(1, 4, 2)
    assert reconstruction_loss(x, x, x.flip(1), torch.tensor([4])).item() == 0


def test_distillation_loss_by_hand() -> None:
    teacher, student = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert distillation_loss(teacher, student).item() == (1 + 4 + 9) / 2


def test_the_teacher_gets_no_gradient() -> None:
    teacher, student = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    distillation_loss(teacher, student).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


def test_gradients() -> None:
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    outputs = [torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: reconstruction_loss(x, a, b, LENGTHS), outputs)
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: distillation_loss(torch.ones_like(s), s), student)
