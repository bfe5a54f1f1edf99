"""The command `python -m crrl.report`: a report page of finished runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crrl.device import choose_device
from crrl.errors import CrrlError, run_command
from crrl.files import refuse_place
from crrl.reporting.findings import Findings
from crrl.reporting.page import need
from crrl.reporting.sections import write_report
from crrl.runs import RunFolder


@dataclass(frozen=True)
class ReportOptions:
    """Write a report of trained runs as one page: losses, accuracy, a map of the features, and moving clips.

    The runs must be finished and evaluated; their clips are read again. The page needs no network.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of finished and evaluated runs."""
    out: Path = Path("report.html")
    """The page to write."""
    data: Path | None = None
    """Folder of the data set's files, if it is not the one trained from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print its path."""
    options = tyro.cli(ReportOptions, prog="python -m crrl.report", args=arguments)
    if not options.runs:
        raise CrrlError("no run given: name the folders of finished runs")
    refuse_place(options.out)
    for path in options.runs:
        RunFolder(path).refuse(options.out)
    need("report", "jinja2", "plotly", "sklearn")
    device = choose_device(options.device)
    write_report(options.out, [Findings(RunFolder(path), options.data, device) for path in options.runs])
    print(f"report: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
