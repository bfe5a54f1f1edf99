"""`python -m bench`: the groups of a CPU, one after the other in this process, and their page.

Parity first, then peers in turns. A group that is not named is not run; a part of the rows, or a run that was stopped
or in which ours was wrong, leaves its page in build/bench, beside no page that is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import groups
from bench.machine import ROOT, machine, peak_gflops
from bench.report import Page
from bench.rows import Row
from bench.timing import Entry, fill

SCRATCH = ROOT / "build" / "bench"


class Run:
    """What a run has found so far, and the time it has left for what is still to come.

    Args:
        names: of groups.CPU. minutes: what all of it may take. rounds: turns of a row; 0: as many as the time allows.
    """

    def __init__(self, names: Sequence[str], minutes: float, rounds: int = 0):
        self.names, self.rounds = names, rounds
        self.deadline = time.perf_counter() + 60 * minutes
        self.left = sum(1 for name in names for _ in groups.CPU[name]())
        self.rows: list[Row] = []
        self.peaks: dict[str, float] = {}

    def measure(self, results: Path) -> bool:
        """Run them and write the page, to `results` if all rows went through and are right; returns whether."""
        right = False
        try:
            self._measure_peaks()
            for name in self.names:
                before = self.rows
                for rows in groups.run_group(name, groups.CPU[name](), self._fill):
                    self.rows = [*before, *rows]
            right = not any(row.broken for row in self.rows)
            self._measure_peaks()  # again at the end: the machine may have been busier at the start
        finally:
            folder = results if right else SCRATCH
            if self.rows:
                Page("cpu", machine(), self.rows, self.peaks).write(folder)
                print(f"report: {folder}/cpu.md")
        return right

    def _fill(self, entry: Entry) -> Row:
        """The row, within its equal share of the time left."""
        share = (self.deadline - time.perf_counter()) / max(self.left, 1)
        self.left -= 1
        return fill(entry, self.rounds, share)

    def _measure_peaks(self) -> None:
        """Keep each unit's best: a peak is a ceiling, and a neighbour's noise only lowers what is seen of it."""
        for unit, gflops in peak_gflops().items():
            self.peaks[unit] = max(gflops, self.peaks.get(unit, 0.0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if all rows went through and are right."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--groups", default=",".join(groups.CPU), help="with commas (all of them)")
    parser.add_argument("--minutes", type=float, default=6.0, help="about how long the whole run may take")
    parser.add_argument("--rounds", type=int, default=0, help="turns per row; 0: as many as the time allows")
    parser.add_argument("--results", type=Path, default=SCRATCH, help="folder of the report, if all rows went through")
    options = parser.parse_args(arguments)
    try:
        names = groups.chosen("group", options.groups.split(","), groups.CPU)
    except ValueError as error:
        parser.error(str(error))
    return 0 if Run(names, options.minutes, options.rounds).measure(options.results) else 1


if __name__ == "__main__":
    sys.exit(main())
