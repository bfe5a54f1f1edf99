"""The one training loop: steps, metrics, checkpoints, and stopping on a signal."""

from __future__ import annotations

import math
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from crrl import ops
from crrl.data import ClipTensors
from crrl.data.batches import epoch_order
from crrl.data.clips import IntArray
from crrl.errors import CrrlError, catch_stop_signals
from crrl.files import explain_damage
from crrl.optim import FlatAdam, FlatOptimizer, FlatSGD, current_rates
from crrl.runs import RunFolder
from crrl.training.phases import Phase
from crrl.training.progress import Progress
from crrl.training.ranks import LostRank, Ranks, Share
from crrl.training.step import Step

LR_DROPS = {"steps": (20, 50), "steps-18": (18, 50)}
"""Epochs after which the learning rate halves, by schedule: of Section IV-B, and of the authors' code."""

AGREE_EVERY = 10
"""Steps after which several ranks tell each other of signals, so that all stop after the same step."""


CHECKPOINT_EVERY = 200
"""Steps between checkpoints: a kill loses about a minute, and writing one costs little beside so many steps."""
MOST_STEPS = 5_000_000
"""The most steps of a phase, as all learning rates are in memory. NTU RGB+D 120 takes 0.2 million in 100 epochs."""


@dataclass(frozen=True)
class Schedule:
    """Length and optimisation of one phase. batch_size counts the clips of all ranks."""

    clips: int
    epochs: int
    batch_size: int
    drop_last: bool
    optimizer: str
    lr: float
    rates_fall: str
    weight_decay: float
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise CrrlError(
                f"{self.clips} training clips do not fill a batch of {self.batch_size}: "
                "give a smaller --batch-size, or --no-drop-last"
            )
        if self.steps > MOST_STEPS:
            raise CrrlError(
                f"{self.epochs} epochs of {self.clips} clips are {self.steps} steps, more than {MOST_STEPS}: "
                "give fewer epochs, or a larger --batch-size"
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

    def batches(self) -> list[int]:
        """The number of clips in each batch of an epoch; a short last batch is dropped or kept."""
        last = self.clips_per_epoch % self.batch_size
        return [self.batch_size] * (self.clips_per_epoch // self.batch_size) + ([last] if last else [])

    def make_optimizer(self, phase: Phase) -> FlatOptimizer:
        parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        settings |= {"follow": phase.follow, "spare": len(phase.losses)}
        if self.optimizer == "sgd":
            return FlatSGD(parameters, momentum=0.9, **settings)
        return FlatAdam(parameters, **settings)

    def rates(self, optimizer: FlatOptimizer, steps: int | None = None) -> Tensor:
        """The rates that `optimizer` reads at each step, or at each of the first `steps`: float64 [steps, 4]."""
        nothing = [torch.zeros(1)]
        model = SGD(nothing, self.lr, momentum=0.9) if self.optimizer == "sgd" else Adam(nothing, self.lr)
        falling, rows = self._falling(model), []
        for step in range(1, (self.steps if steps is None else steps) + 1):
            rows.append(optimizer.rates(*current_rates(model), step))
            model.step()
            falling.step()
        return torch.tensor(rows, dtype=torch.float64)

    def _falling(self, optimizer: Optimizer) -> LRScheduler:
        if self.rates_fall == "one-cycle":
            return OneCycleLR(optimizer, max_lr=self.lr, total_steps=self.steps)
        drops = LR_DROPS.get(self.rates_fall, ())
        return MultiStepLR(optimizer, [epoch * self.steps_per_epoch for epoch in drops], gamma=0.5)


class Loop:
    """Trains one phase on one data set in one run folder.

    Args:
        phase: what is trained. schedule: how long and how. tensors: the clips. train: int64 [N_train], indices of the
            training clips.
        fingerprint: of the data set. run: where rank 0 writes metrics and checkpoints.
        first_step: steps of the phases before, for the event log. ranks, capture, bf16: as for Step.
    """

    def __init__(
        self,
        phase: Phase,
        schedule: Schedule,
        tensors: ClipTensors,
        train: IntArray,
        run: RunFolder,
        ranks: Ranks,
        *,
        fingerprint: str,
        first_step: int,
        capture: bool,
        bf16: bool,
    ):
        self.phase, self.schedule, self.tensors, self.run, self.ranks = phase, schedule, tensors, run, ranks
        self.fingerprint = fingerprint
        self.device = tensors.frames.device
        self.train = torch.from_numpy(train).to(self.device)
        self.optimizer = schedule.make_optimizer(phase)
        rates = schedule.rates(self.optimizer)
        self.learning_rates = rates[:, 0].tolist()
        self.program = Step(phase, self.optimizer, tensors, rates.float().to(self.device), ranks, capture, bf16)
        self.first_step = first_step
        self.step = 0

    def fit(self, checkpoint: dict[str, Any] | None) -> Iterator[None]:
        """Train from the checkpoint (None: from the start) to the end of the schedule; yields after each step.

        Raises:
            Interrupted: a signal came; the checkpoint is written.
            CrrlError: the loss is no longer finite, another rank is lost, or a file cannot be written.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        self.phase.module.train()
        with catch_stop_signals() as signals, self._progress() as progress:
            try:
                while self.step < self.schedule.steps and not (yield from self._epoch(progress, signals)):
                    pass
            except LostRank as error:
                self._save()
                raise CrrlError(
                    f"{error} after step {self.step} of {self.phase.name}; "
                    f"go on from the last checkpoint with the same torchrun and --resume {self.run.path}"
                ) from error

    def _progress(self) -> Progress:
        schedule = self.schedule
        epochs, steps = divmod(self.step, schedule.steps_per_epoch)
        done = epochs * schedule.clips_per_epoch + steps * schedule.batch_size
        return Progress(
            self.run,
            self.phase.name,
            schedule.epochs,
            schedule.clips_per_epoch,
            done,
            first_step=self.first_step + self.step,
            silent=self.ranks.rank > 0,
        )

    def _epoch(self, progress: Progress, signals: list[int]) -> Generator[None, None, bool]:
        """Train to the end of the epoch, or until a signal; yields after each step, returns whether a signal came."""
        schedule = self.schedule
        epoch, done = divmod(self.step, schedule.steps_per_epoch)
        shares = [self.ranks.share(clips) for clips in schedule.batches()]
        self._begin_epoch(epoch, shares, done)
        for share in shares[done:]:
            clips = sum(share.counts)
            self.ranks.draw_anew(self.schedule.seed, self.step)
            self.program(share, full=clips == schedule.batch_size)
            self.step += 1
            progress.advance(clips, self.program.loss)
            if self.step % schedule.steps_per_epoch == 0:
                self._report(progress, epoch + 1)
            stop = self._agree(signals)
            if stop or self.step % CHECKPOINT_EVERY == 0 or self.step == schedule.steps:
                self._save()
            if stop:
                return True
            yield
        return False

    def _begin_epoch(self, epoch: int, shares: list[Share], done: int) -> None:
        order = epoch_order(self.train, self.schedule.seed, epoch)[: self.schedule.clips_per_epoch]
        batches = torch.split(order, [sum(share.counts) for share in shares])
        mine = [share.of(batch) for share, batch in zip(shares, batches, strict=True)]
        self.program.begin_epoch(torch.cat(mine), sum(share.clips for share in shares[:done]))

    def _agree(self, signals: list[int]) -> bool:
        """Whether to stop after this step; the answer is the same on all ranks."""
        if self.ranks.size > 1:
            if self.step % AGREE_EVERY and self.step < self.schedule.steps:
                return False
            if self.ranks.any(bool(signals), self.device) and not signals:
                signals.append(signal.SIGTERM)
        return bool(signals)

    def _report(self, progress: Progress, epoch: int) -> None:
        """Log the epoch's mean losses per clip, and reset the sums for the next epoch."""
        self._check_finite()
        means = (self.program.sums / self.schedule.clips_per_epoch).tolist()
        self.program.sums.zero_()
        losses = dict(zip(self.phase.losses, means, strict=True))
        progress.epoch(epoch, self.first_step + self.step, self.learning_rates[self.step - 1], losses)

    def _check_finite(self) -> None:
        finite = all(bool(tensor.isfinite().all()) for tensor in (self.program.sums, self.optimizer.flat))
        ops.raise_if_timed_out()  # after the device has answered; a replayed graph does not ask
        if not finite:
            raise CrrlError(
                f"the training of {self.phase.name} is no longer finite at step {self.step} of {self.schedule.steps}; "
                f"lower --lr-{self.phase.name} and start again with another --out"
            )

    def _save(self) -> None:
        self._check_finite()
        if self.ranks.rank > 0:
            return
        self.optimizer.steps = self.step
        state = {
            "phase": self.phase.name,
            "step": self.step,
            "module": self.phase.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ranks": self.ranks.size,
            "rng": torch.get_rng_state(),
            "sums": self.program.sums,
            "data": self.fingerprint,
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.save_checkpoint(state)

    def _restore(self, state: dict[str, Any]) -> None:
        path = self.run.checkpoint_path
        if state["ranks"] != self.ranks.size:
            raise CrrlError(f"{path} was written by {state['ranks']} processes, not {self.ranks.size}: start as many")
        remedy = "restore it and config.json, or delete it to train from the start"
        with explain_damage(path, "a checkpoint that does not fit this configuration", remedy):
            self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        """Load weights, optimizer, sums, step and random state from a checkpoint; an entry of another type raises."""
        if state["step"] > self.schedule.steps or state["sums"].shape != self.program.sums.shape:
            raise ValueError(f"it has {state['step']} steps, and sums of {list(state['sums'].shape)} losses")
        self.phase.module.load_state_dict(state["module"])
        settings = {name: value for name, value in self.optimizer.param_groups[0].items() if name != "params"}
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0].update(settings)  # the configuration sets these
        self.program.sums.copy_(state["sums"])
        self.step = state["step"]
        self.program.number.fill_(self.step)
        if self.ranks.rank == 0:
            torch.set_rng_state(state["rng"])
            if "cuda_rng" in state and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"])
