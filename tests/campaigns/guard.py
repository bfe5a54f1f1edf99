"""What guards a campaign's cases: a process of its own for each, or for many, with a limit of memory and of time."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crrl.errors import CrrlError

MEMORY, SECONDS = 1 << 30, 10
"""What a case may take: bytes beyond what the process had before, and processor time."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h: a process ends with the one that has started it
HANGS = 600
"""Seconds of wall time after which a case that needs no processor time hangs."""
FAILED = 70
"""The exit code of a process of `start` whose work raises."""


class TooLong(BaseException):
    """The processor time of a case is over."""


def limit_memory() -> None:
    """Let this process take no more than MEMORY beside what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise TooLong in the block where it takes more than SECONDS of the processor."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(signum: int, frame: object) -> None:
    raise TooLong


def fault_of(read: Callable[[], object], refusals: tuple[type[Exception], ...] = (CrrlError,)) -> tuple[str, object]:
    """("refused", why), ("read", what it gives), or the fault and what is known of it."""
    signal.signal(signal.SIGPROF, _too_long)
    try:
        with limited_time():
            return "read", read()
    except TooLong:
        return "time", f"more than {SECONDS} s"
    except MemoryError as error:
        return "memory", repr(error)[:200]
    except refusals as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return "memory", f"{error}"[:200]
            cause = cause.__cause__ or cause.__context__
        return "refused", error
    except Exception as error:
        return "exception", f"{error!r:.200} at {_place(error)}"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if "/crrl/" in frame.filename), frames[-1])
    return f"{Path(last.filename).name}:{last.lineno}"


def start(work: Callable[[], int], quiet: bool = True) -> int:
    """The number of a new process that does `work` and ends with what it returns; without output where `quiet`."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int, seconds: float = HANGS) -> int | None:
    """The exit code of a process (minus a signal's number); None, and an end to it, where it takes longer."""
    end, pause = time.monotonic() + seconds, 0.0005
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    kill(pid)
    return None


def kill(pid: int) -> None:
    """End a process of `start` and all that it has started in its group."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def work_folder() -> Iterator[Path]:
    """An empty folder, in memory where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="crrl-campaign-", dir=memory if os.access(memory, os.W_OK) else None, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
