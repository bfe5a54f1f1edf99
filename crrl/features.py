"""Features of clips: what is tested, and what a teacher gives its student."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from crrl import ops
from crrl.data import ClipTensors
from crrl.data.augmentation import another_take
from crrl.models import FeatureExtractor

MOST_CLIPS = 2048
"""More training clips than twice this many are thinned out before other takes of them are encoded."""
DIRECTIONS = 128
"""How many nuisances are shrunk at most."""


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


@torch.no_grad()
def fit(
    extractor: FeatureExtractor,
    tensors: ClipTensors,
    train: Tensor,
    pooled: Tensor,
    feature_deviation: float | None,
    feature_takes: int,
) -> None:
    """Standardise an extractor's features over the training clips and shrink their nuisances.

    What it was fitted to before is forgotten. A feature that never changes becomes 0.

    Args:
        train: int64 [N], the training clips, on the CPU.
        pooled: their pooled hidden states [N, F], `encode(extractor.pooled, tensors, train)`.
        feature_deviation, feature_takes: of `crrl.config.FeatureConfig`.
    """
    extractor.center.zero_()
    extractor.scale.fill_(1)
    extractor.nuisances = pooled.new_zeros(pooled.shape[1], 0)
    if feature_deviation is not None:
        own = pooled.std(0, correction=0)
        extractor.center.copy_(pooled.mean(0))
        extractor.scale.copy_(torch.where(own > 1e-6, feature_deviation / own.clamp(min=1e-6), 0))
    if feature_takes:
        chosen = torch.arange(0, len(train), max(1, len(train) // MOST_CLIPS))
        known = extractor.adjusted(pooled[chosen.to(pooled.device)])
        extractor.nuisances = _nuisances(extractor, tensors, train[chosen], known, feature_takes)


def _nuisances(extractor: FeatureExtractor, tensors: ClipTensors, clips: Tensor, known: Tensor, takes: int) -> Tensor:
    """FeatureExtractor.nuisances from how the features of `clips`, `known` [N, F], differ in other takes of them.

    Along a principal axis of these differences with variance e, one of the DIRECTIONS largest, features keep
    √(m / (m + e)) of their length, m the mean variance over all axes: within-class covariance normalisation (Hatch,
    Kajarekar, Stolcke, Interspeech 2006, smoothed), a class being a clip. Other takes are the same for the same clips.
    """
    scatter = torch.zeros(known.shape[1], known.shape[1], dtype=torch.float64, device=known.device)
    shown = 0.2 if sys.stderr.isatty() else 60
    with torch.random.fork_rng([known.device] if known.is_cuda else []):
        torch.manual_seed(0)
        for _ in tqdm(range(takes), "features of other takes", unit="take", mininterval=shown, leave=False):
            difference = encode(lambda x, lengths: extractor(*another_take(x, lengths)), tensors, clips) - known
            scatter += (difference.t() @ difference).double()
    scatter /= takes * len(known)
    variances, axes = torch.linalg.eigh(scatter)
    largest = variances[-DIRECTIONS:].clamp(min=0)
    mean = scatter.diagonal().mean().clamp(min=1e-30)
    lost = 1 - torch.sqrt(mean / (mean + largest))
    nuisances: Tensor = axes[:, -DIRECTIONS:] * lost.sqrt()
    return nuisances.float()
