"""The one error a user sees: what is wrong, with which file, and what to do about it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
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


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's `main`: a mistake becomes one line on stderr and exit code 2, a signal exit code 128 + signal."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        return main() or 0
    except CrrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; check that path and your permissions", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return 128 + stop.signum
