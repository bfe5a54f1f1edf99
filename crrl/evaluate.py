"""The command `python -m crrl.evaluate`: score a run's encoder, beside floors that need no pretraining."""

from __future__ import annotations

import re
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import tyro

from crrl.card import write_card
from crrl.config import Config
from crrl.device import choose_device
from crrl.errors import run_command
from crrl.evaluation.protocols import (
    BEST,
    FROZEN,
    LAST,
    ONLY_WITH,
    RANDOM,
    RAW,
    EvaluateOptions,
    Evaluation,
    NothingToScore,
    Outcome,
    Protocol,
    Rows,
)
from crrl.files import read_json, write_json
from crrl.runs import RunFolder


def write(work: Evaluation, protocol: Protocol, outcome: Outcome) -> None:
    """Write a protocol's rows to the run folder as JSON, in a separate file for each choice of its options."""
    config, target, options, rows = work.config, work.target, work.options, outcome.rows
    means = {row: {test: statistics.mean(v) for test, v in values.items()} for row, values in rows.items()}
    asked = {name: getattr(options, name) for name, used in ONLY_WITH.items() if protocol in used}
    report: dict[str, Any] = {
        "protocol": protocol,
        "dataset": target.dataset,
        "split": target.split,
        "pretrained_on": {"dataset": config.dataset, "split": config.split_name},
        "settings": asked | outcome.settled,
        f"{measure(protocol)[1]}_percent": means,
        "test_clips": work.sizes(),
    }
    if work.seen is not None:
        report["test_clips_trained_on"] = work.seen
    if any(len(values) > 1 for tests in rows.values() for values in tests.values()):
        report["draws"] = rows
    if options.transfer and target.folder:
        report["data"] = str(target.folder)
    write_json(evaluation_path(work, protocol), report)


def evaluation_path(work: Evaluation, protocol: Protocol) -> Path:
    """The file of a protocol's rows; its name has the options that are not the defaults, and a transfer's data."""
    options, target = work.options, work.target
    words = ["evaluation", protocol]
    for option, value in options.changed().items():
        if protocol in ONLY_WITH[option]:
            values = map(str, value if isinstance(value, tuple) else (value,))
            words += [*([] if option == "neighbours" else [option.replace("_", "-")]), *values]
    if options.transfer:
        words += [target.dataset, target.split]
    path = work.run.path / "-".join(words)
    if options.transfer and target.folder:
        path = apart(path, target.folder)
    return path.with_name(f"{path.name}.json")


def apart(path: Path, folder: Path) -> Path:
    """`path` with the folder's name, and as many parents as tell it apart from folders that were tested before."""
    for count in range(1, len(folder.parts) + 1):
        said = re.sub(r"[^\w.-]+", "-", "-".join(folder.parts[-count:]))
        longer = path.with_name(f"{path.name}-{said}")
        file = path.with_name(f"{longer.name}.json")
        if not file.exists() or is_of(read_json(file), folder):
            break
    return longer


def is_of(report: Any, folder: Path) -> bool:
    """Whether an evaluation's report is about the clips in `folder`."""
    return isinstance(report, dict) and report.get("data") == str(folder)


def table(work: Evaluation, protocol: Protocol, outcome: Outcome) -> str:
    """A protocol's rows as text, over several draws mean and standard deviation; and the settings that it chose."""
    config, target = work.config, work.target
    title = f"{target.dataset}, {target.split}: {measure(protocol)[0]}, % ({protocol})"
    lines = [f"pretrained on {config.dataset}, {config.split_name}"] if work.options.transfer else []
    if work.options.features and protocol in FROZEN:
        lines.append(f"features of recipe {work.options.features}")
    width = max(48, len(title) + 2, *(len(row) + 4 for row in outcome.rows))
    sizes = [f"{name} ({size})" for name, size in work.sizes().items()]
    lines.append(f"{title:{width}}" + "".join(f"{size:>14}" for size in sizes))
    for row, values in outcome.rows.items():
        lines.append(f"  {row:{width - 2}}" + "".join(f"{cell(values[name]):>14}" for name in work.tests))
    for setting, chosen in outcome.settled.items():
        said = ", ".join(f"{value:g} for {what}" for what, value in chosen.items())
        lines.append(f"{setting.replace('_', ' ')}: {said}")
    return "\n".join(lines)


