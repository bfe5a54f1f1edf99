"""Trains and evaluates what plans lack: resumes what was cut off, goes on when a run fails, runs several at a time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm

from crrl.bars import bar
from crrl.errors import catch_stop_signals
from crrl.files import Busy, alone, explain_os_errors, open_own
from crrl.reproduction.paper import Protocol
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import Record, commit, epochs_done
from crrl.runs import RunFolder

LOOK_EVERY = 0.1
"""Seconds between two polls of the running processes."""
AGAIN = "wait for it, then run the same command again"
LOCK = ".campaign.lock"
"""File in a run folder that the campaign working on it locks. The processes it starts hold this lock too, besides
their own lock on the folder."""
Process = subprocess.Popen[bytes]
Work = Generator[Process, None, None]
"""Work done step by step: it yields the process that it waits for, and kills it when closed."""


class Failed(Exception):
    """A run or its evaluation failed; the message is the reason, in one line."""


@dataclass(frozen=True)
class Attempt:
    """A run in work: its folder, its record, and the descriptor of the campaign's lock on it."""

    run: Run
    folder: Path
    record: Record
    lock: int


class Campaign:
    """Trains and evaluates the runs of plans below the folder `runs`; plans may share runs.

    Args:
        jobs: processes at a time. A single one uses all cores; of several, each has one thread.
        together: runs that a process trains side by side.

    Raises:
        CrrlError: the folder cannot be written.
    """

    def __init__(self, plans: Sequence[Plan], runs: Path, jobs: int = 1, together: int = 1):
        self.plans, self.runs, self.jobs, self.together = plans, runs, jobs, together
        self.commit = commit()
        self.failures: dict[str, str] = {}
        self._busy: set[str] = set()
        self._done: dict[str, int] = {}
        with explain_os_errors(self.runs, "create"):
            self.runs.mkdir(parents=True, exist_ok=True)

    @cached_property
    def planned(self) -> list[Run]:
        """The runs of all plans, each once; first phases come before the runs that need them."""
        return list({run.name: run for plan in self.plans for run in plan.runs}.values())

    def missing(self) -> list[Run]:
        """The runs that are not trained or not evaluated yet."""
        return [run for run in self.planned if not self._trained(run) or self._untested(run)]

    def _untested(self, run: Run) -> list[Protocol]:
        """The protocols by which a run is not evaluated yet."""
        wanted = dict.fromkeys(plan.target.protocol for plan in self.plans if plan.tests(run))
        folder = self.runs / run.name
        return [protocol for protocol in wanted if not (folder / f"evaluation-{protocol}.json").exists()]

    def work(self) -> None:
        """Train and evaluate all that is missing; `failures` then has the reason of each failure by the run's name.

        Raises:
            Interrupted: a signal arrived; the active runs have saved their checkpoints.
        """
        missing = self.missing()
        if not missing:
            return
        total = sum(run.work for run in missing)
        with bar(total, self.plans[0].name, "clip", every=60) as shown, catch_stop_signals() as signals:
            self._work(missing, shown, signals)

    def _work(self, missing: list[Run], shown: tqdm, signals: list[int]) -> None:
        """Keep `jobs` groups of runs active until all are done; a signal is passed on to all and ends the work."""
        started, waiting = time.perf_counter(), list(missing)
        active: dict[tuple[str, ...], Work] = {}
        try:
            while waiting or active:
                while len(active) < self.jobs and (group := next_ready(waiting, set(chain(*active)), self.together)):
                    for run in group:
                        waiting.remove(run)
                        number = len(missing) - len(waiting)
                        say(shown, f"[{number}/{len(missing)}] {run.name}{time_left(shown, started)}")
                    active[tuple(run.name for run in group)] = self._attempt(group)
                processes = {names: next(work, None) for names, work in active.items()}
                active = {names: work for names, work in active.items() if processes[names]}
                move(shown, sum(self._done.values()))
                if signals:
                    return stop([process for process in processes.values() if process], signals[0])
                if len(active) == len(processes):
                    time.sleep(LOOK_EVERY)
        finally:
            for work in active.values():
                work.close()

    def _attempt(self, group: Sequence[Run]) -> Work:
        """Train runs side by side in one process, then evaluate each."""
        with ExitStack() as held:
            attempts = [each for run in group if (each := self._begin(run, held))]
            if lacking := [each for each in attempts if not self._trained(each.run)]:
                yield from self._train(lacking)
            for each in attempts:
                yield from self._evaluate(each)
                each.record.write(each.folder)
        for run in group:
            self._done[run.name] = run.work

    def _begin(self, run: Run, held: ExitStack) -> Attempt | None:
        """Lock the run's folder; None if the run must wait for another process, or lacks its first phase."""
        folder = self.runs / run.name
        try:
            lock = held.enter_context(alone(folder, f"is worked on by another campaign: {AGAIN}", LOCK))
            attempt = Attempt(run, folder, Record.read(folder), lock)
            attempt.record.failure = ""
            if run.first is None or self._trained(run) or self._trained(run.first):
                return attempt
            if run.first.name in self._busy:
                raise Busy(f"another process works on its first phase, {run.first.name}: {AGAIN}")
            self._fail(attempt, f"its first phase, {run.first.name}, failed")
            attempt.record.write(folder)
        except Busy as error:
            self.failures[run.name] = str(error)
            self._busy.add(run.name)
        return None

    def _fail(self, attempt: Attempt, said: str) -> None:
        attempt.record.failure = self.failures[attempt.run.name] = said

    def _evaluate(self, attempt: Attempt) -> Work:
        run, log = attempt.run, attempt.folder / "evaluate.log"
        if not self._trained(run) or not (protocols := self._untested(run)):
            return
        command = ["-m", "crrl.evaluate", *run.evaluation(self.runs, *protocols)]
        try:
            yield from execute(command, log, [attempt.lock], self._environment, lambda: None)
        except Failed as error:
            self._fail(attempt, str(error))

    def _trained(self, run: Run) -> bool:
        return RunFolder(self.runs / run.name).encoder_path.exists()

    @property
    def _environment(self) -> dict[str, str]:
        """The environment of the processes."""
        return dict(os.environ) if self.jobs == 1 else {**os.environ, "OMP_NUM_THREADS": "1"}

    def _train(self, attempts: Sequence[Attempt]) -> Work:
        """Train the runs in one process; of several each has its log, and the process one beside their folders."""
        command, since = ["-m", "crrl.train"], time.perf_counter()
        for attempt in attempts:
            own = attempt.run.training(self.runs)
            attempt.record.command = shlex.join(["python", "-m", "crrl.train", *own])
            if self.commit not in attempt.record.commits:
                attempt.record.commits.append(self.commit)
            attempt.record.write(attempt.folder)
            if RunFolder(attempt.folder).config_path.exists():
                own = ["--resume", str(attempt.folder), "--device", attempt.run.config.device]
            command += [*own, "--"]
        before = [attempt.record.seconds for attempt in attempts]

        def look() -> None:
            for attempt, seconds in zip(attempts, before, strict=True):
                if not self._trained(attempt.run):
                    attempt.record.seconds = seconds + time.perf_counter() - since
                self._done[attempt.run.name] = epochs_done(attempt.folder) * attempt.run.material.train_clips

        single, first = len(attempts) == 1, attempts[0].folder
        log = first / "train.log" if single else self.runs / f"{first.name}-together.log"
        try:
            yield from execute(command[:-1], log, [each.lock for each in attempts], self._environment, look)
        except Failed as error:
            for attempt in attempts:
                if not self._trained(attempt.run):
                    self._fail(attempt, str(error) if single else own_reason(attempt.folder / "train.log", str(error)))
        finally:
            look()
            for attempt in attempts:
                attempt.record.write(attempt.folder)


