"""What a user sees while training: a progress bar, metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from crrl.files import explain_os_errors
from crrl.runs import RunFolder

SHOW_EVERY = 10
"""Steps between readings of the loss, which may have to wait for the device."""


class Progress:
    """A bar over all clips of a phase with loss, clips/s and ETA; one line per epoch into the run's logs.

    Args:
        run: where to log. phase: its name. epochs, clips_per_epoch: its size. clips_done: where a resumed one goes on.
        first_step: steps of the run so far; events after it, of an attempt that was cut off, are taken back.
    """

    def __init__(self, run: RunFolder, phase: str, epochs: int, clips_per_epoch: int, clips_done: int, first_step: int):
        self.run, self.phase, self.epochs = run, phase, epochs
        with self._explain():
            self._events = SummaryWriter(str(run.path), purge_step=first_step + 1)
        self._bar = tqdm(
            total=epochs * clips_per_epoch,
            initial=clips_done,
            desc=phase,
            unit="clip",
            mininterval=0.2 if sys.stderr.isatty() else 30,
        )
        self._steps = 0
        self._clips = 0
        self._since = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        with self._explain():
            self._events.close()

    def _explain(self) -> AbstractContextManager[None]:
        return explain_os_errors(self.run.path, "write TensorBoard events to")

    def advance(self, clips: int, loss: Tensor) -> None:
        """One step over `clips` clips is done; `loss` is a scalar, read only now and then."""
        self._steps += 1
        self._clips += clips
        if self._steps % SHOW_EVERY == 0:
            self._bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        self._bar.update(clips)

    def epoch(self, epoch: int, step: int, lr: float, losses: dict[str, float]) -> None:
        """An epoch (from 1) is done, `step` steps into the run; `losses` are its means per clip."""
        now = time.perf_counter()
        rate = self._clips / (now - self._since)
        self._clips, self._since = 0, now
        record = {"phase": self.phase, "epoch": epoch, "step": step, **losses, "lr": lr, "clips_per_second": rate}
        self.run.log(record)
        with self._explain():
            for name, value in {**losses, "lr": lr, "clips_per_second": rate}.items():
                self._events.add_scalar(f"{self.phase}/{name}", value, step)
        self._bar.set_description(f"{self.phase} {epoch}/{self.epochs}", refresh=False)
