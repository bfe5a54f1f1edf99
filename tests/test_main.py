"""The console script `crrl`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import __main__ as script


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crrl", *arguments])
    return script.main()


def test_the_console_script_is_this() -> None:
    (entry,) = entry_points(group="console_scripts", name="crrl")
    assert entry.load() is script.main


@pytest.mark.parametrize("arguments", [[], ["fly"]])
def test_without_a_known_command_it_says_which_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert all(f"\n  {command} " in said for command in script.COMMANDS)


@pytest.mark.parametrize(("option", "expected"), [("--help", "usage: crrl"), ("help", "train"), ("--version", "crrl ")])
def test_what_it_is_asked_for_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, expected: str
) -> None:
    assert run(monkeypatch, option) == 0
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("command", script.COMMANDS)
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, command, "--help")
    assert stop.value.code == 0
    assert f"crrl.{command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_users_mistake_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    arguments = {"train": ["--resume", str(tmp_path)], "evaluate": [str(tmp_path)]}[command]
    assert run(monkeypatch, command, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path) in line


def test_a_warning_is_one_line() -> None:
    code = "import warnings; from crrl.errors import run_command; run_command(lambda: warnings.warn('too coarse'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: too coarse\n"
