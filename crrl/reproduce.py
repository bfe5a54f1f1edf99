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
from crrl.device import choose_device
from crrl.errors import CrrlError, Interrupted, run_command
from crrl.reproduction import TARGETS, Campaign, Settings, TargetName, make_plan, write_page
from crrl.training import runs_that_help

MOST_SEEDS, MOST_JOBS = 1000, 256


@dataclass(frozen=True)
class ReproduceOptions:
    """Run a table or figure of the paper: train missing runs, resume interrupted ones, share runs of other targets."""

    target: tyro.conf.Positional[TargetName]
    """Table or figure; settings-cml, settings-ser and settings-crrl: alternatives to a recipe's settings."""
    dataset: tuple[Dataset, ...] = ()
    """Data sets, one or more; without it, the available data sets of the table."""
    seeds: int = 1
    """Number of seeds, from 0 on; the page has mean and standard deviation over them."""
    recipe: Recipe = "paper"
    """Settings of all runs: the paper's, or ours (tuned)."""
    quick: bool = False
    """A smoke test: 2 epochs per phase, 1 seed, one split per data set. Every caption of the page says so."""
    runs: Path = Path("runs/reproduction")
    """Folder of the runs, which all targets share."""
    out: Path | None = None
    """Folder of the pages; without it, RUNS/pages."""
    data: tuple[Path, ...] = ()
    """Folders of data sets; each set is read from the first folder that has it. With --dataset folder, each folder of
    your own clips is a data set of the folder's name. Without it, $CRRL_DATA."""
    protocol: tuple[Literal["linear", "knn", "logistic"], ...] = ()
    """Measure by these protocols; the page of one that is not the table's is called TARGET-PROTOCOL and lacks the
    paper's numbers."""
    jobs: int = 1
    """Processes at a time; a single one uses all cores, of several each has one thread."""
    together: int | None = None
    """Runs that a process trains side by side, with the results that each has alone; without it, as many as help: on a
    GPU as fill it, on a CPU 1."""
    precision: Precision = "fp32"
    """bf16: matrix products in bfloat16."""
    fused: bool = True
    """Use the fastest correct backend of each operator on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the GPU if there is one."""

    def __post_init__(self) -> None:
        for name, most in (("seeds", MOST_SEEDS), ("jobs", MOST_JOBS), ("together", MOST_JOBS)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise CrrlError(f"--{name} is {value}: it must be from 1 to {most}")
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
    together = options.together or runs_that_help(plan.runs[0].config, choose_device(options.device))
    campaign = Campaign(plans, options.runs, options.jobs, together)
    to_do = f"{len(campaign.missing())} of them to do"
    print(f"{len(campaign.planned)} runs, {to_do}, in {campaign.runs}", file=sys.stderr)
    command = shlex.join(["python", "-m", "crrl.reproduce", *arguments])
    out = options.out or options.runs / "pages"
    try:
        campaign.work()
    except Interrupted:
        for plan in plans:
            page = write_page(plan, campaign.runs, out, command, with_figures=False)
            print(f"page of the finished runs: {page}; run the same command to continue", file=sys.stderr)
        raise
    for plan in plans:
        print(f"page: {write_page(plan, campaign.runs, out, command)}")
    for name, reason in campaign.failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
