"""Commands with a time limit, and what pytest says at their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.machine import ROOT


@dataclass
class Finished:
    """A command that was run. code: its exit code, None if its time was up. output: what it printed."""

    code: int | None
    output: str
    seconds: float


def run(command: Sequence[str], limit_s: float, settings: Mapping[str, str] | None = None) -> Finished:
    """Run it in the repository root, `settings` in its environment; past its limit end it, with all that it started."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(settings or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
        log.seek(0)
        output = log.read().decode(errors="replace")
    return Finished(code, output, time.monotonic() - start)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def counted(output: str) -> dict[str, int]:
    """How many tests passed, failed and so on, by the last line of pytest that says it."""
    for line in reversed(output.splitlines()):
        found = re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?|xfailed|xpassed)\b", line)
        if found:
            return {word: int(count) for count, word in found}
    return {}


def described(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "no test reported"
