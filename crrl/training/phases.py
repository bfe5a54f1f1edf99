"""The two steps of Algorithm 1 as phases of one training loop, and the frozen teacher between them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from crrl.data import Batch, ClipTensors
from crrl.data.clips import IntArray
from crrl.features import encode
from crrl.models import ContrastiveMotionLearner, Encoder, InformationFuser


class Phase(Protocol):
    """One of the two steps of Algorithm 1."""

    name: str
    with_velocity: bool

    @property
    def module(self) -> nn.Module:
        """All that is trained and saved."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise and its parts to report."""

    def after_step(self) -> None:
        """What happens once the weights are updated."""


class ContrastPhase:
    """Step 1 (Algorithm 1, lines 3-19): momentum update, keys, loss; the keys enter the queue after the update."""

    name = "cml"
    with_velocity = True

    def __init__(self, module: ContrastiveMotionLearner):
        self.module: ContrastiveMotionLearner = module

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.v is not None
        self.module.update_keys()
        loss, self._keys = self.module(batch.x, batch.v, batch.lengths)
        return loss, {}

    def after_step(self) -> None:
        self.module.enqueue(self._keys)


class ReconstructionPhase:
    """Step 2 (Algorithm 1, lines 20-35); `teacher` gives TAP(f_t(x)) of a batch, None trains SER alone."""

    name = "ser"
    with_velocity = False

    def __init__(self, module: InformationFuser, teacher: Teacher | None):
        self.module = module
        self._teacher = teacher

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
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