def measure(protocol: Protocol) -> tuple[str, str]:
    """What a protocol measures: in words, and as a key of the JSON file."""
    return ("mean average precision", "map") if protocol == "retrieval" else ("accuracy", "accuracy")


def cell(values: list[float]) -> str:
    """The mean of the draws, with their standard deviation if there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def note(work: Evaluation) -> None:
    """Warn of what limits the meaning of the tables: clips already trained on, and missing or single classes."""
    if work.seen:
        warnings.warn(
            f"{work.seen} of {len(work.tested)} test clips are training clips of the run: its encoder has seen them, "
            "though no labels, and their accuracy says less about new clips",
            stacklevel=2,
        )
    if len(work.class_names) == 1:
        warnings.warn("all clips are of one class, so that their accuracy says nothing", stacklevel=2)
    if classes := work.untrained_classes():
        print(f"classes of test clips without a training clip: {', '.join(classes)}; they score 0")


def shortfall(config: Config, rows: Rows) -> str | None:
    """A line that says by how much the run's encoder is below a floor, by the headline; None if it is not."""
    start, found = f"{config.method}, ", []
    for row, values in rows.items():
        if not row.startswith(start) or row.endswith(BEST):
            continue
        reading = row.removeprefix(start)
        labels = f" with {reading.removesuffix(f', {LAST}')}" if reading.endswith(f", {LAST}") else ""
        for floor in (RANDOM, RAW):
            beside = rows.get(f"{floor}, {reading}", values)["all"]
            less = f"{statistics.mean(beside) - statistics.mean(values['all']):.1f}"
            if float(less) > 0:
                found.append(f"{less} points below {floor}{labels}")
    return f"{config.method} is {', '.join(found)}: {advice(config)}" if found else None


def advice(config: Config) -> str:
    """What to try if an encoder is below a floor."""
    if config.recipe == "paper":
        return "try --recipe tuned"
    return "try more epochs (--epochs-cml), or less turning (--turn-yaw)"


def evaluate(run: RunFolder, options: EvaluateOptions, device: torch.device) -> dict[Protocol, Rows]:
    """Print the table of each chosen protocol; keep it in the run folder, as evaluation-PROTOCOL.json and in the
    model card, and keep the run's classifier.

    Raises:
        CrrlError: the run is not finished, the clips do not fit it, or fine-tuning is not finite.
        NothingToScore: the clips have no labels, or none of them is a test clip.
    """
    options.fine_tuning()  # reports bad settings before anything is computed
    run.config()  # reports a missing run before its folder is made and locked
    with run.lock(shared=True):
        return _evaluate(Evaluation(run, options, device))


def _evaluate(work: Evaluation) -> dict[Protocol, Rows]:
    if missing := work.missing():
        raise NothingToScore(missing)
    note(work)
    results: dict[Protocol, Rows] = {}
    for protocol in work.options.protocols:
        outcome = work.outcome(protocol)
        write(work, protocol, outcome)
        print(table(work, protocol, outcome))
        if work.keep_classifier(protocol, outcome):
            print(f"its classifier: {work.run.classifier_path}")
        if line := shortfall(work.config, outcome.rows):
            print(line)
        results[protocol] = outcome.rows
    write_card(work.run)
    return results


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and print a table for each protocol."""
    options = tyro.cli(EvaluateOptions, prog="python -m crrl.evaluate", args=arguments)
    run = RunFolder(options.run)
    evaluate(run, options, choose_device(options.device))
    print(f"encoder: {run.encoder_path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
