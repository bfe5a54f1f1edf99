"""Features of clips, fitted to the training clips: standardised, and with their nuisances shrunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crrl.data import Clips, ClipTensors
from crrl.data.augmentation import another_take
from crrl.data.clips import IntArray
from crrl.features import encode, fit
from crrl.models import Encoder, FeatureExtractor

TRAIN = np.array([0, 2, 3, 5, 6])


@pytest.fixture
def tensors() -> ClipTensors:
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, (length, 3, 3)).astype(np.float32) for length in (5, 3, 9, 1, 4, 7, 2)]
    clips = Clips.from_arrays(arrays, labels=[0] * 7, names=list("abcdefg"), class_names=["any"])
    return ClipTensors(clips, torch.device("cpu"))


@pytest.fixture
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(Encoder(9, 6), "moments").eval()


def fitted(
    extractor: FeatureExtractor,
    tensors: ClipTensors,
    train: IntArray = TRAIN,
    feature_deviation: float | None = 0.1,
    feature_takes: int = 0,
) -> torch.Tensor:
    """Features of all clips."""
    index = torch.from_numpy(train)
    fit(extractor, tensors, index, encode(extractor.pooled, tensors, index), feature_deviation, feature_takes)
    return encode(extractor, tensors, torch.arange(7))


def test_the_training_clips_get_mean_0_and_the_deviation_asked_for(
    extractor: FeatureExtractor, tensors: ClipTensors
) -> None:
    for _ in range(2):  # what an earlier call has set is forgotten
        features = fitted(extractor, tensors)[TRAIN]
        torch.testing.assert_close(features.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.std(0, correction=0), torch.full((48,), 0.1))


def test_none_leaves_the_features_as_they_are(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    before = encode(extractor.pooled, tensors, torch.arange(7))
    fitted(extractor, tensors, feature_takes=1)
    assert torch.equal(fitted(extractor, tensors, feature_deviation=None), before)


@pytest.mark.parametrize("takes", [0, 2])
def test_a_feature_that_never_changes_is_0(extractor: FeatureExtractor, tensors: ClipTensors, takes: int) -> None:
    assert not fitted(extractor, tensors, TRAIN[3:4], feature_takes=takes).any()  # one clip


def test_what_tells_takes_apart_is_shrunk_as_the_formula_says(
    extractor: FeatureExtractor, tensors: ClipTensors
) -> None:
    standard = fitted(extractor, tensors).double()
    shrunk = fitted(extractor, tensors, feature_takes=3).double()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        assert extractor.nuisances.shape == (48, 48)
        extractor.nuisances = torch.zeros(48, 0)
        index = torch.from_numpy(TRAIN)
        takes = [encode(lambda x, lengths: extractor(*another_take(x, lengths)), tensors, index) for _ in range(3)]
    difference = (torch.stack(takes).double() - standard[TRAIN]).flatten(0, 1)
    scatter = difference.t() @ difference / len(difference)
    mean = scatter.diagonal().mean() * torch.eye(48, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(mean + scatter)
    whitening = axes @ torch.diag((mean[0, 0] / variances).sqrt()) @ axes.t()
    torch.testing.assert_close(shrunk, standard @ whitening, atol=2e-6, rtol=1e-5)


def test_the_takes_are_the_same_each_time_and_leave_the_random_state_alone(
    extractor: FeatureExtractor, tensors: ClipTensors
) -> None:
    first = fitted(extractor, tensors, feature_takes=2)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(fitted(extractor, tensors, feature_takes=2), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_many_clips_a_part_is_taken_anew(
    extractor: FeatureExtractor, tensors: ClipTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crrl.features.MOST_CLIPS", 2)
    asked = []
    monkeypatch.setattr("crrl.features.another_take", lambda x, lengths: asked.append(len(x)) or (x, lengths))
    fitted(extractor, tensors, feature_takes=2)
    assert asked == [3, 3]  # every second of 5 clips
    assert extractor.nuisances.isfinite().all()
    assert not extractor.nuisances.any()  # these takes do not differ
