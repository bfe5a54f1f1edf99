"""Batches against a loop over clips, and the order of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crrl import ops
from crrl.data import Clips, ClipTensors
from crrl.data.batches import epoch_order, resampled
from crrl.ops import cpu

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

JOINTS = 4
NATIVE, WHY_NOT = cpu.supports(ops.Case("cpu", torch.float32))
POLICIES = ["reference", pytest.param("ragged_gather=cpu", marks=pytest.mark.skipif(not NATIVE, reason=WHY_NOT))]


@pytest.fixture(autouse=True)
def _no_environment_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRRL_BACKEND", raising=False)


def make_clips(lengths: list[int]) -> Clips:
    rng = np.random.default_rng(0)
    return Clips.from_arrays(
        [rng.normal(size=(length, JOINTS, 3)) for length in lengths],
        labels=np.arange(len(lengths)),
        names=[str(i) for i in range(len(lengths))],
        class_names=[str(i) for i in range(len(lengths))],
    )


def padded_by_hand(clips: Clips, index: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """x and v, frame by frame."""
    longest = max(len(clips.clip(i)) for i in index)
    x = np.zeros((len(index), longest, 3 * JOINTS), np.float32)
    v = np.zeros_like(x)
    for row, i in enumerate(index):
        frames = clips.clip(i).reshape(-1, 3 * JOINTS)
        last = len(frames) - 1
        for t in range(len(frames)):
            x[row, t] = frames[t]
            if last > 0:
                v[row, t] = frames[t + 1] - frames[t] if t < last else frames[t] - frames[t - 1]
    return x, v


@pytest.mark.parametrize("policy", POLICIES)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.data())
@settings(max_examples=40)
def test_a_batch_is_what_a_loop_over_its_clips_gives(policy: str, lengths: list[int], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    clips = make_clips(lengths)
    with ops.use_backends(policy):
        batch = ClipTensors(clips, torch.device("cpu")).batch(torch.tensor(index), with_velocity=True)
    assert batch.v is not None
    x, v = padded_by_hand(clips, index)
    np.testing.assert_array_equal(batch.x.numpy(), x)
    np.testing.assert_array_equal(batch.v.numpy(), v)
    assert batch.lengths.tolist() == [lengths[i] for i in index]
    assert batch.index.tolist() == index


@pytest.mark.parametrize("policy", POLICIES)
def test_velocity_is_left_out_unless_asked_for(policy: str) -> None:
    with ops.use_backends(policy):
        assert ClipTensors(make_clips([3, 2]), torch.device("cpu")).batch(torch.tensor([1])).v is None


def test_tensors_know_channels_lengths_and_labels() -> None:
    tensors = ClipTensors(make_clips([3, 1, 2]), torch.device("cpu"))
    assert tensors.channels == 3 * JOINTS
    assert (tensors.lengths.tolist(), tensors.labels.tolist()) == ([3, 1, 2], [0, 1, 2])


@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=5), frames=st.integers(2, 40))
def test_a_resampled_clip_is_its_linear_interpolation_from_the_first_to_the_last_frame(
    lengths: list[int], frames: int
) -> None:
    clips = make_clips(lengths)
    batch = ClipTensors(clips, torch.device("cpu")).batch(torch.arange(len(lengths)))
    batch.x[torch.arange(batch.x.shape[1]) >= batch.lengths[:, None]] = torch.nan  # what is padded is not looked at
    found = resampled(batch.x, batch.lengths, frames).numpy()
    assert found.shape == (len(lengths), frames, 3 * JOINTS)
    for i, length in enumerate(lengths):
        clip = clips.clip(i).reshape(length, -1)
        at = np.linspace(0, length - 1, frames)
        expected = np.stack([np.interp(at, np.arange(length), channel) for channel in clip.T], axis=1)
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
        np.testing.assert_array_equal(found[i, [0, -1]], clip[[0, -1]])


TRAIN = torch.arange(100, 200, 2)


@given(seed=st.integers(0, 10_000), epoch=st.integers(0, 1000))
def test_an_epoch_takes_every_training_clip_once(seed: int, epoch: int) -> None:
    assert sorted(epoch_order(TRAIN, seed, epoch).tolist()) == TRAIN.tolist()


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = epoch_order(TRAIN, seed=3, epoch=7)
    torch.manual_seed(2)
    torch.testing.assert_close(epoch_order(TRAIN, seed=3, epoch=7), first)


def test_every_clip_comes_at_every_place_about_as_often() -> None:
    orders = torch.stack([epoch_order(torch.arange(10), 0, epoch) for epoch in range(4000)])
    counts = torch.stack([(orders == clip).sum(0) for clip in range(10)])
    # 400 expected; five standard deviations of a binomial are 95.
    assert (counts - 400).abs().max() < 95


def test_making_an_order_leaves_the_global_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    epoch_order(TRAIN, seed=3, epoch=7)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_every_seed_and_epoch_has_its_own_order() -> None:
    orders = {tuple(epoch_order(TRAIN, seed, epoch).tolist()) for seed in range(5) for epoch in range(60)}
    assert len(orders) == 5 * 60
