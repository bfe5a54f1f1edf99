"""The command `python -m crrl.reproduce`: run a table or figure of the paper, and write a page that compares."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from crrl.config import Precision, Recipe
from crrl.data.registry import Dataset
from crrl.errors import CrrlError, Interrupted, run_command
from crrl.reproduction import TARGETS, Campaign, Settings, TargetName, make_plan, write_page

MOST_SEEDS, MOST_JOBS = 1000, 256


@dataclass(frozen=True)
class ReproduceOptions:
    """Run a table or figure of the paper: what is missing is trained, what was cut off goes on, runs are shared."""

    target: tyro.conf.Positional[TargetName]
    """Table or figure; settings-cml, settings-ser and settings-crrl: alternatives to a recipe's settings."""
    dataset: tuple[Dataset, ...] = ()
    """Data sets, one or more; without it those of the table that are at hand."""
    seeds: int = 1
    """How many seeds, from 0; the page has mean and standard deviation over them."""
    recipe: Recipe = "paper"
    """Settings of all runs: the paper's, or ours (tuned)."""
    quick: bool = False
    """A smoke test: 2 epochs a phase, 1 seed, one split a data set. The page says so with every number."""
    runs: Path = Path("runs/reproduction")
    """Folder of the runs, which all targets share."""
    out: Path | None = None
    """Folder of the pages; without it RUNS/pages."""
    data: tuple[Path, ...] = ()
    """Folders of data sets; each set is taken from the first that has it, but each folder of clips of your own (folder)
    is a data set, called as the folder is. Without it $CRRL_DATA."""
    protocol: tuple[Literal["linear", "knn", "logistic"], ...] = ()
    """Measure another way than the paper's table, or several; the page is then called TARGET-PROTOCOL and has no
    paper's number."""
    jobs: int = 1
    """Runs at a time: of several each is a process of one thread; a single one takes all cores."""
    precision: Precision = "fp32"
    """bf16: matrix products in bfloat16."""
    fused: bool = True
    """Use the fastest correct backend of each operator on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the GPU if there is one."""

    def __post_init__(self) -> None:
        for name, most in (("seeds", MOST_SEEDS), ("jobs", MOST_JOBS)):
            if not 1 <= getattr(self, name) <= most:
                raise CrrlError(f"--{name} is {getattr(self, name)}: it must be from 1 to {most}")
        if self.quick and self.seeds > 1:
            raise CrrlError("--quick is a smoke test of 1 seed: leave out --seeds, or --quick")
        if self.protocol and self.target.startswith("figure"):
            raise CrrlError(f"{self.target} is drawn as it is: --protocol is for tables and settings")

    @property
    def settings(self) -> Settings:
        return Settings(self.recipe, self.seeds, self.quick, self.fused, self.precision, self.device, self.data)


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing and write the pages; returns the exit code: 1 if a run failed, else 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(ReproduceOptions, prog="python -m crrl.reproduce", args=arguments)
    own = TARGETS[options.target].protocol
    plan = make_plan(str(options.target), TARGETS[options.target], options.dataset, options.settings)
    for dataset, reason in plan.skipped.items():
        print(f"{dataset} is left out: {reason}", file=sys.stderr)
    protocols = dict.fromkeys(options.protocol or (own,))
    plans = [plan if protocol == own else plan.measured_by(protocol) for protocol in protocols]
    campaign = Campaign(plans, options.runs, options.jobs)
    to_do = f"{len(campaign.missing())} of them to do"
    print(f"{len(campaign.planned)} runs, {to_do}, in {campaign.runs}", file=sys.stderr)
    command = shlex.join(["python", "-m", "crrl.reproduce", *arguments])
    out = options.out or options.runs / "pages"
    try:
        campaign.work()
    except Interrupted:
        for plan in plans:
            page = write_page(plan, campaign.runs, out, command, with_figures=False)
            print(f"page of what there is: {page}; the same command goes on", file=sys.stderr)
        raise
    for plan in plans:
        print(f"page: {write_page(plan, campaign.runs, out, command)}")
    for name, reason in campaign.failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
