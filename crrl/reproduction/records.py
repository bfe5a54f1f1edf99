"""What is known of a run beyond its own files: its command, sources and time, and what went wrong."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from crrl.facts import read_facts
from crrl.files import explain_damage, explain_os_errors, read_bytes, write_json
from crrl.runs import RunFolder

FILE = "reproduction.json"


@dataclass
class Record:
    """The history of one run.

    Attributes:
        command: that trained it. commits: of the sources that did, in their order. seconds: of training, all attempts.
        failure: why the last attempt ended early; empty: it did not.
    """

    command: str = ""
    commits: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record in a run folder; an empty one where there is none.

        Raises:
            CrrlError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        return read_facts(path, cls, "delete it, the run itself is not touched")

    def write(self, folder: Path) -> None:
        """Keep it in the run folder, which is made where it is missing."""
        with explain_os_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))


def commit() -> str:
    """The commit of these sources, with a + where they have changed since; outside a clone the version."""
    here = Path(__file__).parent
    with suppress(OSError, subprocess.CalledProcessError):
        inside = _git(here, "ls-files", "--", __file__)  # an installed package below some other repository is not its
        if inside:
            changed = _git(here, "status", "--porcelain", "--untracked-files=no")
            return _git(here, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    with suppress(PackageNotFoundError):
        return f"version {version('crrl')}"
    return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def epochs_done(folder: Path) -> int:
    """Epochs that a run has logged, in this attempt or before."""
    with suppress(OSError):
        return RunFolder(folder).metrics_path.read_bytes().count(b"\n")
    return 0


def losses(folder: Path, name: str) -> list[float]:
    """A loss of the run's last phase, epoch by epoch; empty where there is none.

    Raises:
        CrrlError: metrics.jsonl is damaged.
    """
    path = RunFolder(folder).metrics_path
    if not path.exists():
        return []
    with explain_damage(path, "damaged", "train this run again"):
        records = [dict(json.loads(line)) for line in read_bytes(path).decode().splitlines()]
        return [float(record[name]) for record in records if record["phase"] == records[-1]["phase"] and name in record]
