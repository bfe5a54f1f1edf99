"""The command `python -m crrl.train`: pretrain on skeletons and leave an encoder in a run folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

import torch
import tyro

from crrl import ops
from crrl.card import write_card
from crrl.config import Config, Dataset, Recipe
from crrl.data import prepare
from crrl.data.clips import warn_of_untrained
from crrl.data.sources import FORMATS
from crrl.device import choose_device
from crrl.errors import CrrlError, Interrupted, run_command
from crrl.ops import cpu
from crrl.recipes import preset
from crrl.runs import RunFolder, load_encoder
from crrl.training import Trainer, fast_paths
from crrl.training.ranks import Ranks, connect


@dataclass(frozen=True)
class TrainOptions:
    """Pretrain CRRL on skeletons. The defaults shown are those of the chosen --dataset and --recipe."""

    config: Config
    out: Path | None = None
    """Run folder to make."""
    resume: Path | None = None
    """Run folder to go on with; its own configuration applies, so only --device goes with it."""


def parse(arguments: list[str]) -> TrainOptions:
    """Options from the command line; dataset and recipe are read first, since they set the other defaults.

    Raises:
        CrrlError: the data set is a format, whose files are to be prepared first.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--dataset", default="synthetic")
    chooser.add_argument("--recipe", default="paper")
    chosen, _ = chooser.parse_known_args(arguments)
    if chosen.dataset in FORMATS and chosen.dataset not in get_args(Dataset):
        command = f"python -m crrl.prepare {chosen.dataset} --data RAW --out FOLDER"
        raise CrrlError(
            f"{chosen.dataset} is a format: prepare its files once, {command}; then train with --dataset prepared "
            f"--data FOLDER (or as the data set that they hold)"
        )
    dataset: Dataset = chosen.dataset if chosen.dataset in get_args(Dataset) else "synthetic"
    recipe: Recipe = chosen.recipe if chosen.recipe in get_args(Recipe) else "paper"
    return tyro.cli(
        Annotated[TrainOptions, tyro.conf.arg(name="")],
        prog="python -m crrl.train",
        args=arguments,
        default=TrainOptions(preset(dataset, recipe)),
        config=(tyro.conf.OmitArgPrefixes,),
    )


def open_run(arguments: list[str]) -> tuple[RunFolder, Config]:
    """The run folder to work in, new (not made yet) or to resume, and its configuration.

    Raises:
        CrrlError: neither --out nor --resume, --resume with other options, or an unusable folder.
    """
    options = parse(arguments)
    config, folder = options.config, str(options.resume or options.out)
    if folder.encode(errors="ignore").decode() != folder:  # TensorBoard knows no other names
        raise CrrlError(f"the folder {folder!r} has a name that is no UTF-8 text here: give it another, or set LC_ALL")
    if options.resume is not None:
        if options.out is not None or replace(config, device="auto") != preset():
            raise CrrlError("--resume takes the run's own configuration: no option but --device goes with it")
        run = RunFolder(options.resume)
        return run, replace(run.config(), device=config.device)
    if options.out is None:
        raise CrrlError("where shall the run go? Give --out FOLDER (or --resume FOLDER to go on with one)")
    run = RunFolder(options.out)
    if run.in_use():
        raise CrrlError(f"{run.path} already holds a run: go on with it by --resume {run.path}, or give another --out")
    return run, replace(config, data=absolute(config.data), teacher=absolute(config.teacher))


def absolute(path: Path | None) -> Path | None:
    """The path as other working folders know it."""
    return None if path is None else path.absolute()


def print_backends(config: Config, device: torch.device) -> None:
    """One table: operator (or decoder, or whole step), backend chosen, why."""
    case = ops.Case(device.type, torch.float32, device.index, config.encoder.hidden_size)
    narrow = replace(case, dtype=torch.bfloat16)  # what autocast makes of the products, and it alone
    choices = {row[0]: row for row in ops.choices(case)}
    if config.precision == "bf16":
        choices["gru_layer"] = next(row for row in ops.choices(narrow) if row[0] == "gru_layer")
    paths = [(name, *choice) for name, choice in fast_paths(config, device).items()]
    for row in [("operator", "backend", "why"), *choices.values(), *paths]:
        print("  {:14} {:10} {}".format(*row))


def set_up_process(device: torch.device) -> None:
    """Settings of the whole process that make training faster and change none of its results but denormals."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_flush_denormal(True)
        cpu.keep_memory()


def report(run: RunFolder) -> int:
    """Say where the trained encoder is."""
    print(f"trained encoder: {run.encoder_path}")
    print(f"its accuracy:    python -m crrl.evaluate {run.path} --protocol linear")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code: 0, or 128 + the signal that stopped it."""
    run, config = open_run(sys.argv[1:] if arguments is None else arguments)
    if run.encoder_path.exists():
        load_encoder(run.encoder_path)  # it is told where it is damaged
        return report(run)
    device = choose_device(config.device)
    set_up_process(device)
    with connect(device) as ranks, ops.use_backends("auto" if config.fused else "reference"):
        ranks.wait()  # each has looked at the run folder before it is made
        try:
            train(run, config, device, ranks)
        except Interrupted as stop:
            if ranks.rank == 0:
                print(f"stopped by {stop}; go on with: python -m crrl.train --resume {run.path}", file=sys.stderr)
            return 128 + stop.signum
        return report(run) if ranks.rank == 0 else 0


def train(run: RunFolder, config: Config, device: torch.device, ranks: Ranks) -> None:
    """Train in the run folder; rank 0 prepares the data, prints and makes the folder."""
    if ranks.rank == 0 and cpu.missing:
        print(f"note: {cpu.missing}", file=sys.stderr)
    with ranks.first():
        prepared = prepare(config.dataset, config.data, config.split_name, config.preprocessing)
    trainer = Trainer(config, run, prepared, device, ranks)
    if ranks.rank > 0:
        return trainer.train()
    with run.lock():
        claim(run, config)
        warn_of_untrained(prepared.clips, [config.split_name])
        if config.fused:
            print_backends(config, device)
        if config.turn_yaw == "auto":
            print(f"clips are turned by {trainer.yaw:.0f} degrees, three times as far as they face apart (--turn-yaw)")
        trainer.train()
        write_card(run)


def claim(run: RunFolder, config: Config) -> None:
    """Write config.json into a new run folder, or see that it is still this run's.

    Raises:
        CrrlError: another process has begun another run there meanwhile.
    """
    if not run.config_path.exists():
        run.create(config)
    elif replace(run.config(), device=config.device) != config:
        raise CrrlError(f"another process has begun another run in {run.path} meanwhile: give another --out")


if __name__ == "__main__":
    sys.exit(run_command(main))
