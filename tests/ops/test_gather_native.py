"""`crrl._cpu.ragged_gather` against a loop over rows and frames, from outputs that start poisoned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

_cpu = pytest.importorskip("crrl._cpu", reason="crrl._cpu is not built")

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Outputs = tuple[FloatArray, FloatArray, IntArray]

POISON = -77


def poisoned(batch: int, max_frames: int, channels: int) -> Outputs:
    """x and v, float32 [batch, max_frames, channels], all NaN; lengths, int64 [batch], all POISON."""
    x = np.full((batch, max_frames, channels), np.nan, np.float32)
    return x, x.copy(), np.full(batch, POISON, np.int64)


def clips(lengths: list[int], channels: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Frames, float32 [sum(lengths), channels], and offsets, int64 [len(lengths) + 1]."""
    frames = np.random.default_rng(seed).standard_normal((sum(lengths), channels), np.float32)
    return frames, np.cumsum([0, *lengths], dtype=np.int64)


def gather(
    frames: FloatArray, offsets: IntArray, index: IntArray, outputs: Outputs, with_velocity: bool = True
) -> None:
    x, v, lengths = (torch.from_numpy(array) for array in outputs)
    given = (torch.from_numpy(array) for array in (frames, offsets, index))
    _cpu.ragged_gather(*given, x, v if with_velocity else None, lengths)


def expected(frames: FloatArray, offsets: IntArray, index: IntArray, max_frames: int) -> Outputs:
    x = np.zeros((len(index), max_frames, frames.shape[1]), np.float32)
    v = np.zeros_like(x)
    lengths = np.zeros(len(index), np.int64)
    for row, clip in enumerate(index):
        length = lengths[row] = offsets[clip + 1] - offsets[clip]
        for t in range(length):
            x[row, t] = frames[offsets[clip] + t]
        for t in range(length - 1):
            v[row, t] = x[row, t + 1] - x[row, t]
        if length > 1:
            v[row, length - 1] = v[row, length - 2]
    return x, v, lengths


def assert_untouched(outputs: Outputs) -> None:
    x, v, lengths = outputs
    assert np.isnan(x).all()
    assert np.isnan(v).all()
    assert (lengths == POISON).all()


@pytest.mark.parametrize(
    ("lengths", "index", "max_frames", "channels"),
    [
        ([7, 63, 2, 1, 31], [4, 0, 3, 1, 2], 63, 75),
        ([5, 9], [1, 1, 0, 1, 1], 11, 13),
        ([1, 1, 1], [2, 0], 1, 3),
        ([1, 3], [0, 1, 0], 64, 1),
        ([4], [], 5, 3),
    ],
    ids=["odd", "repeated", "one-frame", "mostly-padding", "empty-batch"],
)
def test_equals_the_loop_bit_for_bit(lengths: list[int], index: list[int], max_frames: int, channels: int) -> None:
    frames, offsets = clips(lengths, channels)
    rows = np.array(index, np.int64)
    outputs = poisoned(len(rows), max_frames, channels)
    gather(frames, offsets, rows, outputs)
    for got, want in zip(outputs, expected(frames, offsets, rows, max_frames), strict=True):
        np.testing.assert_array_equal(got, want)


def test_without_v_no_velocities_are_computed() -> None:
    frames, offsets = clips([3, 1, 8], channels=5)
    index = np.array([2, 1, 0], np.int64)
    x, v, lengths = outputs = poisoned(3, 9, 5)
    gather(frames, offsets, index, outputs, with_velocity=False)
    want_x, _, want_lengths = expected(frames, offsets, index, 9)
    np.testing.assert_array_equal(x, want_x)
    np.testing.assert_array_equal(lengths, want_lengths)
    assert np.isnan(v).all()


@pytest.mark.parametrize("clip", [-1, 3, 2**62, -(2**63)])
def test_an_index_out_of_range_names_its_row(clip: int) -> None:
    frames, offsets = clips([3, 1, 8], channels=5)
    outputs = poisoned(2, 8, 5)
    with pytest.raises(IndexError, match=f"row 1: index {clip} is not one of the 3 clips"):
        gather(frames, offsets, np.array([0, clip], np.int64), outputs)
    assert_untouched(outputs)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, 3], "row 1: clip 1 has 0 frames; at least 1 is needed"),
        ([0, 3, 1], "row 1: clip 1 has -2 frames; at least 1 is needed"),
        ([0, 3, 12], "row 1: clip 1 has 9 frames; max_frames is 8"),
        ([0, 3, 13], "row 1: clip 1 is frames 3 to 13, but there are 12"),
        ([0, 3, -(2**63)], "row 1: clip 1 is frames 3 to -9223372036854775808, but there are 12"),
        ([-1, 3, 12], "row 0: clip 0 is frames -1 to 3, but there are 12"),
    ],
    ids=["empty", "reversed", "too-long", "beyond-the-frames", "overflow", "before-the-frames"],
)
def test_a_clip_that_does_not_fit_names_its_row(offsets: list[int], message: str) -> None:
    frames, _ = clips([12], channels=5)
    outputs = poisoned(2, 8, 5)
    with pytest.raises(ValueError, match=message):
        gather(frames, np.array(offsets, np.int64), np.array([0, 1], np.int64), outputs)
    assert_untouched(outputs)


def test_offsets_have_at_least_one_element() -> None:
    frames, _ = clips([3, 4], channels=5)
    outputs = poisoned(2, 4, 5)
    with pytest.raises(ValueError, match="num_clips is negative: -1"):
        gather(frames, np.zeros(0, np.int64), np.array([0, 1], np.int64), outputs)
    assert_untouched(outputs)
