"""Features of clips, standardised over the training clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crrl.data import Clips, ClipTensors
from crrl.features import encode, standardise
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


def test_the_training_clips_get_mean_0_and_the_deviation_asked_for(
    extractor: FeatureExtractor, tensors: ClipTensors
) -> None:
    for _ in range(2):  # what an earlier call has set is forgotten
        standardise(extractor, tensors, TRAIN, 0.1)
        features = encode(extractor, tensors, torch.from_numpy(TRAIN))
        torch.testing.assert_close(features.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.std(0, correction=0), torch.full((48,), 0.1))


def test_none_leaves_the_features_as_they_are(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    index = torch.arange(7)
    before = encode(extractor, tensors, index)
    standardise(extractor, tensors, TRAIN, None)
    assert torch.equal(encode(extractor, tensors, index), before)


def test_a_feature_that_never_changes_is_0(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    standardise(extractor, tensors, TRAIN[3:4], 0.1)  # one clip
    assert not encode(extractor, tensors, torch.arange(7)).any()
