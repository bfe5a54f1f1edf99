"""Runs what a plan lacks, one process a run: resumes what was cut off, and goes on where one fails."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from crrl.errors import catch_stop_signals
from crrl.files import explain_os_errors
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import Record, commit, epochs_done
from crrl.runs import RunFolder

LOOK_EVERY = 0.5
"""Seconds between looks at a run's progress."""
AGAIN = "wait for it, then run the same command again"


class Failed(Exception):
    """A run or its evaluation ended early: the reason, in one line."""


class Busy(Exception):
    """Another process works on a run, or on its first phase: its record is left alone."""


class Campaign:
    """Trains and evaluates the runs of a plan below the folder `runs`.

    Raises:
        CrrlError: the folder cannot be written.
    """

    def __init__(self, plan: Plan, runs: Path):
        self.plan, self.runs = plan, runs
        self.commit = commit()
        self.failures: dict[str, str] = {}
        self._busy: set[str] = set()
        with explain_os_errors(self.runs, "create"):
            self.runs.mkdir(parents=True, exist_ok=True)

    def evaluation(self, run: Run) -> Path | None:
        """The file that the run's evaluation leaves; None: it is not tested."""
        protocol = self.plan.target.protocol
        if protocol == "loss" or run.name not in self.plan.tested:
            return None
        return self.runs / run.name / f"evaluation-{protocol}.json"

    def missing(self) -> list[Run]:
        """Runs that are not trained, or not evaluated."""

        def done(run: Run) -> bool:
            evaluation = self.evaluation(run)
            return self._trained(run) and (evaluation is None or evaluation.exists())

        return [run for run in self.plan.runs if not done(run)]

    def work(self) -> None:
        """Do all that is missing; what fails is in `failures` afterwards, by the run's name.

        Raises:
            Interrupted: a signal came; the run at work has saved its checkpoint.
        """
        missing = self.missing()
        if not missing:
            return
        total, started = sum(run.work for run in missing), time.perf_counter()
        shown = 0.2 if sys.stderr.isatty() else 60
        with tqdm(total=total, unit="clip", desc=self.plan.name, mininterval=shown) as bar:
            before = 0
            for number, run in enumerate(missing, 1):
                say(bar, f"[{number}/{len(missing)}] {run.name}{time_left(bar, started)}")
                self._attempt(run, lambda done, before=before: move(bar, before + done))  # type: ignore[misc]
                before += run.work
                move(bar, before)

    def _attempt(self, run: Run, advance: Callable[[int], None]) -> None:
        folder = self.runs / run.name
        try:
            with alone(folder) as lock:
                record = Record.read(folder)
                record.failure = ""
                try:
                    self._complete(run, record, lock, advance)
                except Failed as error:
                    record.failure = self.failures[run.name] = str(error)
                record.write(folder)
        except Busy as error:
            self.failures[run.name] = str(error)
            self._busy.add(run.name)

    def _complete(self, run: Run, record: Record, lock: int, advance: Callable[[int], None]) -> None:
        if not self._trained(run):
            if run.first is not None and not self._trained(run.first):
                if run.first.name in self._busy:
                    raise Busy(f"another process works on its first phase, {run.first.name}: {AGAIN}")
                raise Failed(f"its first phase, {run.first.name}, failed")
            self._train(run, record, lock, advance)
        if self.evaluation(run) is not None:
            self._evaluate(run, lock)

    def _trained(self, run: Run) -> bool:
        return RunFolder(self.runs / run.name).encoder_path.exists()

    def _train(self, run: Run, record: Record, lock: int, advance: Callable[[int], None]) -> None:
        folder = self.runs / run.name
        command = ["-m", "crrl.train", *run.training(self.runs)]
        record.command = shlex.join(["python", *command])
        if self.commit not in record.commits:
            record.commits.append(self.commit)
        record.write(folder)
        if RunFolder(folder).config_path.exists():
            command = ["-m", "crrl.train", "--resume", str(folder), "--device", run.config.device]
        before, since = record.seconds, time.perf_counter()

        def look() -> None:
            record.seconds = before + time.perf_counter() - since
            advance(epochs_done(folder) * run.material.train_clips)

        try:
            execute(command, folder / "train.log", lock, look)
        finally:
            look()
            record.write(folder)

    def _evaluate(self, run: Run, lock: int) -> None:
        folder = self.runs / run.name
        command = ["-m", "crrl.evaluate", *run.evaluation(self.runs, self.plan.target.protocol)]
        execute(command, folder / "evaluate.log", lock, lambda: None)


def execute(command: list[str], log: Path, lock: int, look: Callable[[], None]) -> None:
    """Run Python with these arguments in a process group of its own, its output in `log`; `look` is called meanwhile.

    Raises:
        Failed: it did not end well; with its last line.
        Interrupted: a signal came, was passed on, and the process has ended; a second one ends it at once.
    """
    with explain_os_errors(log, "write"), open(log, "wb") as output, catch_stop_signals() as signals:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            told = False
            while process.poll() is None:
                if signals and not told:
                    process.send_signal(signals[0])
                    told = True
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY)
                look()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise Failed(reason(process.returncode, log))


def reason(code: int, log: Path) -> str:
    """Why a process failed: its last line, and the signal that ended it."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else f"exit code {code}, and not a word in {log}"
    if code >= 0:
        return last
    cause = signal.Signals(-code).name
    return f"ended by {cause}" + (" (out of memory?)" if cause == "SIGKILL" else f": {last}")


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Within the block, and while a process begun in it lives, no other campaign works on this run.

    Raises:
        Busy: another does.
        CrrlError: the folder cannot be written.
    """
    import fcntl

    with explain_os_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "wb")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process works on this run: {AGAIN}") from error
        yield file.fileno()


def say(bar: tqdm, line: str) -> None:
    """One line above the bar."""
    bar.write(line, file=sys.stderr)


def move(bar: tqdm, done: int) -> None:
    """Set the bar to `done`, never back."""
    bar.update(max(0, min(done, int(bar.total)) - bar.n))


def time_left(bar: tqdm, started: float) -> str:
    """When all will be done at the pace so far."""
    if not bar.n:
        return ""
    seconds = (time.perf_counter() - started) * (bar.total - bar.n) / bar.n
    return (
        f" (about {seconds / 60:.0f} min left, until {time.strftime('%H:%M', time.localtime(time.time() + seconds))})"
    )
