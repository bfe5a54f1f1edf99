"""What a user sees while training: a progress bar, metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from secrets import token_hex
from types import TracebackType

import torch
from torch import Tensor

from crrl.bars import bar
from crrl.files import explain_os_errors
from crrl.runs import RunFolder

EVENTS = "write TensorBoard events to"
SHOW_EVERY = 10
"""Steps between readings of the loss."""


def log_outcome(run: RunFolder, settings: Mapping[str, object], accuracies: Mapping[str, float]) -> None:
    """Add a finished run's settings, and its accuracies in percent, to its events, for TensorBoard's HParams.

    Raises:
        CrrlError: they cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()}
    with (
        explain_os_errors(run.path, EVENTS),
        SummaryWriter(str(run.path), filename_suffix=f".{token_hex(8)}") as events,
    ):
        events.add_hparams(plain, dict(accuracies), run_name=".")


class Reading:
    """The value of a scalar on a device, read without waiting for the device."""

    def __init__(self) -> None:
        self._host: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def latest(self, scalar: Tensor) -> float | None:
        """The scalar's value; from a GPU, the value that the last call requested, None until it has arrived."""
        if not scalar.is_cuda:
            return scalar.item()
        if self._arrived is not None and not self._arrived.query():  # type: ignore[no-untyped-call]
            return None
        value = None if self._host is None else self._host.item()
        self._host = torch.empty((), pin_memory=True).copy_(scalar, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()
        return value


class Progress:
    """A bar over all clips of a phase with loss, clips/s and ETA; one line per epoch into the run's logs.

    Args:
        run: where to log. phase: its name. epochs, clips_per_epoch: its length. clips_done: where a resumed phase
            starts.
        first_step: steps of the run so far; later events, from an attempt that was cut off, are removed.
        silent: show and log nothing, as ranks other than 0 do.
    """

    def __init__(
        self,
        run: RunFolder,
        phase: str,
        epochs: int,
        clips_per_epoch: int,
        clips_done: int,
        first_step: int,
        silent: bool = False,
    ):
        self.run, self.phase, self.epochs, self._silent = run, phase, epochs, silent
        if not silent:
            from torch.utils.tensorboard import SummaryWriter  # here, so that a step needs no TensorBoard

            with self._explain():
                self._events = SummaryWriter(
                    str(run.path), purge_step=first_step + 1, filename_suffix=f".{token_hex(8)}"
                )
        self._bar = bar(epochs * clips_per_epoch, phase, "clip", initial=clips_done, disable=silent)
        self._loss = Reading()
        self._steps = 0
        self._clips = 0
        self._since = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if not self._silent:
            with self._explain():
                self._events.close()

    def _explain(self) -> AbstractContextManager[None]:
        return explain_os_errors(self.run.path, EVENTS)

    def advance(self, clips: int, loss: Tensor) -> None:
        """One step over `clips` clips is done; `loss` is a scalar, read only now and then."""
        self._steps += 1
        self._clips += clips
        if self._steps % SHOW_EVERY == 0 and (value := self._loss.latest(loss)) is not None:
            self._bar.set_postfix(loss=f"{value:.4f}", refresh=False)
        self._bar.update(clips)

    def epoch(self, epoch: int, step: int, lr: float, losses: dict[str, float]) -> None:
        """An epoch (from 1) is done, `step` steps into the run; `losses` are its means per clip."""
        now = time.perf_counter()
        rate = self._clips / (now - self._since)
        self._clips, self._since = 0, now
        if self._silent:
            return
        record = {"phase": self.phase, "epoch": epoch, "step": step, **losses, "lr": lr, "clips_per_second": rate}
        self.run.log(record)
        with self._explain():
            for name, value in {**losses, "lr": lr, "clips_per_second": rate}.items():
                self._events.add_scalar(f"{self.phase}/{name}", value, step)
        self._bar.set_description_str(f"{self.phase} {epoch}/{self.epochs}", refresh=False)
