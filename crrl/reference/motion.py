"""Ragged rows: clips gathered into a padded batch, velocity (Eq. 2), reversal, temporal average (Eqs. 3, 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """bool [B, T]: which frames of a padded batch belong to their clip. lengths: int64 [B]."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def take_frames(x: Tensor, index: Tensor) -> Tensor:
    """The frames `index` (int64 [B, T']) of each row of x [B, T, C]: [B, T', C]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row with its valid frames in reverse order and its padding unchanged: [B, T, C] → [B, T, C]."""
    t = torch.arange(x.shape[1], device=x.device)
    return take_frames(x, torch.where(valid_frames(lengths, x.shape[1]), lengths[:, None] - 1 - t, t))


def velocity(x: Tensor, lengths: Tensor) -> Tensor:
    """Eq. 2: v_t = x_{t+1} − x_t, the last one repeated; a clip of one frame has velocity 0.

    Args:
        x: [B, T, C] normalised coordinates. lengths: int64 [B].

    Returns:
        [B, T, C], 0 at padded frames.
    """
    frames = x.shape[1]
    t = torch.arange(frames, device=x.device)
    this = torch.minimum(t, (lengths[:, None] - 2).clamp(min=0))
    following = torch.minimum(this + 1, lengths[:, None] - 1)
    v = take_frames(x, following) - take_frames(x, this)
    return torch.where(valid_frames(lengths, frames)[:, :, None], v, 0)


def temporal_average(h: Tensor, lengths: Tensor) -> Tensor:
    """TAP (Eqs. 3, 4): the mean over each row's valid frames, [B, T, C] → [B, C]; h must be 0 at padded frames."""
    return h.sum(1) / lengths[:, None]


def temporal_deviation(h: Tensor, lengths: Tensor) -> Tensor:
    """The standard deviation over each row's valid frames: [B, T, C] → [B, C]; 0 for a row of one frame."""
    squared = (h - temporal_average(h, lengths)[:, None]).square()
    valid = valid_frames(lengths, h.shape[1])[:, :, None]
    return temporal_average(torch.where(valid, squared, 0), lengths).sqrt()


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clips of a flat array as one padded batch.

    Args:
        frames: [ΣT, C], all clips one after the other. offsets: int64 [N + 1]. index: int64 [B], clips to take.
        max_frames: T, at least the longest of these clips.

    Returns:
        x [B, T, C] padded with zeros; v, its velocity (Eq. 2), or None; lengths int64 [B].
    """
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    t = torch.arange(max_frames, device=frames.device)
    source = starts[:, None] + torch.minimum(t, lengths[:, None] - 1)
    x = torch.where(valid_frames(lengths, max_frames)[:, :, None], frames[source], 0)
    return x, velocity(x, lengths) if with_velocity else None, lengths
