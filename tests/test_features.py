"""Features of clips, fitted to the training clips: standardised, and with their nuisances shrunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crrl.data import Clips, ClipTensors
from crrl.data.clips import IntArray
from crrl.features import RAW_FRAMES, STRENGTH, TAKES, TRUST, encode, encode_takes, fit, raw
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
    return FeatureExtractor(Encoder(9, 6), "tuned").eval()


def fitted(extractor: FeatureExtractor, tensors: ClipTensors, train: IntArray = TRAIN, yaw: float = 60) -> torch.Tensor:
    """Features of all clips, fitted to some."""
    index = torch.from_numpy(train)
    fit(extractor, tensors, index, encode(extractor.pooled, tensors, index), yaw)
    return encode(extractor, tensors, torch.arange(7))


def standardised(extractor: FeatureExtractor, tensors: ClipTensors) -> torch.Tensor:
    """What standardising alone makes of the features of all clips, [7, 48]."""
    pooled = encode(extractor.pooled, tensors, torch.arange(7))
    return 0.1 * (pooled - pooled[TRAIN].mean(0)) / pooled[TRAIN].std(0, correction=0)


def takes_of(extractor: FeatureExtractor, tensors: ClipTensors) -> torch.Tensor:
    """The standardised features of other takes of the training clips, [TAKES, 5, 48]."""
    fitted(extractor, tensors)
    extractor.nuisances = extractor.nuisances[:, :0]
    return torch.stack(list(encode_takes(extractor, tensors, torch.from_numpy(TRAIN), TAKES, 60)))


def spread(differences: torch.Tensor) -> torch.Tensor:
    """Their scatter matrix, of mean variance 1."""
    scatter = differences.double().t() @ differences.double()
    return scatter / scatter.diagonal().mean()


def whitening(scatter: torch.Tensor) -> torch.Tensor:
    """What shrinks a direction of variance e to √(m / (m + STRENGTH·e))."""
    mean = scatter.diagonal().mean()
    variances, axes = torch.linalg.eigh(scatter)
    return axes @ torch.diag((mean / (mean + STRENGTH * variances.clamp(min=0))).sqrt()) @ axes.t()


def test_the_papers_features_are_left_as_they_are(tensors: ClipTensors) -> None:
    extractor = FeatureExtractor(Encoder(9, 6)).eval()
    assert torch.equal(fitted(extractor, tensors), encode(extractor.encoder.pooled, tensors, torch.arange(7)))


def test_what_an_earlier_call_has_fitted_is_forgotten(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    first = fitted(extractor, tensors)
    fitted(extractor, tensors, TRAIN[:3], yaw=0)
    assert torch.equal(fitted(extractor, tensors), first)


def test_a_feature_that_never_changes_is_0(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    assert not fitted(extractor, tensors, TRAIN[3:4]).any()  # one clip


def test_what_tells_takes_and_neighbours_apart_is_shrunk_as_the_formula_says(
    extractor: FeatureExtractor, tensors: ClipTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crrl.features.NEIGHBOURS", 2)
    takes, standard = takes_of(extractor, tensors), standardised(extractor, tensors)
    of_takes = spread((takes - standard[TRAIN]).flatten(0, 1))
    near = torch.nn.functional.normalize(standard[TRAIN].double() @ whitening(of_takes), dim=1)
    similarity = near @ near.t() - 9 * torch.eye(len(TRAIN))
    second = similarity.topk(2, dim=1).values[:, 1:]
    mutual = (similarity >= second) & (similarity >= second.t())
    pairs = [(a, b) for a, b in mutual.nonzero().tolist() if a < b]
    assert 0 < len(pairs) < 10  # of 5 clips
    differences = torch.stack([standard[TRAIN[a]] - standard[TRAIN[b]] for a, b in pairs])
    shrunk = fitted(extractor, tensors).double()
    assert extractor.nuisances.shape == (48, 48)
    expected = standard.double() @ whitening(of_takes + TRUST * spread(differences))
    torch.testing.assert_close(shrunk, expected, atol=2e-6, rtol=1e-5)


def test_how_far_takes_are_turned_matters(extractor: FeatureExtractor, tensors: ClipTensors) -> None:
    assert not torch.allclose(fitted(extractor, tensors, yaw=0), fitted(extractor, tensors, yaw=90))


def test_the_takes_are_the_same_each_time_and_leave_the_random_state_alone(
    extractor: FeatureExtractor, tensors: ClipTensors
) -> None:
    first = fitted(extractor, tensors)
    one, other = takes_of(extractor, tensors)[:2]
    assert not torch.allclose(one, other)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(fitted(extractor, tensors), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_many_clips_a_part_is_taken_anew(
    extractor: FeatureExtractor, tensors: ClipTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crrl.features.MOST_CLIPS", 2)
    asked = []
    monkeypatch.setattr("crrl.features.another_take", lambda x, lengths, yaw: asked.append(len(x)) or (x, lengths))
    fitted(extractor, tensors)
    assert asked == [3] * TAKES  # every second of 5 clips
    assert extractor.nuisances.isfinite().all()


def test_raw_features_are_the_coordinates_frame_by_frame(tensors: ClipTensors) -> None:
    features = encode(raw, tensors, torch.arange(7))
    assert features.shape == (7, RAW_FRAMES * 3 * 3)
    frames = features.view(7, RAW_FRAMES, 9)
    first, last = tensors.offsets[:-1], tensors.offsets[1:] - 1
    assert torch.equal(frames[:, 0], tensors.frames[first])
    assert torch.equal(frames[:, -1], tensors.frames[last])
    assert torch.equal(frames[3], tensors.frames[first[3]].expand(RAW_FRAMES, 9))  # a clip of one frame
