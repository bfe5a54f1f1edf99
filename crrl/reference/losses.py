"""The losses of the second step: reconstruction (Eq. 1) and distillation (Eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from crrl.reference.motion import reverse, valid_frames


def reconstruction_error(target: Tensor, output: Tensor, lengths: Tensor) -> Tensor:
    """One direction of Eq. 1: ‖target − output‖² over valid frames / row length, the mean over the batch.

    Args:
        target, output: [B, T, C]. lengths: int64 [B].

    Returns:
        A scalar.
    """
    squared = (target - output).square().sum(2)
    per_clip = torch.where(valid_frames(lengths, target.shape[1]), squared, 0).sum(1) / lengths
    return per_clip.mean()


def reconstruction_loss(x: Tensor, forward: Tensor | None, backward: Tensor | None, lengths: Tensor) -> Tensor:
    """Eq. 1: the error of the forward reconstruction of x plus that of the reverse one of x reversed.

    Args:
        x: [B, T, C]. lengths: int64 [B].
        forward, backward: [B, T, C]; `backward` reconstructs each row's valid frames in reverse order. At most one of
            them is None, and adds no error.
    """
    if forward is None:
        assert backward is not None
        return reconstruction_error(reverse(x, lengths), backward, lengths)
    loss = reconstruction_error(x, forward, lengths)
    return loss if backward is None else loss + reconstruction_error(reverse(x, lengths), backward, lengths)


def distillation_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Eq. 7: ‖h_t − h_s‖² summed over features, the mean over the batch; [B, D] each, no gradient to the teacher."""
    return (teacher.detach() - student).square().sum(1).mean()
