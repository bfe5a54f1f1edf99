"""Reading many files by worker processes: results in the order of the files, with a progress bar."""

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
"""Fewer files than this are read by the process itself, without a bar: workers would take longer to start."""
AHEAD = 2
"""Results for each worker that are computed ahead of the one taken next; more would fill the memory."""

MOST_WORKERS = 16
"""Worker processes for each core, at most: a disk may be slow, but each process takes memory."""

_workers: ContextVar[int] = ContextVar("workers", default=0)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def use_workers(count: int) -> Iterator[None]:
    """During the block `in_order` uses `count` worker processes; 0, as outside of any block: one for each core.

    Raises:
        CrrlError: count is negative, or more than MOST_WORKERS for each core.
    """
    if not 0 <= count <= MOST_WORKERS * cores():
        raise CrrlError(f"--workers is {count}: it must be from 0, one for each core, to {MOST_WORKERS * cores()}")
    before = _workers.set(count)
    try:
        yield
    finally:
        _workers.reset(before)


def in_order(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Generator[Result, None, None]:
    """Yield function(item) for all items in their order, computed by worker processes, with a bar named `what`.

    Few items, or a machine with one core, need no workers, and a worker starts none of its own. Close the generator
    (contextlib.closing) to end the workers early.

    Args:
        function: defined at the top level of a module, because workers import it by name. Its results are pickled.

    Raises:
        CrrlError: a worker was killed. An error of `function` is raised in place of the item's result.
    """
    processes = processes_for(len(items), len(items))
    results = compute(function, items, processes, "run the same command again, with fewer workers")
    with progress(what, len(items)) as bar, closing(results):
        for result in results:
            bar.update()
            yield result


def processes_for(files: int, tasks: int) -> int:
    """The number of processes that read `files` files in `tasks` tasks; 1: only this one."""
    if files < FEW or multiprocessing.parent_process():
        return 1
    return min(_workers.get() or cores(), tasks)


def compute(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, remedy: str
) -> Generator[Result, None, None]:
    """`in_order` with a given number of processes and without a bar; `remedy`: what to do if a worker is killed."""
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
    """Worker processes; at the end of the block they finish what they have begun, and the rest is cancelled."""
    pool = ProcessPoolExecutor(processes, initializer=_follow_the_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise CrrlError(f"a worker process was killed (too little memory?): {remedy}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def progress(what: str, total: int, initial: int = 0) -> Any:
    """A progress bar on stderr over `total` files, of which `initial` are done; none if they are few."""
    return bar(total, what, "file", initial=initial, disable=total < FEW)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow_the_parent() -> None:
    """Set up a worker: it ignores Ctrl-C, which the parent handles, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
