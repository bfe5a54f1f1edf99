"""Batches straight from the flat array: an index gather, no loop over clips and no worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crrl import ops
from crrl.data.clips import Clips, IntArray


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        x: [B, T, J·3] coordinates, 0 at padded frames.
        v: [B, T, J·3] velocities (Eq. 2), or None when not asked for.
        lengths: int64 [B], valid frames per row.
        index: int64 [B], the clips.
    """

    x: Tensor
    v: Tensor | None
    lengths: Tensor
    index: Tensor


class ClipTensors:
    """A data set's frames as tensors on one device, and the batches gathered from them.

    Attributes:
        frames: float32 [ΣT, J·3]. offsets: int64 [N + 1]. labels, lengths: int64 [N], on the CPU.
    """

    def __init__(self, clips: Clips, device: torch.device):
        self.frames = torch.from_numpy(clips.frames).flatten(1).to(device)
        self.offsets = torch.from_numpy(clips.offsets).to(device)
        self.labels = torch.from_numpy(clips.labels)
        self.lengths = torch.from_numpy(clips.lengths)

    @property
    def channels(self) -> int:
        """J·3."""
        return self.frames.shape[1]

    def batch(self, index: Tensor, with_velocity: bool = False) -> Batch:
        """Gather the clips `index` (int64 [B], on the CPU), padded to the longest of them."""
        longest = int(self.lengths[index].max())
        index = index.to(self.frames.device)
        x, v, lengths = ops.ragged_gather(self.frames, self.offsets, index, longest, with_velocity)
        return Batch(x, v, lengths, index)


def epoch_order(train: IntArray, seed: int, epoch: int) -> Tensor:
    """The training clips in the order of one epoch, int64 [N_train]: a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]


def split_batches(order: Tensor, batch_size: int, drop_last: bool) -> Iterator[Tensor]:
    """Cut an order into batches; a short last one is dropped or kept."""
    for batch in torch.split(order, batch_size):
        if len(batch) == batch_size or not drop_last:
            yield batch
