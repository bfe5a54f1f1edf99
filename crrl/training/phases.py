"""The two steps of Algorithm 1 as phases of one training loop, and the frozen teacher between them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from crrl.data import Batch, ClipTensors
from crrl.data.clips import IntArray
from crrl.features import encode
from crrl.models import ContrastiveMotionLearner, Encoder, InformationFuser
from crrl.optim import Follow
from crrl.training.ranks import Ranks, Share


class Phase(Protocol):
    """One of the two steps of Algorithm 1."""

    name: str
    with_velocity: bool
    losses: tuple[str, ...]
    """Names of the loss and, after it, of its parts."""

    @property
    def module(self) -> nn.Module:
        """All that is trained and saved."""

    @property
    def follow(self) -> Follow:
        """What follows the trained parameters by Eq. 5."""

    def loss(self, batch: Batch, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise and its parts to report, means over the rank's share of a batch."""

    def after_step(self) -> None:
        """What happens once the weights are updated."""


class ContrastPhase:
    """Step 1 (Algorithm 1, lines 3-19): keys, loss, enqueue; the optimizer's pass does the momentum update.

    The keys of a process alone enter the queue by the call that computes their loss. Those of all ranks enter once the
    weights are updated: a rank that is lost in between leaves queue and weights of the same step.
    """

    name = "cml"
    with_velocity = True
    losses: tuple[str, ...] = ("loss",)

    def __init__(self, module: ContrastiveMotionLearner, ranks: Ranks):
        self.module: ContrastiveMotionLearner = module
        self._ranks = ranks

    @property
    def follow(self) -> Follow:
        return self.module.follow

    def loss(self, batch: Batch, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.v is not None
        if self._ranks.size == 1:
            return self.module.loss_and_enqueue(batch.x, batch.v, batch.lengths), {}
        loss, keys = self.module(batch.x, batch.v, batch.lengths)
        self._keys = self._ranks.gather(keys, share)
        return loss, {}

    def after_step(self) -> None:
        if self._ranks.size > 1:
            self.module.enqueue(self._keys)


class ReconstructionPhase:
    """Step 2 (Algorithm 1, lines 20-35); `teacher` gives TAP(f_t(x)) of a batch, None trains SER alone."""

    name = "ser"
    with_velocity = False
    follow: Follow = ()

    def __init__(self, module: InformationFuser, teacher: Teacher | None):
        self.module = module
        self.losses: tuple[str, ...] = ("loss", "loss_r") if teacher is None else ("loss", "loss_r", "loss_d")
        self._teacher = teacher

    def loss(self, batch: Batch, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        target = None if self._teacher is None else self._teacher.features(batch)
        loss, parts = self.module(batch.x, batch.lengths, target)
        return loss, parts

    def after_step(self) -> None:
        pass


class Teacher:
    """The frozen query encoder. Without dropout its features never change, so they are computed once.

    Args:
        encoder: the encoder; no gradient ever reaches it.
        tensors: the clips. train: int64 [N_train], those it will be asked about.
        dropout: leave its dropout on, and compute its features anew for each batch.
    """

    def __init__(self, encoder: Encoder, tensors: ClipTensors, train: IntArray, dropout: bool):
        self._encoder = encoder.requires_grad_(False).train(dropout)
        self._cached: Tensor | None = None
        if not dropout:
            index = torch.from_numpy(train)
            known = encode(encoder, tensors, index)
            self._cached = known.new_zeros(len(tensors.labels), known.shape[1])
            self._cached[index.to(known.device)] = known

    @torch.no_grad()
    def features(self, batch: Batch) -> Tensor:
        """TAP of the teacher's hidden states (Algorithm 1, line 30), [B, D]."""
        if self._cached is None:
            return self._encoder.pooled(batch.x, batch.lengths)
        return self._cached[batch.index]
