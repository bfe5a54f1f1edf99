"""Velocity (Eq. 2), reversal, temporal average pooling (Eqs. 3, 4) and the ragged gather against loops over clips."""

from __future__ import annotations

import torch

from crrl.reference.motion import ragged_gather, reverse, temporal_average, valid_frames, velocity

LENGTHS = torch.tensor([5, 1, 3, 2])


def padded_batch(channels: int = 3) -> torch.Tensor:
    """[4, 6, channels] random float64; padded frames hold garbage, which must not matter."""
    return torch.randn(4, 6, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_valid_frames_are_those_before_each_length() -> None:
    assert valid_frames(torch.tensor([2, 1]), 3).tolist() == [[True, True, False], [True, False, False]]


def test_velocity_by_hand() -> None:
    x = torch.tensor([[[1.0], [4.0], [9.0], [100.0]], [[7.0], [50.0], [50.0], [50.0]]])
    v = velocity(x, torch.tensor([3, 1]))
    assert v[:, :, 0].tolist() == [[3.0, 5.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_velocity_of_each_row_is_eq_2() -> None:
    x = padded_batch()
    v = velocity(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        clip = x[row, :length]
        expected = [clip[t + 1] - clip[t] for t in range(length - 1)]
        expected.append(expected[-1] if expected else torch.zeros(3, dtype=torch.float64))
        assert torch.equal(v[row, :length], torch.stack(expected))
        assert not v[row, length:].any()


def test_reverse_turns_valid_frames_round_and_leaves_padding() -> None:
    x = padded_batch()
    turned = reverse(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(turned[row, :length], x[row, :length].flip(0))
        assert torch.equal(turned[row, length:], x[row, length:])
    assert torch.equal(reverse(turned, LENGTHS), x)


def test_temporal_average_is_over_valid_frames_only() -> None:
    h = torch.where(valid_frames(LENGTHS, 6)[:, :, None], padded_batch(), 0)
    pooled = temporal_average(h, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(pooled[row], h[row, :length].mean(0))


def test_ragged_gather_is_a_loop_over_clips() -> None:
    clips = [torch.randn(length, 4) for length in (3, 1, 6, 2)]
    offsets = torch.tensor([0, 3, 4, 10, 12])
    index = torch.tensor([2, 0, 0, 1])
    x, v, lengths = ragged_gather(torch.cat(clips), offsets, index, 7, True)
    assert v is not None
    assert lengths.tolist() == [6, 3, 3, 1]
    for row, clip in enumerate(index.tolist()):
        assert torch.equal(x[row, : len(clips[clip])], clips[clip])
        assert not x[row, len(clips[clip]) :].any()
    assert torch.equal(v, velocity(x, lengths))


def test_gradients() -> None:
    x = padded_batch().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: velocity(x, LENGTHS), x)
    assert torch.autograd.gradcheck(lambda x: temporal_average(reverse(x, LENGTHS), LENGTHS), x)
