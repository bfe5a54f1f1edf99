"""Doing what a plan lacks: nothing twice, what was cut off resumed, failures noted, signals passed on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

import pytest

from crrl.errors import Interrupted
from crrl.files import alone
from crrl.reproduction import Campaign, campaign
from crrl.reproduction.campaign import LOCK, Attempt, Failed, Work, execute, own_reason
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import Record

Planner = Callable[..., Plan]


class Fake:
    """Stands for `execute`: notes each command, leaves what it would leave, fails where told."""

    def __init__(self, failing: str = "nothing fails"):
        self.failing = failing
        self.commands: list[str] = []
        self.threads: set[str | None] = set()
        self.events: list[tuple[str, str]] = []
        """("begins" or "ends", the run's name), in order."""

    def __call__(
        self,
        command: list[str],
        log: Path,
        locks: Sequence[int],
        environment: Mapping[str, str],
        look: Callable[[], None],
    ) -> Iterator[str]:
        self.commands.append(" ".join(command))
        self.threads.add(environment.get("OMP_NUM_THREADS"))
        folders = [Path(word) for flag, word in pairwise(command) if flag == "--out"] or [log.parent]
        assert len(locks) == len(folders)
        self.events += [("begins", folder.name) for folder in folders]
        yield "a process"
        look()
        self.events += [("ends", folder.name) for folder in folders]
        for folder in folders:
            if self.failing in folder.name:
                (folder / "train.log").write_text("error: the training of cml is no longer finite\n")
            elif "crrl.train" in command:
                (folder / "encoder.safetensors").touch()
        if any(self.failing in folder.name for folder in folders):
            raise Failed("the training of cml is no longer finite" if len(folders) == 1 else "one of them failed")
        for flag, protocol in pairwise(command):
            if flag == "--protocol":
                (log.parent / f"evaluation-{protocol}.json").write_text("{}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(campaign, "execute", fake)
    monkeypatch.setattr(campaign, "LOOK_EVERY", 0)
    return fake


def test_every_run_is_trained_once_and_what_stands_in_a_cell_is_evaluated(
    plan_of: Planner, tmp_path: Path, fake: Fake
) -> None:
    plan = plan_of("table4", "nw-ucla", seeds=2)
    Campaign([plan], tmp_path).work()
    assert [command.split()[1] for command in fake.commands] == 2 * ["crrl.train", "crrl.train", "crrl.evaluate"]
    record = Record.read(tmp_path / plan.runs[1].name)
    assert f"--teacher {tmp_path / plan.runs[0].name}" in record.command
    assert (len(record.commits), record.failure) == (1, "")
    assert record.seconds > 0
    Campaign([plan], tmp_path).work()
    assert len(fake.commands) == 6, "all of it is done"


def test_another_table_trains_only_what_it_does_not_share(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    Campaign([plan_of("table4", "nw-ucla")], tmp_path).work()
    fake.commands.clear()
    Campaign([plan_of("table6", "nw-ucla")], tmp_path).work()
    trained = [command for command in fake.commands if "crrl.train" in command]
    assert len(trained) == 5
    assert not any("--method cml " in command for command in trained)


def test_a_protocol_that_is_missing_is_evaluated_without_training(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    Campaign([plan_of("table4", "nw-ucla")], tmp_path).work()
    fake.commands.clear()
    Campaign([plan_of("table5", "nw-ucla")], tmp_path).work()
    (command,) = fake.commands
    assert command.endswith("--protocol knn")


def test_what_was_cut_off_is_resumed(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    plan = plan_of("table4", "nw-ucla")
    folder = tmp_path / plan.runs[0].name
    folder.mkdir()
    (folder / "config.json").touch()
    Record("python -m crrl.train ...", ["abc"], 40.0).write(folder)
    Campaign([plan], tmp_path).work()
    assert fake.commands[0] == f"-m crrl.train --resume {folder} --device auto"
    record = Record.read(folder)
    assert record.seconds >= 40
    assert record.commits[0] == "abc"
    assert len(record.commits) == 2


def test_a_failed_run_stops_those_that_need_it_and_no_other(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    plan = plan_of("table6", "nw-ucla")
    fake.failing = "cross-view-cml-paper"
    work = Campaign([plan], tmp_path)
    work.work()
    failed = {run.config.method: work.failures.get(run.name, "") for run in plan.runs}
    assert failed["cml"] == "the training of cml is no longer finite"
    assert failed["crrl"] == failed["cml-pretrain-ser"]
    assert failed["crrl"].startswith("its first phase, ")
    assert not any(failed[method] for method in ("ser", "cml-ser-joint", "ser-pretrain-cml", "ser-distill-cml"))
    assert Record.read(tmp_path / plan.runs[0].name).failure == failed["cml"]
    fake.failing = "nothing fails"
    Campaign([plan], tmp_path).work()
    assert Record.read(tmp_path / plan.runs[0].name).failure == "", "tried again, and well"


def test_protocols_are_evaluated_by_one_command_and_only_those_that_are_missing(
    plan_of: Planner, tmp_path: Path, fake: Fake
) -> None:
    plan = plan_of("table6", "nw-ucla")
    plans = [plan.measured_by("logistic"), plan.measured_by("knn")]
    Campaign(plans[1:], tmp_path).work()
    fake.commands.clear()
    changed = tmp_path / plan.runs[0].name / "evaluation-knn.json"
    changed.unlink()
    Campaign(plans, tmp_path).work()
    assert all("crrl.evaluate" in command for command in fake.commands)
    assert len(fake.commands) == len(plan.runs)
    ends = [command.split(" --protocol ", 1)[1] for command in fake.commands]
    assert ends == ["logistic --protocol knn", *["logistic"] * (len(plan.runs) - 1)]
    assert Campaign([plan], tmp_path).missing() == plan.runs, "by the table's own protocol"


def test_so_many_runs_work_at_a_time_each_after_its_first_phase(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    plan = plan_of("table6", "nw-ucla", seeds=2)
    Campaign([plan], tmp_path, jobs=3).work()
    at_work: set[str] = set()
    most, trained = 0, set()
    for event, name in fake.events:
        first = next(run.first for run in plan.runs if run.name == name)
        assert event == "ends" or first is None or first.name in trained - at_work
        (at_work.add if event == "begins" else at_work.remove)(name)
        trained.add(name)
        most = max(most, len(at_work))
    assert most == 3
    assert trained == {run.name for run in plan.runs}
    assert fake.threads == {"1"}


def test_independent_runs_share_a_process_and_one_that_fails_has_its_own_reason(
    plan_of: Planner, tmp_path: Path, fake: Fake
) -> None:
    plan = plan_of("table4", "nw-ucla", seeds=3)
    fake.failing = "cml-paper-seed1"
    work = Campaign([plan], tmp_path, together=2)
    work.work()
    trained = [command for command in fake.commands if "crrl.train" in command]
    names = [[run.name for run in plan.runs if f"--out {tmp_path / run.name}" in command] for command in trained]
    assert sorted(chain(*names)) == sorted(run.name for run in plan.runs if "crrl-paper-seed1" not in run.name)
    assert max(map(len, names)) == 2
    first = {run.name: run.first.name for run in plan.runs if run.first}
    assert not any(first.get(name) in group for group in names for name in group)
    for command, group in zip(trained, names, strict=True):
        assert command.split().count("--") == len(group) - 1
    said = {run.config.method: work.failures[run.name] for run in plan.runs if run.config.seed == 1}
    assert said["cml"] == "the training of cml is no longer finite"
    assert said["crrl"].startswith("its first phase, ")
    assert len(work.failures) == 2
    record = Record.read(tmp_path / names[0][0])
    assert " -- " not in record.command
    assert (record.failure, record.seconds > 0) == ("", True)


def test_one_of_several_that_ended_without_a_word_has_the_reason_of_their_process(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    assert own_reason(log, "ended by SIGKILL") == "ended by SIGKILL"
    log.write_text("error: no such folder\ncml: 50%\n")
    assert own_reason(log, "ended by SIGKILL") == "ended by SIGKILL"
    log.write_text("cml: 50%\nerror: no such folder\n")
    assert own_reason(log, "ended by SIGKILL") == "no such folder"


def test_a_single_run_at_a_time_takes_all_cores(
    plan_of: Planner, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    Campaign([plan_of("table4", "nw-ucla")], tmp_path).work()
    assert fake.threads == {None}
    assert [event for event, _ in fake.events] == ["begins", "ends"] * 3


@pytest.fixture
def locks(tmp_path: Path) -> list[int]:
    return [os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)]


def finish(work: Work) -> None:
    for _ in work:
        time.sleep(0.01)


def test_a_process_that_fails_gives_its_last_line(tmp_path: Path, locks: list[int]) -> None:
    def run(code: str) -> None:
        finish(execute(["-c", code], tmp_path / "log", locks, os.environ, lambda: None))

    with pytest.raises(Failed, match=r"^no such folder; give another$"):
        run("import sys; print('working', flush=True); sys.exit('error: no such folder; give another')")
    with pytest.raises(Failed, match=r"^ended by SIGKILL \(out of memory\?\)$"):
        run("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(Failed, match="exit code 3"):
        run("raise SystemExit(3)")


def at_work(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Has every run execute this Python code, with `here`, its folder, in which it leaves a file "ready"; once two
    have, SIGINT comes."""
    sent = []

    def train(self: Campaign, attempts: Sequence[Attempt]) -> Work:
        (attempt,) = attempts
        here = attempt.folder

        def look() -> None:
            if len(list(self.runs.glob("*/ready"))) == 2 and not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))

        start = f"import os, pathlib, signal, sys, time\nhere = pathlib.Path({str(here)!r})\n"
        yield from execute(["-c", start + code], here / "log", [attempt.lock], os.environ, look)

    monkeypatch.setattr(Campaign, "_train", train)


def test_a_signal_is_passed_on_to_all_at_work_which_may_save_and_nothing_else_begins(
    plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.3), (here / 'saved').touch(), sys.exit(130)))\n"
        "(here / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    at_work(monkeypatch, code)
    work = Campaign([plan_of("table6", "nw-ucla", seeds=2)], tmp_path, jobs=2)
    with pytest.raises(Interrupted):
        work.work()
    assert len(list(tmp_path.glob("*/saved"))) == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert not work.failures, "what was stopped has not failed"


def test_a_second_signal_ends_all_at_once(plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "def ask_again(*_):\n"
        "    os.mkdir(here.parent / 'asked')\n"  # the first alone can
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, ask_again)\n"
        "(here / 'ready').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    at_work(monkeypatch, code)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            Campaign([plan_of("table6", "nw-ucla")], tmp_path, jobs=2).work()
    finally:
        signal.signal(signal.SIGINT, before)
    for path in tmp_path.glob("*/ready"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_waits_for_a_first_phase_at_work_elsewhere_has_not_failed(
    plan_of: Planner, tmp_path: Path, fake: Fake, jobs: int
) -> None:
    plan = plan_of("table4", "nw-ucla")
    first, second = plan.runs
    work = Campaign([plan], tmp_path, jobs)
    with alone(tmp_path / first.name, "is busy", LOCK):
        work.work()
    assert fake.commands == []
    assert work.failures[second.name].startswith(f"another process works on its first phase, {first.name}: wait")
    assert Record.read(tmp_path / second.name).failure == ""


def test_a_first_phase_that_was_finished_elsewhere_meanwhile_is_used(
    plan_of: Planner, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("table4", "nw-ucla")
    first, second = plan.runs
    work = Campaign([plan], tmp_path)
    attempt = work._attempt

    def elsewhere(group: Sequence[Run]) -> Work:
        if group[0] is not first:
            yield from attempt(group)
            return
        with alone(tmp_path / first.name, "is busy", LOCK):
            yield from attempt(group)
            (tmp_path / first.name / "encoder.safetensors").touch()

    monkeypatch.setattr(work, "_attempt", elsewhere)
    work.work()
    assert list(work.failures) == [first.name]
    assert [command.split()[1] for command in fake.commands] == ["crrl.train", "crrl.evaluate"]
    assert all(second.name in command for command in fake.commands)
