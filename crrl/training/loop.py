"""The one training loop: steps, metrics, checkpoints, and stopping on a signal."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from crrl.data import ClipTensors
from crrl.data.batches import epoch_order, split_batches
from crrl.data.clips import IntArray
from crrl.errors import CrrlError, Interrupted
from crrl.runs import RunFolder, load_weights
from crrl.training.phases import Phase
from crrl.training.progress import Progress

LR_DROPS = (20, 50)
"""Epochs after which the learning rate halves under the schedule "steps" (Section IV-B)."""


@contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM are noted in the list given, not acted upon; a second one acts as usual.

    Raises:
        Interrupted: one was noted; raised at the end of the block at the latest.
    """
    caught: list[int] = []
    before = {int(signum): signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signum, before[signum])

    for signum in before:
        signal.signal(signum, note)
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if caught:
        raise Interrupted(caught[0])


@dataclass(frozen=True)
class Plan:
    """Length and optimisation of one phase."""

    clips: int
    epochs: int
    batch_size: int
    drop_last: bool
    optimizer: str
    lr: float
    schedule: str
    weight_decay: float
    checkpoint_every: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise CrrlError(
                f"{self.clips} training clips do not fill a batch of {self.batch_size}: "
                "give a smaller --batch-size, or --no-drop-last"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.clips // self.batch_size if self.drop_last else math.ceil(self.clips / self.batch_size)

    @property
    def clips_per_epoch(self) -> int:
        return self.steps_per_epoch * self.batch_size if self.drop_last else self.clips

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def make_optimizer(self, module: nn.Module) -> Optimizer:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self.optimizer == "sgd":
            return SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)

    def make_schedule(self, optimizer: Optimizer) -> LRScheduler:
        if self.schedule == "one-cycle":
            return OneCycleLR(optimizer, max_lr=self.lr, total_steps=self.steps)
        drops = LR_DROPS if self.schedule == "steps" else ()
        return MultiStepLR(optimizer, [epoch * self.steps_per_epoch for epoch in drops], gamma=0.5)


class Loop:
    """Trains one phase on one data set in one run folder.

    Args:
        phase: what is trained. plan: for how long and how. tensors: the clips. train: int64 [N_train], which of them.
        fingerprint: of the data set. run: where metrics and checkpoints go.
        first_step: steps of the phases before, for the event log.
    """

    def __init__(
        self,
        phase: Phase,
        plan: Plan,
        tensors: ClipTensors,
        train: IntArray,
        fingerprint: str,
        run: RunFolder,
        first_step: int,
    ):
        self.phase, self.plan, self.tensors, self.train, self.run = phase, plan, tensors, train, run
        self.fingerprint = fingerprint
        self.optimizer = plan.make_optimizer(phase.module)
        self.schedule = plan.make_schedule(self.optimizer)
        self.first_step = first_step
        self.step = 0
        self.sums: dict[str, Tensor] = {}

    def fit(self, checkpoint: dict[str, Any] | None) -> None:
        """Train from the checkpoint, or the start when None, to the end of the plan.

        Raises:
            Interrupted: a signal came; the checkpoint is written.
            CrrlError: the loss is no longer finite, or a file cannot be written.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        self.phase.module.train()
        with catch_stop_signals() as signals, self._progress() as progress:
            while self.step < self.plan.steps and not signals:
                self._epoch(progress, signals)

    def _progress(self) -> Progress:
        plan = self.plan
        epochs, steps = divmod(self.step, plan.steps_per_epoch)
        done = epochs * plan.clips_per_epoch + steps * plan.batch_size
        return Progress(
            self.run, self.phase.name, plan.epochs, plan.clips_per_epoch, done, first_step=self.first_step + self.step
        )

    def _epoch(self, progress: Progress, signals: list[int]) -> None:
        plan = self.plan
        epoch, done = divmod(self.step, plan.steps_per_epoch)
        order = epoch_order(self.train, plan.seed, epoch)
        for index in list(split_batches(order, plan.batch_size, plan.drop_last))[done:]:
            lr = self.optimizer.param_groups[0]["lr"]
            losses = self._step(index)
            progress.advance(len(index), losses["loss"])
            if self.step % plan.steps_per_epoch == 0:
                progress.epoch(epoch + 1, self.first_step + self.step, lr, self._means())
            if signals or self.step % plan.checkpoint_every == 0 or self.step == plan.steps:
                self._save()
            if signals:
                return

    def _step(self, index: Tensor) -> dict[str, Tensor]:
        batch = self.tensors.batch(index, self.phase.with_velocity)
        loss, parts = self.phase.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.phase.after_step()
        self.step += 1
        losses = {"loss": loss.detach(), **parts}
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.double() * len(index)
        return losses

    def _means(self) -> dict[str, float]:
        """The epoch's mean losses per clip; starts the next epoch's sums."""
        self._check_finite()
        means = {name: float(total) / self.plan.clips_per_epoch for name, total in self.sums.items()}
        self.sums = {}
        return means

    def _check_finite(self) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in (*self.sums.values(), *self.phase.module.parameters())):
            raise CrrlError(
                f"the training of {self.phase.name} is no longer finite at step {self.step} of {self.plan.steps}; "
                f"lower --lr-{self.phase.name} and start again with another --out"
            )

    def _save(self) -> None:
        self._check_finite()
        state = {
            "phase": self.phase.name,
            "step": self.step,
            "module": self.phase.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "sums": self.sums,
            "data": self.fingerprint,
        }
        if self.tensors.frames.is_cuda:
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.save_checkpoint(state)

    def _restore(self, state: dict[str, Any]) -> None:
        path = self.run.checkpoint_path
        load_weights(self.phase.module, state["module"], path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        except (ValueError, KeyError) as error:
            raise CrrlError(f"{path} does not fit this configuration: its optimizer is another") from error
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state and self.tensors.frames.is_cuda:
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.step, self.sums = state["step"], dict(state["sums"])
