"""Many files read by worker processes: results in the order of the files, and a bar that knows when it will be over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from crrl.bars import bar
from crrl.errors import CrrlError

FEW = 16
"""Fewer files than this are read by the process itself, without a bar: they are done before workers have started."""
AHEAD = 2
"""Results for each worker that may be under way or wait to be taken; more would fill the memory."""

MOST_WORKERS = 16
"""Worker processes for each core: reading may wait for a disk, but each takes memory."""

_workers: ContextVar[int] = ContextVar("workers", default=0)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def use_workers(count: int) -> Iterator[None]:
    """Within the block `in_order` takes so many processes; 0: one for each core, as it does outside of any.

    Raises:
        CrrlError: they are fewer than none, or more than MOST_WORKERS for each core.
    """
    if not 0 <= count <= MOST_WORKERS * cores():
        raise CrrlError(f"--workers is {count}: it must be from 0, one for each core, to {MOST_WORKERS * cores()}")
    before = _workers.set(count)
    try:
        yield
    finally:
        _workers.reset(before)


def in_order(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Generator[Result, None, None]:
    """function(item) for all items in their order, computed by worker processes, with a bar called `what`.

    The process itself does it where the items are few, where there is one core, and where it is a worker of another.
    Close the generator (contextlib.closing) to end the workers before the last result.

    Args:
        function: of a module, not of another function: workers are sent its name. Its results are pickled.

    Raises:
        CrrlError: a worker was killed. What `function` raises for an item comes in the place of its result.
    """
    processes = processes_for(len(items), len(items))
    results = compute(function, items, processes, "run the same command again, with fewer workers")
    with progress(what, len(items)) as bar, closing(results):
        for result in results:
            bar.update()
            yield result


def processes_for(files: int, tasks: int) -> int:
    """How many processes are to read so many files in so many tasks; 1: none but this one."""
    if files < FEW or multiprocessing.parent_process():
        return 1
    return min(_workers.get() or cores(), tasks)


def compute(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, remedy: str
) -> Generator[Result, None, None]:
    """What `in_order` gives, by so many processes and without a bar; `remedy`: for who has had a worker killed."""
    if processes == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with _worker_pool(processes, remedy) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _worker_pool(processes: int, remedy: str) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, gone at the end of the block; what they have not begun by then is not done.

    Raises:
        CrrlError: one of them was killed; `remedy` says what to do.
    """
    pool = ProcessPoolExecutor(processes, initializer=_follow_the_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise CrrlError(f"a worker process was killed (too little memory?): {remedy}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def progress(what: str, total: int, initial: int = 0) -> Any:
    """A bar over `total` files on stderr, `initial` of them done; a line now and then where stderr is no terminal.

    Few files have none.
    """
    return bar(total, what, "file", initial=initial, disable=total < FEW)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow_the_parent() -> None:
    """Set up a worker: Ctrl-C, which reaches all processes, is the parent's to handle, whose end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
