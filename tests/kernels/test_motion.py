"""Clips gathered into a padded batch with their velocity (Eq. 2), against the reference."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from crrl.reference import motion as reference

pytest.importorskip("triton", reason="Triton is not installed")

from crrl.kernels.motion import ragged_gather

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.usefixtures("_poisoned")


def clips(lengths: list[int], channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Frames [ΣT, C] and offsets [n + 1] of clips of these lengths."""
    generator = torch.Generator().manual_seed(channels)
    frames = torch.randn(sum(lengths), channels, generator=generator).to(DEVICE, dtype)
    return frames, torch.tensor([0, *lengths], device=DEVICE).cumsum(0)


def check(frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, dtype: torch.dtype | None = None) -> None:
    """x, v and lengths equal to the bit to the reference's in float32, then cast."""
    want_x, want_v, want_lengths = reference.ragged_gather(frames.float(), offsets, index, max_frames, True)
    assert want_v is not None
    x, v, lengths = ragged_gather(frames, offsets, index, max_frames, True, dtype)
    alone, none, _ = ragged_gather(frames, offsets, index, max_frames, False, dtype)
    assert v is not None
    assert none is None
    assert torch.equal(x, want_x.to(dtype or frames.dtype))
    assert torch.equal(v, want_v.to(dtype or frames.dtype))
    assert torch.equal(alone, x)
    assert torch.equal(lengths, want_lengths)


@pytest.mark.parametrize(("lengths", "channels"), [([1], 1), ([1, 2, 9], 60), ([60, 3, 33], 150), ([1030, 1], 3)])
def test_is_that_of_the_reference(lengths: list[int], channels: int) -> None:
    index = torch.tensor([*range(len(lengths)), 0], device=DEVICE)
    for padding in (0, 5):
        check(*clips(lengths, channels), index, max(lengths) + padding)


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_velocity_is_subtracted_in_float32_and_then_cast(source: torch.dtype, dtype: torch.dtype | None) -> None:
    check(*clips([7, 1, 20], 63, source), torch.tensor([2, 0, 1], device=DEVICE), 21, dtype)


@pytest.mark.parametrize("seed", range(25))
def test_any_clips(seed: int) -> None:
    number = random.Random(seed)
    lengths = [number.randint(1, 40) for _ in range(number.randint(1, 6))]
    channels, padding = number.randint(1, 70), number.randint(0, 4)
    index = [number.randrange(len(lengths)) for _ in range(number.randint(0, 6))]
    places = torch.tensor(index, dtype=torch.int64, device=DEVICE)
    check(*clips(lengths, channels), places, max(lengths) + padding)


def test_wrong_tensors_are_refused() -> None:
    frames, offsets = clips([3, 4], 5)
    index = torch.tensor([1], device=DEVICE)
    with pytest.raises(ValueError, match="frames: expected contiguous"):
        ragged_gather(frames.t(), offsets, index, 4, True)
    with pytest.raises(ValueError, match="expected float32, bfloat16 or float16"):
        ragged_gather(frames.double(), offsets, index, 4, True)
    with pytest.raises(ValueError, match=r"index: expected contiguous int64 \[n\]"):
        ragged_gather(frames, offsets, index.int(), 4, True)
