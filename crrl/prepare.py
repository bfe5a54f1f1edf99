"""The command `python -m crrl.prepare`: turn a data set's raw files into a folder that trains at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crrl.data.packing import partial_folder, prepare_folder
from crrl.data.registry import DATA_SETS, FORMATS
from crrl.errors import Interrupted, run_command


@dataclass(frozen=True)
class PrepareOptions:
    """Read a data set's raw files once; write memory-mapped clips, a manifest with hashes, and a report."""

    source: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help=f"Data set ({', '.join(DATA_SETS)}) or format ({', '.join(FORMATS)})."),
    ]
    out: Path
    """Folder to make; train from it by --dataset SOURCE --data FOLDER (for a format: the data set it holds)."""
    data: Path | None = None
    """Folder of the raw files, or the single file of ctr-gcn or pyskl; without it, $CRRL_DATA."""
    missing: tuple[Path, ...] = ()
    """Lists of clips to leave out: the owners' lists of samples with missing skeletons."""
    skip_damaged: bool = False
    """Leave out damaged files and report each with the reason, instead of refusing all."""
    workers: int = 0
    """Processes that read, for sources that can be read in parallel (docs/data.md); 0: one per core."""


def main(arguments: list[str] | None = None) -> int:
    """Prepare and print the report; returns the exit code: 0, or 128 + N after signal N."""
    options = tyro.cli(PrepareOptions, prog="python -m crrl.prepare", args=arguments)
    try:
        report = prepare_folder(
            options.source, options.data, options.out, options.missing, options.skip_damaged, options.workers
        )
    except Interrupted as stop:
        kept = "what is read is kept" if partial_folder(options.out).exists() else "nothing is kept"
        print(f"stopped by {stop}; {kept}: run the same command again", file=sys.stderr)
        return 128 + stop.signum
    print(report)
    print(f"prepared: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
