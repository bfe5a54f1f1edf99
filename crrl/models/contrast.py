"""Contrastive Motion Learner (Section III-B, Eqs. 3-6)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crrl import ops
from crrl.models.layers import Encoder, MLPHead
from crrl.nn import run_together
from crrl.optim import Follow
from crrl.reference.contrast import enqueue
from crrl.reference.motion import temporal_average


class ContrastiveMotionLearner(nn.Module):
    """A query encoder on coordinates, a momentum key encoder on velocities (or another view), and a queue of keys.

    Args:
        encoder: the query encoder, random or trained; the key encoder starts as its copy (Algorithm 1, line 2).
        queue_size: K, number of negatives. temperature: τ of Eq. 6.
        momentum_encoder: m of the key encoder (Eq. 5). momentum_mlp: m of the key MLP (Table IX); at 1 the key MLP has
            its own random weights and is never updated, below 1 it starts as a copy and follows.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(
        self, encoder: Encoder, queue_size: int, temperature: float, momentum_encoder: float, momentum_mlp: float
    ):
        super().__init__()
        self.temperature = temperature
        self.momentum_encoder = momentum_encoder
        self.momentum_mlp = momentum_mlp
        self.query_encoder = encoder
        self.query_mlp = MLPHead(encoder.features)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        key_mlp = MLPHead(encoder.features) if momentum_mlp == 1 else copy.deepcopy(self.query_mlp)
        self.key_mlp = key_mlp.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, encoder.features), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def follow(self) -> Follow:
        """The parameters that follow the query encoder and MLP by Eq. 5 in the optimizer's pass, with their momenta."""
        return [
            (list(self.key_encoder.parameters()), self.momentum_encoder),
            (list(self.key_mlp.parameters()), self.momentum_mlp),
        ]

    def encode(
        self, x: Tensor, view: Tensor, lengths: Tensor, view_lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The query encoder's hidden states h [B, T, D] of coordinates x, and the keys [B, D] of `view` (Eq. 4).

        x, view: [B, T, J·3]; `view` is velocities or another view for the key encoder, with its own lengths if
        `view_lengths` is given. Keys are L2-normalised and have no gradient. On a GPU the two encoders share their
        launches, unless `view_lengths` is given.
        """
        if view_lengths is None:
            view_lengths = lengths
            (h, _), (h_key, _) = run_together(self.query_encoder.gru, x, self.key_encoder.gru, view, lengths)
        else:
            with torch.no_grad():
                h_key = self.key_encoder(view, view_lengths)
            h = self.query_encoder(x, lengths)
        with torch.no_grad():
            return h, F.normalize(self.key_mlp(temporal_average(h_key, view_lengths)), dim=1)

    def loss(self, features: Tensor, keys: Tensor, enqueue: bool = False) -> Tensor:
        """The loss of Eq. 6, a scalar; the query MLP makes the queries (Eq. 3).

        Args:
            features: TAP of the query encoder, [B, D]; InfoNCE normalises the MLP's output.
            keys: [B, D], L2-normalised. enqueue: the same call puts them into the queue.
        """
        q = self.query_mlp(features)
        if enqueue:
            return ops.info_nce_enqueue(q, keys, self.queue, self.pointer, self.temperature)
        return ops.info_nce(q, keys, self.queue, self.temperature)

    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys` [B, D] (Algorithm 1, lines 17 and 18)."""
        enqueue(self.queue, self.pointer, keys)
