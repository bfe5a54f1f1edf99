"""The command `python -m crrl.train`: pretrain an encoder on skeletons and write it to a run folder."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import tyro

from crrl import ops
from crrl.card import write_card
from crrl.config import Config, Recipe
from crrl.data import Prepared, prepare
from crrl.data.clips import warn_of_classes
from crrl.data.registry import FORMATS, NAMED_BY_FOLDER, PRESETS, SOURCES, Dataset
from crrl.device import choose_device
from crrl.errors import CrrlError, Interrupted, Patient, command, environment_number, explained, run_command
from crrl.evaluate import evaluate
from crrl.evaluation.protocols import EvaluateOptions, NothingToScore
from crrl.files import explain_os_errors, open_own
from crrl.ops import cpu
from crrl.ops.gru import cuda as gru
from crrl.recipes import preset
from crrl.runs import RunFolder, load_encoder
from crrl.training import Trainer, fast_paths
from crrl.training.progress import log_outcome
from crrl.training.ranks import Ranks, connect
from crrl.training.turns import Turns, take_turns

_NAMED = ", ".join(name for name in PRESETS if not SOURCES[name].embedded and name not in NAMED_BY_FOLDER)
FIRST = {
    "dataset": f"synthetic (embedded), {_NAMED}, prepared, or folder: your own clips",
    "data": "folder of the data set's files, else $CRRL_DATA",
    "out": "run folder to make, else runs/DATASET-TIME",
    "resume": "run folder to resume, instead of all other options",
    "recipe": "tuned: ours, for any data set; paper: the paper's settings",
    "method": "crrl, cml, ser, or another row of the paper's tables",
    "epochs_cml": "epochs of step 1, contrast",
    "epochs_ser": "epochs of step 2, reconstruction and distillation",
    "precision": "bf16 where the processor multiplies it (AMX), or fp32",
    "split": "training and test clips by the name of a split",
    "seed": "random seed",
    "evaluate": "score the encoder at the end (--no-evaluate: do not)",
}
"""The options that matter first: --help shows these, and --help-all every setting."""
BETWEEN = "--"
"""Stands between the options of runs that train side by side in one process."""


@dataclass(frozen=True)
class TrainOptions:
    """Pretrain CRRL on skeletons. The defaults shown are those of the chosen --dataset and --recipe."""

    config: Config
    out: Path | None = None
    """Run folder to make."""
    resume: Path | None = None
    """Run folder to resume; its own configuration applies, so only --device and --evaluate may be given too."""
    evaluate: bool = True
    """At the end, score the encoder beside a random one and raw coordinates, by logistic regression and 1-NN;
    crrl.evaluate has more protocols."""


def parse(arguments: list[str]) -> TrainOptions:
    """Options from the command line; dataset and recipe are read first, because they set the other defaults.

    Raises:
        CrrlError: the data set is a format, whose files must be prepared first; or `check_resume` refuses.
    """
    check_resume(arguments)
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--dataset", default="synthetic")
    chooser.add_argument("--recipe", default="tuned")
    chooser.add_argument("--help-all", action="store_true")
    chooser.add_argument("-h", "--help", action="store_true")
    chosen, _ = chooser.parse_known_args(arguments)
    if chosen.dataset in FORMATS and chosen.dataset not in get_args(Dataset):
        first = command("prepare", chosen.dataset, "--data", "RAW", "--out", "FOLDER")
        raise CrrlError(
            f"{chosen.dataset} is a format: prepare its files once, {first}; then train with --dataset prepared "
            f"--data FOLDER (or as the data set that they hold)"
        )
    dataset: Dataset = chosen.dataset if chosen.dataset in get_args(Dataset) else "synthetic"
    recipe: Recipe = chosen.recipe if chosen.recipe in get_args(Recipe) else "tuned"
    default = TrainOptions(preset(dataset, recipe))
    if chosen.help and not chosen.help_all:
        print(short_help(default))
        raise SystemExit(0)
    return tyro.cli(
        Annotated[TrainOptions, tyro.conf.arg(name="")],
        prog="python -m crrl.train",
        args=["--help"] if chosen.help_all else arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def check_resume(arguments: list[str]) -> None:
    """Check that --resume comes without options of the run's own configuration.

    Raises:
        CrrlError: it comes with one.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--resume")
    known.add_argument("--device")
    known.add_argument("--evaluate", action=argparse.BooleanOptionalAction)
    found, others = known.parse_known_args(arguments)
    if found.resume is not None and others and not {"-h", "--help", "--help-all"} & set(others):
        raise CrrlError(
            f"--resume uses the run's own configuration: remove {others[0]}; only --device and "
            "--evaluate can be given with it"
        )


