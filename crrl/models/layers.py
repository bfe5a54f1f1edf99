"""The encoder and the MLP head, shared by all parts of the method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crrl.nn import GRU
from crrl.reference.motion import temporal_average


class Encoder(nn.Module):
    """Two-layer bidirectional GRU (Section IV-B): 256 hidden units a direction, dropout 0.2 between the layers.

    Args:
        channels: J·3 inputs per frame. hidden_size: units per direction. dropout: between layers, in training.
        input_gain: a factor on the initial input weights (w_ih) of the first layer.
    """

    def __init__(self, channels: int, hidden_size: int = 256, dropout: float = 0.2, input_gain: float = 1.0):
        super().__init__()
        self.gru = GRU(channels, hidden_size, num_layers=2, dropout=dropout, bidirectional=True, batch_first=True)
        self.features = 2 * hidden_size
        with torch.no_grad():
            for name, weight in self.gru.named_parameters():
                if name.startswith("weight_ih_l0"):
                    weight.mul_(input_gain)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """h [B, T, 2·hidden], 0 at padded frames, for x [B, T, J·3] and lengths int64 [B]."""
        h, _ = self.gru(x, lengths=lengths)
        return h  # type: ignore[no-any-return]

    def each_layer(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """The hidden states [B, T, 2·hidden] of each layer, for x [B, T, J·3]; the last are those of `forward`."""
        return self.gru.each_layer(x, lengths)

    def pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        """TAP(h), the representation that is evaluated (Section IV-B, last paragraph): [B, 2·hidden]."""
        return temporal_average(self(x, lengths), lengths)


class MLPHead(nn.Sequential):
    """Nonlinear projection: two fully connected layers with one ReLU between them, [B, D] → [B, D]."""

    def __init__(self, features: int):
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