def next_ready(waiting: Sequence[Run], active: Container[str], most: int = 1) -> list[Run]:
    """The first runs, `most` at most, whose first phase is neither waiting nor active."""
    names = {run.name for run in waiting}
    ready = (run for run in waiting if not run.first or not (run.first.name in names or run.first.name in active))
    return list(islice(ready, most))


def execute(
    command: list[str], log: Path, locks: Sequence[int], environment: Mapping[str, str], look: Callable[[], None]
) -> Work:
    """Run Python with these arguments in a session of its own, with its output in `log`; calls `look` meanwhile.

    Raises:
        Failed: its exit code is not 0; the message is `reason`.
    """
    with explain_os_errors(log, "write"), open(open_own(log, os.O_WRONLY | os.O_TRUNC), "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(locks),
            env=environment,
        )
        try:
            while process.poll() is None:
                yield process
                look()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise Failed(reason(process.returncode, log))


def stop(processes: Sequence[Process], signum: int) -> None:
    """Send a signal to all processes and wait until they have saved and ended."""
    for process in processes:
        process.send_signal(signum)
    for process in processes:
        process.wait()


def reason(code: int, log: Path) -> str:
    """Why a process failed: the last line of its log, and the signal that ended it if there was one."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else f"exit code {code}, and {log} is empty"
    if code >= 0:
        return last
    cause = signal.Signals(-code).name
    return f"ended by {cause}" + (" (out of memory?)" if cause == "SIGKILL" else f": {last}")


def own_reason(log: Path, otherwise: str) -> str:
    """The error with which one of several runs in a process ended, by its log; `otherwise` if that ends with none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1].removeprefix("error: ") if lines and lines[-1].startswith("error: ") else otherwise


def say(shown: tqdm, line: str) -> None:
    """Print one line above the bar."""
    shown.write(line, file=sys.stderr)


def move(shown: tqdm, done: int) -> None:
    """Advance the bar to `done`, never backwards."""
    shown.update(max(0, min(done, int(shown.total)) - shown.n))


def time_left(shown: tqdm, started: float) -> str:
    """The time left and the end at the pace so far, in words; empty before there is a pace."""
    if not shown.n:
        return ""
    seconds = (time.perf_counter() - started) * (shown.total - shown.n) / shown.n
    return (
        f" (about {seconds / 60:.0f} min left, until {time.strftime('%H:%M', time.localtime(time.time() + seconds))})"
    )
