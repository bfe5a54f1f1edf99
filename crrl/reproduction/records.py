"""The record of a run beside its own files: its command, the commits of the sources, its time and its failure."""

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
        command: the command that trained the run. commits: of the sources that trained it, in order.
        seconds: training time over all attempts. failure: why the last attempt failed; empty: it did not.
    """

    command: str = ""
    commits: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record in a run folder; an empty record if there is none.

        Raises:
            CrrlError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        return read_facts(path, cls, "delete it, the run itself is not touched")

    def write(self, folder: Path) -> None:
        """Write the record into the run folder, which is made if missing."""
        with explain_os_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))


def commit() -> str:
    """The commit of these sources, with a + if tracked files have changed; outside a clone, the version."""
    here = Path(__file__).parent
    with suppress(OSError, subprocess.CalledProcessError):
        inside = _git(here, "ls-files", "--", __file__)  # empty for a package inside another repository
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
    """The number of epochs that a run has logged, over all attempts."""
    with suppress(OSError):
        return RunFolder(folder).metrics_path.read_bytes().count(b"\n")
    return 0


def losses(folder: Path, name: str) -> list[float]:
    """A loss of the run's last phase, a value per epoch; empty if there is none.

    Raises:
        CrrlError: metrics.jsonl is damaged.
    """
    path = RunFolder(folder).metrics_path
    if not path.exists():
        return []
    with explain_damage(path, "damaged", "train this run again"):
        records = [dict(json.loads(line)) for line in read_bytes(path).decode().splitlines()]
        return [float(record[name]) for record in records if record["phase"] == records[-1]["phase"] and name in record]
