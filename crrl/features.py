"""Features of clips, which protocols test and a teacher gives its student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from crrl import ops
from crrl.bars import bar
from crrl.data import ClipTensors
from crrl.data.augmentation import another_take
from crrl.data.batches import resampled
from crrl.models import FeatureExtractor

DEVIATION = 0.1
"""Standard deviation of each tuned feature over the training clips; suits the linear protocol's learning rate."""
TAKES = 6
"""Other takes of each training clip on which features are compared with the clip's."""
NEIGHBOURS = 3
"""Two clips count as alike if each is among the other's so many nearest."""
TRUST = 0.25
"""Weight of the differences between alike clips, beside weight 1 for differences between takes of a clip."""
MOST_CLIPS = 2048
"""Training sets of twice this many clips or more are thinned out before other takes are encoded."""
DIRECTIONS = 256
"""The largest number of nuisances, the directions that are shrunk."""
STRENGTH = 8.0
"""Strength of the shrinking: a nuisance whose variance is the mean over all directions keeps a third of its length."""

RAW_FRAMES = 32
"""Frames to which clips of any length are resampled, so that their coordinates can be compared."""

SEEN = 1e-10
"""Smaller mean variances of standardised features are rounding errors, not differences."""


@torch.no_grad()
def encode(
    features: Callable[[Tensor, Tensor], Tensor], tensors: ClipTensors, index: Tensor, batch_size: int = 128
) -> Tensor:
    """features(x, lengths) of the clips `index` (int64 [N], on the CPU): [N, D], on the device of `tensors`.

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
    """Features without an encoder: coordinates x [B, T, J·3], resampled to RAW_FRAMES frames: [B, RAW_FRAMES·J·3]."""
    return resampled(x, lengths, RAW_FRAMES).flatten(1)


@torch.no_grad()
def encode_takes(
    features: Callable[[Tensor, Tensor], Tensor],
    tensors: ClipTensors,
    index: Tensor,
    takes: int,
    yaw: float,
    silent: bool = False,
) -> Iterator[Tensor]:
    """Yield features(x, lengths) of `takes` other takes of the clips `index`, [N, D] each; reproducible.

    Args:
        yaw: how far the takes are turned, as for `another_take`. silent: show no bar.
    """
    device = tensors.frames.device
    with bar(takes, "features of other takes", "take", leave=False, delay=1, disable=silent) as shown:
        for number in range(takes):
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(number)
                take = encode(lambda x, lengths: features(*another_take(x, lengths, yaw)), tensors, index)
            yield take
            shown.update()


@torch.no_grad()
def fit(extractor: FeatureExtractor, tensors: ClipTensors, train: Tensor, pooled: Tensor, yaw: float) -> None:
    """Fit features of the kind "tuned" to the training clips; the paper's features are not fitted.

    Each feature is standardised over the training clips; a constant one becomes 0. Then two kinds of directions are
    shrunk: those in which a clip differs from TAKES other takes of it, and those in which alike clips (NEIGHBOURS)
    differ. An earlier fit is discarded.

    Args:
        train: int64 [N], the training clips, on the CPU.
        pooled: their pooled hidden states [N, F], `encode(extractor.pooled, tensors, train)`.
        yaw: how far other takes are turned, as for `another_take`.
    """
    if extractor.kind == "paper":
        return
    own = pooled.std(0, correction=0)
    extractor.center.copy_(pooled.mean(0))
    extractor.scale.copy_(torch.where(own > 1e-6, DEVIATION / own.clamp(min=1e-6), 0))
    extractor.nuisances = pooled.new_zeros(pooled.shape[1], 0)
    chosen = torch.arange(0, len(train), max(1, len(train) // MOST_CLIPS))
    known = extractor.adjusted(pooled[chosen.to(pooled.device)])
    takes = encode_takes(extractor, tensors, train[chosen], TAKES, yaw)
    of_takes = _spread(take - known for take in takes)
    extractor.nuisances = _nuisances(of_takes)
    one, other = _neighbours(extractor.shrunk(known))
    extractor.nuisances = _nuisances(of_takes + TRUST * _spread([known[one] - known[other]]))


def _spread(differences: Iterable[Tensor]) -> Tensor:
    """The scatter matrix [F, F] of differences [N, F], float64, at mean variance 1; about 0 without differences."""
    scatter = sum((some.t() @ some).double() / max(1, len(some)) for some in differences)
    assert isinstance(scatter, Tensor)
    return scatter / scatter.diagonal().mean().clamp(min=SEEN)


def _neighbours(features: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of alike clips (see NEIGHBOURS), by cosine of features [N, F]: int64 [P], int64 [P]."""
    directions = F.normalize(features, dim=1)
    similarity = (directions @ directions.t()).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(NEIGHBOURS, len(features) - 1), dim=1).indices
    near = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, nearest, True)
    one, other = (near & near.t()).triu().nonzero().unbind(1)
    return one, other


def _nuisances(scatter: Tensor) -> Tensor:
    """FeatureExtractor.nuisances from the scatter matrix [F, F] of differences between features that should be equal.

    The nuisances are the DIRECTIONS principal axes with the largest variances. Along one with variance e, features keep
    √(m / (m + STRENGTH·e)) of their length, where m is the mean variance over all axes. This is smoothed within-class
    covariance normalisation (Hatch, Kajarekar, Stolcke, Interspeech 2006) with a clip, or an alike pair, as a class.
    """
    variances, axes = torch.linalg.eigh(scatter)
    largest = variances[-DIRECTIONS:].clamp(min=0)
    mean = scatter.diagonal().mean().clamp(min=1e-30)
    lost = 1 - torch.sqrt(mean / (mean + STRENGTH * largest))
    nuisances: Tensor = axes[:, -DIRECTIONS:] * lost.sqrt()
    return nuisances.float()
