"""The one error a user sees: what is wrong, with which file, and what to do about it."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class CrrlError(Exception):
    """Bad input, a damaged file or a machine that cannot go on. Commands print it as one line and exit with 2."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. Like KeyboardInterrupt it passes through all but what must be cleaned up."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


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


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return f"warning: {message}\n"


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's `main`: a mistake becomes one line on stderr and exit code 2, a signal exit code 128 + signal."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    warnings.formatwarning = _one_line
    try:
        return main() or 0
    except CrrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads the output has enough of it, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"error: {error}; check that path and your permissions", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return 128 + stop.signum
