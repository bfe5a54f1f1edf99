"""What a command does where its surroundings are odd: one line, or its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crrl
from crrl.errors import CrrlError, environment_number

SAY = """
import sys, types
package = sys.modules["crrl"] = types.ModuleType("crrl")  # without what crrl imports, which takes seconds
package.__path__ = [{package!r}]
from crrl.errors import CrrlError, run_command
def main():
    {work}
sys.exit(run_command(main))
"""


def command(work: str, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose main is `work`, in a shell that redirects its streams."""
    code = SAY.format(work=work, package=str(Path(crrl.__file__).parent))
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&-", "<&-"])
def test_a_stream_that_cannot_be_written_ends_nothing(redirection: str, tmp_path: Path) -> None:
    said = "print('a' * 99999, file=sys.stderr, flush=True); print('out')"
    work = f"{said}; open({str(tmp_path / 'done')!r}, 'w').write('x')"
    assert command(work, redirection).returncode == 0
    assert (tmp_path / "done").read_text() == "x"


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    path = tmp_path / "file"
    command(f"import os; file = open({str(path)!r}, 'w'); os.write(2, b'from a library'); file.write('whole')", "2>&-")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flush", [False, True])
def test_an_output_that_is_full_is_one_line(flush: bool, unbuffered: str) -> None:
    done = command(f"print('out', flush={flush})", ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("check where the output goes")


def test_an_error_comes_after_all_output() -> None:
    done = command("print('out'); raise CrrlError('no such file')", "2>&1", PYTHONUNBUFFERED="")
    assert (done.stdout, done.returncode) == ("out\nerror: no such file\n", 2)


def test_who_has_enough_of_the_output_gets_no_error() -> None:
    done = command("print('out\\n' * 99999)", "| head -n 1; exit ${PIPESTATUS[0]}", PYTHONUNBUFFERED="")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "", 128 + 13)


@pytest.mark.parametrize("redirection", [">/dev/full", "| true; exit ${PIPESTATUS[0]}"])
def test_an_error_is_told_where_the_output_cannot_be_written(redirection: str) -> None:
    work = "print('out'); import time; time.sleep(0.2); raise CrrlError('no such file')"
    done = command(work, redirection, PYTHONUNBUFFERED="")
    assert (done.stderr, done.returncode) == ("error: no such file\n", 2)


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    done = command(r"print('\u00d7'); raise CrrlError('no \udcff here')", PYTHONIOENCODING="ascii")
    assert done.stdout == "\\xd7\n"
    assert done.stderr == "error: no \\udcff here\n"


def test_memory_that_is_used_up_is_one_line() -> None:
    done = command("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "not enough memory" in done.stderr


def test_a_full_disk_in_a_thread_is_one_line() -> None:
    done = command("import threading; threading.Thread(target=open, args=('/none/there', 'w')).start()")
    assert done.stderr == "warning: [Errno 2] No such file or directory: '/none/there'\n"


def test_a_bug_keeps_its_traceback() -> None:
    assert "Traceback" in command("raise RuntimeError('a bug')").stderr


def test_a_command_that_is_stopped_while_it_loads_ends_at_once_without_a_traceback() -> None:
    with subprocess.Popen([sys.executable, "-m", "crrl.train"], stderr=subprocess.PIPE) as process:
        while b"libtorch" not in Path(f"/proc/{process.pid}/maps").read_bytes():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert stderr == b""
    assert process.returncode == -signal.SIGINT


def test_variables_of_torchrun_that_are_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("abc", "-1", "1.5", "²"):
        monkeypatch.setenv("WORLD_SIZE", text)
        with pytest.raises(CrrlError, match=f"WORLD_SIZE is '{text}', not a number: unset it"):
            environment_number("WORLD_SIZE", 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert environment_number("WORLD_SIZE", 1) == 3
    monkeypatch.delenv("WORLD_SIZE")
    assert environment_number("WORLD_SIZE", 1) == 1
