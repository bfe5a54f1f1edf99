"""Runs that train side by side in one process: each in its turn makes a step, as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

import torch

from crrl.errors import Interrupted


class Turns:
    """The work of one run, and what it has for itself in its turns: random numbers, a CUDA stream, and a log.

    A step's launches return before the GPU is done, so that the next run's step joins it there on its own stream. A
    captured step reads its random numbers from the generator that was in force at the capture, which is the run's own.

    Args:
        work: yields after each step. device: where it computes. log: gets what it prints.
    """

    def __init__(self, work: Generator[None, None, None], device: torch.device, log: TextIO):
        self.work, self.log, self.begun = work, log, False
        self._random = torch.get_rng_state()
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._default = torch.cuda.default_generators[device.index or 0]
            self._generator = self._default.clone_state()
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def take(self) -> bool:
        """Go on to the end of the next step; returns whether there is more to do. Raises what the work raises."""
        self.begun = True
        with self._apart():
            return next(self.work, True) is None

    def close(self) -> None:
        """End the work where it stands."""
        with self._apart():
            self.work.close()

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """In the block the process's random state, stream and output are this run's."""
        with torch.random.fork_rng([]), ExitStack() as stack:
            stack.enter_context(redirect_stdout(self.log))
            stack.enter_context(redirect_stderr(self.log))
            torch.set_rng_state(self._random)
            if self._stream is not None:
                stack.enter_context(self._drawing())
                stack.enter_context(torch.cuda.stream(self._stream))
            yield
            self._random = torch.get_rng_state()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """In the block the GPU's default generator has this run's state: the state itself, as a graph keeps it."""
        others = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(self._generator)
        try:
            yield
        finally:
            self._generator = self._default.graphsafe_get_state()
            self._default.graphsafe_set_state(others)


def take_turns(everyone: Sequence[Turns], failed: Callable[[Turns, Exception], None]) -> None:
    """Do all work, a step each in turn; an error ends one run, `failed` is told, and the others go on.

    Raises:
        Interrupted: a signal came; all that had begun have stopped after their step, as each does alone.
    """
    active, stop = list(everyone), None
    try:
        while active:
            for each in list(active):
                more = False
                try:
                    more = (each.begun or stop is None) and each.take()
                except Interrupted as signal:
                    stop = signal
                except Exception as error:
                    failed(each, error)
                if not more:
                    active.remove(each)
    finally:
        for each in active:
            each.close()
    if stop is not None:
        raise stop
