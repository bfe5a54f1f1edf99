"""The features of a clip: hidden states pooled over its frames, standardised, with nuisance directions shrunk."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from crrl.models.layers import Encoder
from crrl.reference.motion import temporal_average, temporal_deviation

FeatureKind = Literal["paper", "tuned"]


class FeatureExtractor(nn.Module):
    """An encoder, and the features for a classifier that are made of its hidden states.

    Args:
        encoder: gives D hidden states per layer and frame.
        kind: paper, TAP of the top layer (Section IV-B, last paragraph), D features; tuned, the mean and the standard
            deviation over the clip's frames of both layers, 4·D features, fitted by `crrl.features.fit`.
        nuisances: the number of directions to shrink.

    Attributes:
        center, scale: float32 [features], subtracted and multiplied by; 0 and 1 until `crrl.features.fit`.
        nuisances: float32 [features, directions], N: features f become f - N·Nᵀ·f. Its columns are orthogonal, and
            shorter than 1: a column of length l leaves 1 - l² of what lies along it.
    """

    center: Tensor
    scale: Tensor
    nuisances: Tensor

    def __init__(self, encoder: Encoder, kind: FeatureKind = "paper", nuisances: int = 0):
        super().__init__()
        self.encoder = encoder
        self.kind = kind
        size = encoder.features * (1 if kind == "paper" else 4)
        device = next(encoder.parameters()).device
        self.register_buffer("center", torch.zeros(size, device=device))
        self.register_buffer("scale", torch.ones(size, device=device))
        self.register_buffer("nuisances", torch.zeros(size, nuisances, device=device))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features [B, F] of coordinates x [B, T, J·3]."""
        return self.adjusted(self.pooled(x, lengths))

    def adjusted(self, pooled: Tensor) -> Tensor:
        """Features [B, F] of pooled hidden states [B, F]."""
        return self.shrunk((pooled - self.center) * self.scale)

    def shrunk(self, standard: Tensor) -> Tensor:
        """Standardised features [B, F] with the nuisance directions shrunk, [B, F]."""
        return standard - (standard @ self.nuisances) @ self.nuisances.t()

    def pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states of coordinates x [B, T, J·3], only pooled, [B, F]."""
        if self.kind == "paper":
            return self.encoder.pooled(x, lengths)
        layers = self.encoder.each_layer(x, lengths)
        return torch.cat([pool(h, lengths) for pool in (temporal_average, temporal_deviation) for h in layers], dim=1)
