"""Batches gathered from the flat array by index, without a loop over clips or worker processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crrl import ops
from crrl.data.clips import Clips
from crrl.reference.motion import take_frames


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        x: [B, T, J·3] coordinates, 0 in padded frames.
        v: [B, T, J·3] velocities (Eq. 2), or None if not requested.
        lengths: int64 [B], valid frames per row.
        index: int64 [B], the clips.
    """

    x: Tensor
    v: Tensor | None
    lengths: Tensor
    index: Tensor


class ClipTensors:
    """The frames of a data set as tensors on one device, from which batches are gathered.

    Attributes:
        frames: float32 [ΣT, J·3]. offsets: int64 [N + 1]. labels, lengths: int64 [N], on the CPU.
    """

    def __init__(self, clips: Clips, device: torch.device):
        self.frames = torch.from_numpy(clips.frames).flatten(1).to(device)
        self.offsets = torch.from_numpy(clips.offsets).to(device)
        self.labels = torch.from_numpy(clips.labels)
        self.lengths = torch.from_numpy(clips.lengths)
        self.longest = int(self.lengths.max())

    @property
    def channels(self) -> int:
        """J·3."""
        return self.frames.shape[1]

    def batch(self, index: Tensor, with_velocity: bool = False) -> Batch:
        """Gather the clips `index`, int64 [B], padded to the longest of them.

        With an index on a GPU they are padded to the longest clip of all: reading the index would wait for the device.
        """
        longest = int(self.lengths[index].max()) if index.device.type == "cpu" else self.longest
        index = index.to(self.frames.device)
        x, v, lengths = ops.ragged_gather(self.frames, self.offsets, index, longest, with_velocity)
        return Batch(x, v, lengths, index)


def played(x: Tensor, start: Tensor, kept: Tensor, position: Tensor) -> Tensor:
    """A piece of each clip, linearly interpolated between its frames: x [B, T, C] → [B, T', C].

    Args:
        start, kept: int64 [B], the first frame of the piece and its number of frames, at least 1.
        position: [B, T'], sampling times in frames from `start`; at most kept - 1.
    """
    left = position.long()
    right = (left + 1).minimum(kept[:, None] - 1)
    a, b = (take_frames(x, start[:, None] + side) for side in (left, right))
    return torch.lerp(a, b, (position - left).to(x.dtype)[:, :, None])


def resampled(x: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Clips resampled to one length: x [B, T, C] → [B, frames, C], evenly spaced from the first frame to the last.

    Args:
        lengths: int64 [B], valid frames, at least 1; a single frame is repeated. frames: 2 or more.
    """
    position = torch.arange(frames, device=x.device) * (lengths[:, None] - 1) / (frames - 1)
    return played(x, torch.zeros_like(lengths), lengths, position)


def epoch_order(train: Tensor, seed: int, epoch: int) -> Tensor:
    """The training clips, int64 [N_train], in the order of an epoch, which depends only on seed and epoch.

    They are sorted by hashes of their positions, computed on the device of `train`; every device gives the same order.
    """
    places = torch.arange(len(train), device=train.device)
    start = _signed((seed * 1_000_003 + epoch) * 0x9E3779B97F4A7C15)
    return train[torch.argsort(_mixed(_mixed(places) + start), stable=True)]


def _mixed(x: Tensor) -> Tensor:
    """The final mixing steps of SplitMix64 on int64: each input bit flips about half of the output bits."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return x ^ (x >> 31 & (1 << 33) - 1)


def _signed(number: int) -> int:
    """The int64 with the lowest 64 bits of `number`."""
    return (number + 2**63) % 2**64 - 2**63
