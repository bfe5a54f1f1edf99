"""The command `python -m crrl.evaluate`: score a run's encoder, with a random encoder beside it."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch
import tyro

from crrl.config import choose_device
from crrl.errors import run_command
from crrl.files import write_json
from crrl.protocols import FROZEN, ONLY_WITH, EvaluateOptions, Evaluation, Protocol, Rows
from crrl.runs import RunFolder


def write(work: Evaluation, protocol: Protocol, rows: Rows) -> None:
    """Keep a protocol's rows in the run folder as JSON; of a transfer, or of other features, in a file of their own."""
    config, target, options = work.config, work.target, work.options
    means = {row: {test: statistics.mean(v) for test, v in values.items()} for row, values in rows.items()}
    report: dict[str, Any] = {
        "protocol": protocol,
        "dataset": target.dataset,
        "split": target.split,
        "pretrained_on": {"dataset": config.dataset, "split": config.split_name},
        "settings": {name: getattr(options, name) for name, used in ONLY_WITH.items() if protocol in used},
        f"{measure(protocol)[1]}_percent": means,
        "test_clips": work.sizes(),
    }
    if any(len(values) > 1 for tests in rows.values() for values in tests.values()):
        report["draws"] = rows
    suffix = f"-{target.dataset}-{target.split}" if options.transfer else ""
    suffix += f"-features-{options.features}" if options.features and protocol in FROZEN else ""
    write_json(work.run.path / f"evaluation-{protocol}{suffix}.json", report)


def table(work: Evaluation, protocol: Protocol, rows: Rows) -> str:
    """A protocol's rows as text; of several draws the mean and the standard deviation."""
    config, target = work.config, work.target
    title = f"{target.dataset}, {target.split}: {measure(protocol)[0]}, % ({protocol})"
    lines = [f"pretrained on {config.dataset}, {config.split_name}"] if work.options.transfer else []
    if work.options.features and protocol in FROZEN:
        lines.append(f"features of recipe {work.options.features}")
    width = max(48, len(title) + 2, *(len(row) + 4 for row in rows))
    sizes = [f"{name} ({size})" for name, size in work.sizes().items()]
    lines.append(f"{title:{width}}" + "".join(f"{size:>14}" for size in sizes))
    for row, values in rows.items():
        lines.append(f"  {row:{width - 2}}" + "".join(f"{cell(values[name]):>14}" for name in work.tests))
    return "\n".join(lines)


def measure(protocol: Protocol) -> tuple[str, str]:
    """What a protocol measures, in words and as a key."""
    return ("mean average precision", "map") if protocol == "retrieval" else ("accuracy", "accuracy")


def cell(values: list[float]) -> str:
    """The mean of the draws, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def evaluate(run: RunFolder, options: EvaluateOptions, device: torch.device) -> dict[Protocol, Rows]:
    """Print the tables of all protocols asked for, and keep each as evaluation-PROTOCOL.json in the run folder.

    Raises:
        CrrlError: there is no finished run, the clips do not fit it, or fine-tuning is no longer finite.
    """
    options.fine_tuning()  # says what is wrong with its settings before anything is computed
    work = Evaluation(run, options, device)
    results: dict[Protocol, Rows] = {}
    for protocol in options.protocols:
        results[protocol] = work.rows(protocol)
        write(work, protocol, results[protocol])
        print(table(work, protocol, results[protocol]))
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
