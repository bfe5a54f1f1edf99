"""Features of clips: what is tested, and what a teacher gives its student."""

from __future__ import annotations

import torch
from torch import Tensor

from crrl import ops
from crrl.data import ClipTensors
from crrl.models import Encoder


@torch.no_grad()
def encode(encoder: Encoder, tensors: ClipTensors, index: Tensor, batch_size: int = 128) -> Tensor:
    """TAP features of the clips `index` (int64 [N], on the CPU), [N, D] on the tensors' device.

    Raises:
        CrrlError: a kernel on a GPU gave up waiting.
    """
    by_length = torch.argsort(tensors.lengths[index], stable=True)
    parts = []
    for chunk in torch.split(by_length, batch_size):
        batch = tensors.batch(index[chunk])
        parts.append(encoder.pooled(batch.x, batch.lengths))
    features = torch.cat(parts)
    if features.is_cuda:
        torch.cuda.synchronize(features.device)
    ops.raise_if_timed_out()
    return torch.empty_like(features).index_copy_(0, by_length.to(features.device), features)
