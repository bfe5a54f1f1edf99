"""CrrlError, the one error a user sees, and how commands end on errors and signals."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn


class CrrlError(Exception):
    """Bad input, a damaged file or a machine that cannot go on. A command prints it as one line and exits with 2."""


def command(name: str, *arguments: object) -> str:
    """The shell command that runs `crrl.NAME` with these arguments, quoted."""
    return shlex.join(["python", "-m", f"crrl.{name}", *map(str, arguments)])


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Like KeyboardInterrupt it is no Exception, so that only cleanup code catches it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


@contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """During the block, record SIGINT and SIGTERM in the yielded list instead of acting on them; a second one acts.

    Blocks may overlap, as those of runs that take turns do, and end in any order: they share one list.

    Raises:
        Interrupted: a signal was recorded; raised when the block ends.
    """
    if not _caught:
        _before.update({int(each): signal.signal(each, _note) for each in (signal.SIGINT, signal.SIGTERM)})
    caught = _caught[0] if _caught else []
    _caught.append(caught)
    try:
        yield caught
    finally:
        _caught.pop()
        if not _caught:
            for signum, handler in _before.items():
                signal.signal(signum, handler)
    if caught:
        raise Interrupted(caught[0])


_caught: list[list[int]] = []
"""The one list of signals, once for each block of `catch_stop_signals` that is open."""
_before: dict[int, Any] = {}
"""The handlers in force outside all blocks."""


def _note(signum: int, frame: FrameType | None) -> None:
    _caught[0].append(signum)
    signal.signal(signum, _before[signum])


def environment_number(name: str, default: int) -> int:
    """The non-negative integer in an environment variable that torchrun sets; `default` if it is unset or empty.

    Raises:
        CrrlError: it holds anything else.
    """
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise CrrlError(f"the environment variable {name} is {text!r}, not a number: unset it, or start with torchrun")
    return int(text)


class Patient(io.TextIOWrapper):
    """A stream that ignores write errors, as on a full disk: a lost message must not end the work."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _open_streams() -> None:
    """Open stdin, stdout and stderr if they are closed, and escape the characters that the terminal cannot show."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file opened would become a standard stream
        pass
    os.close(free)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = sys.stderr.encoding
    if sys.stderr is sys.__stderr__:
        raw = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = Patient(raw, encoding, "backslashreplace", write_through=True)


def _thread_line(failed: threading.ExceptHookArgs) -> None:
    """Print a thread's OSError (TensorBoard's on a full disk) as one line; whoever waits for the thread gets it too."""
    if isinstance(failed.exc_value, OSError):
        print(f"warning: {failed.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _end_output() -> None:
    """Flush stdout, so that an error is the last line of a log; what cannot be written is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's `main`; returns the exit code: 2 after an error (one line on stderr), 128 + N after signal N."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    threading.excepthook = _thread_line
    _open_streams()
    try:
        try:
            code = main() or 0
            sys.stdout.flush()  # here, so that a failure is still reported
            return code
        except BaseException:
            _end_output()
            raise
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        return 128 + signal.SIGPIPE
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:
        if (line := explained(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def explained(error: Exception) -> str | None:
    """What a user is told of an error, in one line; None: it is a bug."""
    if isinstance(error, CrrlError):
        return str(error)
    if isinstance(error, OSError):
        remedy = "check that path and your permissions" if error.filename else "check where the output goes"
        return f"{error}; {remedy}"
    lacks = isinstance(error, RuntimeError) and re.search("allocate memory|out of memory|size calc", str(error))
    if lacks or isinstance(error, MemoryError):
        reason = str(error).partition("\n")[0][:150]
        return f"not enough memory ({reason}): give smaller sizes, or another machine"
    return None