def short_help(default: TrainOptions) -> str:
    """The text of --help: the options of FIRST, one per line."""
    values = dict(_leaves(asdict(default)))
    lines = ["usage: python -m crrl.train [options]", "", (TrainOptions.__doc__ or "").split(". ")[0] + ":", ""]
    for name, said in FIRST.items():
        value = "" if values[name] is None or isinstance(values[name], bool) else f" ({values[name]})"
        lines.append(f"  --{name.replace('_', '-'):12} {said}{value}")
    shown = f"--dataset {default.config.dataset} --recipe {default.config.recipe}"
    return "\n".join([*lines, "", f"In brackets: the defaults of {shown}. --help-all lists every setting."])


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield from _leaves(value) if isinstance(value, dict) else [(name, value)]


def open_run(options: TrainOptions) -> tuple[RunFolder, Config]:
    """The run folder, new (not made yet) or to resume, and its configuration.

    Raises:
        CrrlError: the folder is unusable, or several processes are given none.
    """
    config = options.config
    if not (options.out or options.resume) and environment_number("WORLD_SIZE", 1) > 1:
        raise CrrlError("several processes need one run folder: give --out FOLDER")
    out = options.out or new_folder(config)
    folder = str(options.resume or out)
    if folder.encode(errors="ignore").decode() != folder:  # TensorBoard accepts no other names
        raise CrrlError(f"the folder {folder!r} has a name that is not valid UTF-8: rename it, or set LC_ALL")
    if options.resume is not None:
        run = RunFolder(options.resume)
        return run, replace(run.config(), device=config.device)
    run = RunFolder(out)
    if run.in_use():
        again = command("train", "--resume", run.path)
        raise CrrlError(f"{run.path} already holds a run: resume it by {again}, or give another --out")
    return run, replace(config, data=absolute(config.data), teacher=absolute(config.teacher))


def new_folder(config: Config) -> Path:
    """runs/DATASET-TIME, with the folder's name as DATASET for the user's own clips."""
    own = config.dataset in NAMED_BY_FOLDER and config.data is not None
    name = config.data.absolute().name if own and config.data else config.dataset
    return Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def absolute(path: Path | None) -> Path | None:
    """The absolute path, which holds in other working folders too."""
    return None if path is None else path.absolute()


def print_backends(config: Config, device: torch.device) -> None:
    """Print a table: each operator (and decoder and whole step), the backend chosen, and why."""
    case = ops.Case(device.type, torch.float32, device.index, config.encoder.hidden_size)
    narrow = replace(case, dtype=torch.bfloat16)  # autocast makes only the products bfloat16
    choices = {row[0]: row for row in ops.choices(case)}
    if config.precision == "bf16":
        choices["gru_layer"] = next(row for row in ops.choices(narrow) if row[0] == "gru_layer")
    paths = [(name, *choice) for name, choice in fast_paths(config, device).items()]
    for row in [("operator", "backend", "why"), *choices.values(), *paths]:
        print("  {:14} {:10} {}".format(*row))


