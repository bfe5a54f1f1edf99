"""torch.nn.GRU that also takes padded rows with their lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from crrl import ops
from crrl.reference.gru import Weights


class GRU(nn.GRU):
    """torch.nn.GRU with one more argument: `lengths`, for padded rows.

    Same constructor, parameters and results as torch.nn.GRU. Called without `lengths` it is torch.nn.GRU; called with
    them it gives what torch.nn.GRU gives on the packed sequence, through crrl.ops.gru_layer, layer by layer.
    """

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run all layers.

        Args:
            input: [B, T, I] when batch_first, as torch.nn.GRU takes it; with `lengths`, batch_first is required.
            hx: [layers · D, B, H] initial states, zeros when None.
            lengths: int64 [B], valid frames per row, each in 1..T; None: as torch.nn.GRU.

        Returns:
            output [B, T, D·H], 0 at padded frames, and h_n [layers · D, B, H].

        Raises:
            ValueError: `lengths` given with a PackedSequence, without batch_first or with another batch size.
        """
        if lengths is None:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence) or not self.batch_first or input.shape[:1] != lengths.shape:
            raise ValueError("lengths [B] go with a padded [B, T, I] input and batch_first=True")
        return self._forward_ragged(input, hx, lengths)

    def _forward_ragged(self, x: Tensor, hx: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
        directions = 2 if self.bidirectional else 1
        finals = []
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            h0 = None if hx is None else hx[layer * directions : (layer + 1) * directions]
            x, h_n = ops.gru_layer(x, lengths, self._layer_weights(layer), h0)
            finals.append(h_n)
        return x, torch.cat(finals)

    def _layer_weights(self, layer: int) -> list[Weights]:
        suffixes = ["", "_reverse"] if self.bidirectional else [""]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [tuple(getattr(self, f"{name}_l{layer}{suffix}", None) for name in names) for suffix in suffixes]  # type: ignore[misc]
