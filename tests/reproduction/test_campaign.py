"""Doing what a plan lacks: nothing twice, what was cut off resumed, failures noted, signals passed on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from crrl.errors import Interrupted
from crrl.reproduction import Campaign, campaign
from crrl.reproduction.campaign import Busy, Failed, alone, execute
from crrl.reproduction.plan import Plan, Run
from crrl.reproduction.records import Record

Planner = Callable[..., Plan]


class Fake:
    """Stands for `execute`: notes each command, leaves what it would leave, fails where told."""

    def __init__(self, failing: str = "nothing fails"):
        self.failing = failing
        self.commands: list[str] = []

    def __call__(self, command: list[str], log: Path, lock: int, look: Callable[[], None]) -> None:
        self.commands.append(" ".join(command))
        look()
        if self.failing in log.parent.name:
            raise Failed("the training of cml is no longer finite")
        if "crrl.train" in command:
            (log.parent / "encoder.safetensors").touch()
        else:
            (log.parent / f"evaluation-{command[command.index('--protocol') + 1]}.json").write_text("{}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(campaign, "execute", fake)
    return fake


def test_every_run_is_trained_once_and_what_stands_in_a_cell_is_evaluated(
    plan_of: Planner, tmp_path: Path, fake: Fake
) -> None:
    plan = plan_of("table4", "nw-ucla", seeds=2)
    Campaign(plan, tmp_path).work()
    assert [command.split()[1] for command in fake.commands] == 2 * ["crrl.train", "crrl.train", "crrl.evaluate"]
    record = Record.read(tmp_path / plan.runs[1].name)
    assert f"--teacher {tmp_path / plan.runs[0].name}" in record.command
    assert (len(record.commits), record.failure) == (1, "")
    assert record.seconds > 0
    Campaign(plan, tmp_path).work()
    assert len(fake.commands) == 6, "all of it is done"


def test_another_table_trains_only_what_it_does_not_share(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    Campaign(plan_of("table4", "nw-ucla"), tmp_path).work()
    fake.commands.clear()
    Campaign(plan_of("table6", "nw-ucla"), tmp_path).work()
    trained = [command for command in fake.commands if "crrl.train" in command]
    assert len(trained) == 5
    assert not any("--method cml " in command for command in trained)


def test_a_protocol_that_is_missing_is_evaluated_without_training(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    Campaign(plan_of("table4", "nw-ucla"), tmp_path).work()
    fake.commands.clear()
    Campaign(plan_of("table5", "nw-ucla"), tmp_path).work()
    (command,) = fake.commands
    assert command.endswith("--protocol knn")


def test_what_was_cut_off_is_resumed(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    plan = plan_of("table4", "nw-ucla")
    folder = tmp_path / plan.runs[0].name
    folder.mkdir()
    (folder / "config.json").touch()
    Record("python -m crrl.train ...", ["abc"], 40.0).write(folder)
    Campaign(plan, tmp_path).work()
    assert fake.commands[0] == f"-m crrl.train --resume {folder} --device auto"
    record = Record.read(folder)
    assert record.seconds >= 40
    assert record.commits[0] == "abc"
    assert len(record.commits) == 2


def test_a_failed_run_stops_those_that_need_it_and_no_other(plan_of: Planner, tmp_path: Path, fake: Fake) -> None:
    plan = plan_of("table6", "nw-ucla")
    fake.failing = "cross-view-cml-paper"
    work = Campaign(plan, tmp_path)
    work.work()
    failed = {run.config.method: work.failures.get(run.name, "") for run in plan.runs}
    assert failed["cml"] == "the training of cml is no longer finite"
    assert failed["crrl"] == failed["cml-pretrain-ser"]
    assert failed["crrl"].startswith("its first phase, ")
    assert not any(failed[method] for method in ("ser", "cml-ser-joint", "ser-pretrain-cml", "ser-distill-cml"))
    assert Record.read(tmp_path / plan.runs[0].name).failure == failed["cml"]
    fake.failing = "nothing fails"
    Campaign(plan, tmp_path).work()
    assert Record.read(tmp_path / plan.runs[0].name).failure == "", "tried again, and well"


@pytest.fixture
def lock(tmp_path: Path) -> int:
    return os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)


def test_a_process_that_fails_gives_its_last_line(tmp_path: Path, lock: int) -> None:
    code = "import sys; print('working'); sys.exit('error: no such folder; give another')"
    with pytest.raises(Failed, match=r"^no such folder; give another$"):
        execute(["-c", code], tmp_path / "log", lock, lambda: None)
    with pytest.raises(Failed, match=r"^ended by SIGKILL \(out of memory\?\)$"):
        execute(["-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "log", lock, lambda: None)
    with pytest.raises(Failed, match="exit code 3"):
        execute(["-c", "raise SystemExit(3)"], tmp_path / "log", lock, lambda: None)


def test_a_signal_is_passed_on_once_and_the_process_may_save(tmp_path: Path, lock: int) -> None:
    code = (
        "import signal, sys, pathlib, time\n"
        f"signal.signal(signal.SIGINT, lambda *_: (pathlib.Path({str(tmp_path / 'saved')!r}).touch(), sys.exit(130)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    sent = []

    def look() -> None:
        if (tmp_path / "ready").exists() and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(Interrupted):
        execute(["-c", code], tmp_path / "log", lock, look)
    assert (tmp_path / "saved").exists()


def test_two_campaigns_do_not_work_on_one_run(tmp_path: Path) -> None:
    with alone(tmp_path / "run"), pytest.raises(Busy, match="another process"), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass


def test_what_waits_for_a_first_phase_at_work_elsewhere_has_not_failed(
    plan_of: Planner, tmp_path: Path, fake: Fake
) -> None:
    plan = plan_of("table4", "nw-ucla")
    first, second = plan.runs
    work = Campaign(plan, tmp_path)
    with alone(tmp_path / first.name):
        work.work()
    assert fake.commands == []
    assert work.failures[second.name].startswith(f"another process works on its first phase, {first.name}: wait")
    assert Record.read(tmp_path / second.name).failure == ""


def test_a_first_phase_that_was_finished_elsewhere_meanwhile_is_used(
    plan_of: Planner, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("table4", "nw-ucla")
    first, second = plan.runs
    work = Campaign(plan, tmp_path)
    attempt = work._attempt

    def elsewhere(run: Run, advance: Callable[[int], None]) -> None:
        if run is not first:
            return attempt(run, advance)
        with alone(tmp_path / first.name):
            attempt(run, advance)
            (tmp_path / first.name / "encoder.safetensors").touch()

    monkeypatch.setattr(work, "_attempt", elsewhere)
    work.work()
    assert list(work.failures) == [first.name]
    assert [command.split()[1] for command in fake.commands] == ["crrl.train", "crrl.evaluate"]
    assert all(second.name in command for command in fake.commands)