def set_up_process(device: torch.device) -> None:
    """Change settings of the whole process for faster training; of the results, only denormals change."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_flush_denormal(True)
        cpu.keep_memory()


def score(run: RunFolder, device: torch.device) -> None:
    """Print the accuracy, or why there is none, and log it to TensorBoard."""
    try:
        tables = evaluate(run, EvaluateOptions(run.path, ("logistic", "knn")), device).values()
    except NothingToScore as reason:
        print(f"not scored: {reason}")
        return
    rows = {row: tests["all"] for table in tables for row, tests in table.items()}
    accuracies = {f"accuracy/{row.replace(', ', '/').replace(' ', '_')}": value for row, (value,) in rows.items()}
    log_outcome(run, dict(_leaves(run.config().to_dict())), accuracies)


def report(run: RunFolder, device: torch.device, scored: bool) -> int:
    """Print where the trained encoder is, its accuracy if `scored`, and commands that may come next; returns 0."""
    print(f"trained encoder: {run.encoder_path}")
    if scored:
        score(run, device)
    else:
        print(f"its accuracy:    {command('evaluate', run.path)}")
    print(f"report of it:    {command('report', run.path, '--out', run.path / 'report.html')}")
    print(f"its features:    {command('embed', run.path, 'CLIPS', '--out', 'features.npz')}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code: 0, 2 if one of several runs failed, or 128 + N after signal N."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if BETWEEN in arguments:
        return side_by_side(arguments)
    options = parse(arguments)
    run, config = open_run(options)
    device = choose_device(config.device)
    if run.encoder_path.exists():
        load_encoder(run.encoder_path)  # raises if it is damaged
        return report(run, device, options.evaluate)
    set_up_process(device)
    with connect(device) as ranks, ops.use_backends("auto" if config.fused else "reference"):
        ranks.wait()  # every rank has checked the run folder before it is made
        try:
            for _ in train(run, config, device, ranks):
                pass
        except Interrupted as stop:
            if ranks.rank == 0:
                print(f"stopped by {stop}; resume with: {command('train', '--resume', run.path)}", file=sys.stderr)
            return 128 + stop.signum
    return report(run, device, options.evaluate) if ranks.rank == 0 else 0


def side_by_side(arguments: list[str]) -> int:
    """Train the runs whose options stand between BETWEEN in turns; returns the exit code, as `main` does.

    What a run prints while it trains goes to train.log in its folder.

    Raises:
        CrrlError: a run folder cannot be used or is not named, or the runs differ in what holds for the whole process.
    """
    cuts = [-1, *(place for place, word in enumerate(arguments) if word == BETWEEN), len(arguments)]
    options = [parse(arguments[start + 1 : end]) for start, end in pairwise(cuts)]
    if environment_number("WORLD_SIZE", 1) > 1 or not all(each.out or each.resume for each in options):
        raise CrrlError("runs that train side by side need --out or --resume each, and one process: no torchrun")
    runs = [open_run(each) for each in options]
    if len({(config.device, config.fused) for _, config in runs}) > 1:
        raise CrrlError("runs that train side by side share one device and its backends: give all the same --device, "
                        "and to all or none --no-fused")  # fmt: skip
    device, failures, read = choose_device(runs[0][1].device), dict[Path, str](), cache(prepare)
    set_up_process(device)
    backends = ops.use_backends("auto" if runs[0][1].fused else "reference")
    with ExitStack() as logs, backends, gru.side_by_side(len(runs)):
        turns = {
            Turns(
                train(run, config, device, Ranks(), len(runs), read), device, logs.enter_context(log_of(run))
            ): run.path
            for run, config in runs
            if not run.encoder_path.exists()
        }

        def failed(turn: Turns, error: Exception) -> None:
            line = explained(error)
            if line is None:
                traceback.print_exception(error, file=turn.log)
            failures[turns[turn]] = line or repr(error)
            print(f"error: {failures[turns[turn]]}", file=turn.log)

        try:
            take_turns(list(turns), failed)
        except Interrupted as stop:
            print(f"stopped by {stop}; resume each with: {command('train', '--resume', 'FOLDER')}", file=sys.stderr)
            return 128 + stop.signum
    for (run, _), own in zip(runs, options, strict=True):
        if run.path not in failures:
            report(run, device, own.evaluate)
    for path, line in failures.items():
        print(f"failed: {path}: {line}", file=sys.stderr)
    return 2 if failures else 0


def log_of(run: RunFolder) -> Patient:
    """The file train.log in the run folder, which is made if missing, empty and open for writing."""
    path = run.path / "train.log"
    with explain_os_errors(path, "write"):
        run.path.mkdir(parents=True, exist_ok=True)
        raw = open(open_own(path, os.O_WRONLY | os.O_TRUNC), "wb", buffering=0)  # noqa: SIM115
        return Patient(raw, "utf-8", "backslashreplace", write_through=True)


def train(
    run: RunFolder,
    config: Config,
    device: torch.device,
    ranks: Ranks,
    together: int = 1,
    read: Callable[..., Prepared] = prepare,
) -> Generator[None, None, None]:
    """Train in the run folder, and yield after each step; rank 0 prepares the data first, prints, and makes the folder.

    Args:
        together: runs that share the device. read: `prepare`, or what knows the sets that another run has prepared.
    """
    if ranks.rank == 0 and cpu.missing:
        print(f"note: {cpu.missing}", file=sys.stderr)
    with ranks.first():
        prepared = read(config.dataset, config.data, config.split_name, config.preprocessing)
    trainer = Trainer(config, run, prepared, device, ranks, together)
    if ranks.rank > 0:
        yield from trainer.train()
        return
    with run.lock():
        claim(run, config)
        warn_of_classes(prepared.clips, [config.split_name])
        print_plan(run, config, prepared, trainer)
        if config.fused:
            print_backends(config, device)
        if config.turn_yaw == "auto":
            print(
                f"clips are turned by {trainer.yaw:.0f} degrees, by the spread of their facing directions (--turn-yaw)"
            )
        yield from trainer.train()
        write_card(run)


def print_plan(run: RunFolder, config: Config, prepared: Prepared, trainer: Trainer) -> None:
    """Print the method, the data, the run folder and the expected time."""
    split = prepared.clips.split(config.split_name)
    tested = sum(map(len, split.test.values()))
    print(f"{config.method}, recipe {config.recipe}, on {config.dataset}, {config.split_name}:")
    labels = "" if prepared.clips.class_names else ", without labels"
    print(f"  {len(split.train)} clips to train on, {tested or 'none'} to test{labels}; the run is kept in {run.path}")
    if not run.checkpoint_path.exists() and (seconds := trainer.expected_seconds()):
        print(f"  for about {math.ceil(seconds / 60)} min, estimated from a few steps of each phase")


def claim(run: RunFolder, config: Config) -> None:
    """Write config.json into a new run folder; check that an existing one is this run's.

    Raises:
        CrrlError: another process has begun another run there meanwhile.
    """
    if not run.config_path.exists():
        run.create(config)
    elif replace(run.config(), device=config.device) != config:
        raise CrrlError(f"another process has started a run in {run.path} meanwhile: give another --out")


if __name__ == "__main__":
    sys.exit(run_command(main))
