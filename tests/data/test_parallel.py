"""Files read by worker processes: the order, errors in their place, how far ahead workers go, how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from crrl.data import parallel
from crrl.data.parallel import AHEAD, FEW, in_order, use_workers
from crrl.errors import CrrlError

MANY = list(range(40))


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    """Whatever the machine has."""
    with use_workers(2):
        yield


def whose(number: int) -> tuple[int, int]:
    return number, os.getpid()


def slow_at_first(number: int) -> int:
    time.sleep(0.1 if number % 4 == 0 else 0)
    return -number


def damaged(number: int) -> int:
    if number == 4:
        time.sleep(0.1)  # the later error is there first
    if number in (4, 5):
        raise CrrlError(f"file {number} is damaged: restore it")
    return number


def killed(number: int) -> None:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)


def interrupted(number: int) -> int:
    """As Ctrl-C does: every process gets the signal."""
    if number == 7:
        for process in (os.getpid(), os.getppid()):
            os.kill(process, signal.SIGINT)
        time.sleep(0.1)
    return number


def nested(number: int) -> set[int]:
    return {process for _, process in in_order(whose, MANY, "within")}


def test_results_come_in_the_order_of_the_items_from_other_processes() -> None:
    numbers, processes = zip(*in_order(whose, MANY, "test"), strict=True)
    assert numbers == tuple(MANY)
    assert os.getpid() not in processes
    assert list(in_order(slow_at_first, MANY, "test")) == [-number for number in MANY]


@pytest.mark.parametrize(("count", "workers"), [(FEW - 1, 2), (40, 1)], ids=["few items", "one worker"])
def test_the_process_itself_does_what_is_not_worth_workers(count: int, workers: int) -> None:
    with use_workers(workers):
        assert {process for _, process in in_order(whose, MANY[:count], "test")} == {os.getpid()}


def test_a_worker_has_no_workers() -> None:
    assert all(len(processes) == 1 for processes in in_order(nested, MANY[:FEW], "test"))


def test_the_workers_are_as_many_as_were_asked_for_else_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    pool = parallel.ProcessPoolExecutor

    def counted(processes: int, **options: object) -> object:
        asked.append(processes)
        return pool(processes, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", counted)
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    for count in (2, 0, 40):
        with use_workers(count):
            assert list(in_order(abs, MANY[:FEW], "test")) == MANY[:FEW]
    assert asked == [2, 3, FEW]


@pytest.mark.parametrize("count", [-1, 49, 10**9])
def test_more_workers_than_there_is_memory_for_are_refused(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    with (
        pytest.raises(CrrlError, match=f"--workers is {count}: it must be from 0, one for each core, to 48"),
        use_workers(count),
    ):
        pass


def test_the_first_error_in_order_is_raised_after_the_results_before_it() -> None:
    with closing(in_order(damaged, MANY, "test")) as results:
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(CrrlError, match=r"^file 4 is damaged: restore it$"):
            next(results)
    assert multiprocessing.active_children() == []


class Watched(list[int]):
    """Counts the items that were taken."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_workers_are_no_more_than_a_few_results_ahead() -> None:
    items = Watched(MANY)
    with closing(in_order(abs, items, "test")) as results:
        for number, result in enumerate(results):
            assert result == number
            assert items.taken <= number + AHEAD * 2
    assert items.taken == len(MANY)


def test_a_killed_worker_is_one_error_with_a_remedy() -> None:
    with pytest.raises(CrrlError, match=r"a worker process was killed .*: run the same command again, with fewer"):
        list(in_order(killed, MANY, "test"))
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_the_workers_and_passes() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_order(interrupted, MANY, "test"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []


def test_whoever_closes_early_has_no_workers_left() -> None:
    with closing(in_order(abs, MANY, "test")) as results:
        next(results)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bar_is_shown_for_many_items_alone(capsys: pytest.CaptureFixture[str], workers: int) -> None:
    with use_workers(workers):
        list(in_order(abs, MANY[: FEW - 1], "read few"))
        assert capsys.readouterr().err == ""
        list(in_order(abs, MANY, "read many"))
    assert "read many: 100%" in (shown := capsys.readouterr().err)
    assert "40/40" in shown


def test_the_number_of_workers_is_as_before_after_the_block() -> None:
    with pytest.raises(CrrlError), use_workers(1):
        raise CrrlError("anything")
    assert os.getpid() not in {process for _, process in in_order(whose, MANY, "test")}
