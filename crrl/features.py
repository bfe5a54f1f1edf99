"""Features of clips: what is tested, and what a teacher gives its student."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from crrl import ops
from crrl.config import FeatureConfig
from crrl.data import ClipTensors
from crrl.data.augmentation import another_take
from crrl.data.batches import resampled
from crrl.models import FeatureExtractor

MOST_CLIPS = 2048
"""More training clips than twice this many are thinned out before other takes of them are encoded."""
DIRECTIONS = 256
"""How many nuisances are shrunk at most."""
STRENGTH = 8.0
"""How strongly: a nuisance as large as the mean over all directions keeps a third of its length."""

RAW_FRAMES = 32
"""At which coordinates of clips of any length are compared."""

SEEN = 1e-10
"""Smaller mean variances of standardised features are rounding, not differences."""


@torch.no_grad()
def encode(
    features: Callable[[Tensor, Tensor], Tensor], tensors: ClipTensors, index: Tensor, batch_size: int = 128
) -> Tensor:
    """features(x, lengths) of the clips `index` (int64 [N], on the CPU), [N, D] on the tensors' device.

    Raises:
        CrrlError: a kernel on a GPU gave up waiting.
    """
    by_length = torch.argsort(tensors.lengths[index], stable=True)
    parts = []
    for chunk in torch.split(by_length, batch_size):
        batch = tensors.batch(index[chunk])
        parts.append(features(batch.x, batch.lengths))
    result = torch.cat(parts)
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    ops.raise_if_timed_out()
    return torch.empty_like(result).index_copy_(0, by_length.to(result.device), result)


def raw(x: Tensor, lengths: Tensor) -> Tensor:
    """Features that nothing was learnt for: coordinates x [B, T, J·3] of RAW_FRAMES frames, [B, RAW_FRAMES·J·3]."""
    return resampled(x, lengths, RAW_FRAMES).flatten(1)


@torch.no_grad()
def encode_takes(
    features: Callable[[Tensor, Tensor], Tensor], tensors: ClipTensors, index: Tensor, takes: int, silent: bool = False
) -> Iterator[Tensor]:
    """features(x, lengths) of `takes` other takes of the clips `index`, [N, D] each; the same for the same clips."""
    device = tensors.frames.device
    shown = 0.2 if sys.stderr.isatty() else 60
    numbers = tqdm(range(takes), "features of other takes", unit="take", mininterval=shown, leave=False, disable=silent)
    for number in numbers:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(number)
            take = encode(lambda x, lengths: features(*another_take(x, lengths)), tensors, index)
        yield take


@torch.no_grad()
def fit(
    extractor: FeatureExtractor, tensors: ClipTensors, train: Tensor, pooled: Tensor, settings: FeatureConfig
) -> None:
    """Standardise an extractor's features over the training clips and shrink their nuisances, as `settings` say.

    What it was fitted to before is forgotten. A feature that never changes becomes 0.

    Args:
        train: int64 [N], the training clips, on the CPU.
        pooled: their pooled hidden states [N, F], `encode(extractor.pooled, tensors, train)`.
    """
    extractor.center.zero_()
    extractor.scale.fill_(1)
    extractor.nuisances = pooled.new_zeros(pooled.shape[1], 0)
    if settings.feature_deviation is not None:
        own = pooled.std(0, correction=0)
        extractor.center.copy_(pooled.mean(0))
        extractor.scale.copy_(torch.where(own > 1e-6, settings.feature_deviation / own.clamp(min=1e-6), 0))
    if settings.feature_takes:
        chosen = torch.arange(0, len(train), max(1, len(train) // MOST_CLIPS))
        known = extractor.adjusted(pooled[chosen.to(pooled.device)])
        takes = encode_takes(extractor, tensors, train[chosen], settings.feature_takes)
        nuisance = _spread(take - known for take in takes)
        extractor.nuisances = _nuisances(nuisance)
        if settings.feature_neighbours:
            one, other = _neighbours(extractor.shrunk(known), settings.feature_neighbours)
            extractor.nuisances = _nuisances(nuisance + _spread([known[one] - known[other]]))


def _spread(differences: Iterable[Tensor]) -> Tensor:
    """The scatter matrix [F, F] of differences [N, F], float64, of mean variance 1; about 0 where none are seen."""
    scatter = sum((some.t() @ some).double() / max(1, len(some)) for some in differences)
    assert isinstance(scatter, Tensor)
    return scatter / scatter.diagonal().mean().clamp(min=SEEN)


def _neighbours(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The clips of each pair that are among each other's `count` nearest by cosine, of features [N, F]."""
    directions = F.normalize(features, dim=1)
    similarity = (directions @ directions.t()).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(count, len(features) - 1), dim=1).indices
    near = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, nearest, True)
    one, other = (near & near.t()).triu().nonzero().unbind(1)
    return one, other


def _nuisances(scatter: Tensor) -> Tensor:
    """FeatureExtractor.nuisances from how features of what is the same differ, a scatter matrix [F, F].

    Along a principal axis of these differences with variance e, one of the DIRECTIONS largest, features keep
    √(m / (m + STRENGTH·e)) of their length, m the mean variance over all axes: within-class covariance normalisation
    (Hatch, Kajarekar, Stolcke, Interspeech 2006, smoothed), a class being a clip, or a pair of neighbours.
    """
    variances, axes = torch.linalg.eigh(scatter)
    largest = variances[-DIRECTIONS:].clamp(min=0)
    mean = scatter.diagonal().mean().clamp(min=1e-30)
    lost = 1 - torch.sqrt(mean / (mean + STRENGTH * largest))
    nuisances: Tensor = axes[:, -DIRECTIONS:] * lost.sqrt()
    return nuisances.float()
