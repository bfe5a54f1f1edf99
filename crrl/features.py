"""Features of clips: what is tested, and what a teacher gives its student."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crrl import ops
from crrl.data import ClipTensors
from crrl.data.clips import IntArray
from crrl.models import FeatureExtractor


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


def standardise(extractor: FeatureExtractor, tensors: ClipTensors, train: IntArray, deviation: float | None) -> None:
    """Give each feature mean 0 and the standard deviation `deviation` over the clips `train`; None: leave all as is.

    A feature that never changes stays 0.
    """
    if deviation is None:
        return
    extractor.center.zero_()
    extractor.scale.fill_(1)
    center, scale = standards(encode(extractor, tensors, torch.from_numpy(train)), deviation)
    extractor.center.copy_(center)
    extractor.scale.copy_(scale)


def standards(features: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """What to subtract from features like these, [N, D], and then to multiply them by; [D] each."""
    own = features.std(0, correction=0)
    return features.mean(0), torch.where(own > 1e-6, deviation / own.clamp(min=1e-6), 0)
