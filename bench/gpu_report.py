"""The rows and stages of a run on a GPU as gpu.json and gpu.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gpu_rows import GpuRow, Stage
from bench.report import table
from bench.rows import spread

COPY = "device-to-device copy"
"""The group whose first row gives the bandwidth that floors are computed with."""

ERRORS_OF = ("GRU encoder", "both GRU encoders")
ERRORS = """The norm of the difference over the norm of the truth, the largest of all results of a call."""

INTRODUCTION = """# GPU bench

Written by `make bench-gpu`. Figures are microseconds of one call: the median of series of calls, each between two
waits for the device, peers in turns, in one process for each group of rows. A series of eager calls has in it what the
host takes to launch them, as it would for a user; "graph replay" and "captured" are replays of a CUDA graph. Every
contender was checked for parity on fresh random inputs before it was timed. Rows of training steps run float32 GRUs as
PyTorch does by default, in TF32, and are checked for being right, not for being exact; those of the GRU encoder say how
far each is from float64, and ours may be off by three times what cuDNN is.

The floor of a row is the bytes that a call must move, each input read once and each output written once, over the
bandwidth of a large copy measured in this run. Rows that memory bounds go through several sets of inputs, so that a
cache does not hold them. "predicted" are microseconds written down before this code had been on any card."""


def bandwidth(rows: Sequence[GpuRow]) -> float | None:
    """Bytes per second, read and written, of the measured copy."""
    for row in rows:
        if row.group == COPY and row.calls_ms and row.bytes:
            return row.bytes / (row.median_us()[row.ours()] / 1e6)
    return None


def as_json(machine: dict[str, Any], stages: Sequence[Stage], rows: Sequence[GpuRow]) -> str:
    """Everything; the calls as median, quartiles and count."""
    speed = bandwidth(rows)
    whole = {
        **machine,
        "copy_bytes_per_second": speed,
        "stages": [asdict(stage) for stage in stages],
        "rows": [_row_json(row, speed) for row in rows],
    }
    return json.dumps(whole, indent=1)


def _row_json(row: GpuRow, speed: float | None) -> dict[str, Any]:
    contenders = {}
    for name, calls in row.calls_ms.items():
        figures = spread([1e3 * call for call in calls], "us")
        contenders[name] = {key: float(f"{value:.5g}") for key, value in figures.items()}
        contenders[name]["series"] = len(calls)
    bars = [{**asdict(bar), "reached": row.reached(bar, speed), "holds": row.holds(bar, speed)} for bar in row.bars]
    names = ("group", "title", "bytes", "predicted_us", "errors", "absent", "refused", "failed")
    kept = {name: getattr(row, name) for name in names}
    return {**kept, "floor_us": row.floor_us(speed), "bars": bars, "contenders": contenders}


def as_markdown(machine: dict[str, Any], stages: Sequence[Stage], rows: Sequence[GpuRow]) -> str:
    """The machine, the stages, the bars, a table for each group, and what could not be timed."""
    speed, timed = bandwidth(rows), [row for row in rows if row.calls_ms]
    copied = "not measured" if speed is None else f"{speed / 1e12:.2f} TB/s, read + written"
    facts = [[key, "not known" if value is None else str(value)] for key, value in machine.items()]
    parts = [INTRODUCTION, table(["machine", ""], [*facts, ["copy bandwidth", copied]])]
    parts += ["## Stages", _stages_table(stages)]
    if any(row.bars for row in rows):
        parts += ["## Bars", _bars_table(rows, speed)]
    for group in dict.fromkeys(row.group for row in timed):
        members = [row for row in timed if row.group == group]
        parts += [f"## {group}", _group_table(members, speed)]
    if compared := [row for row in rows if len(row.errors) > 1 and row.group.startswith(ERRORS_OF)]:
        parts += ["## Errors against float64", ERRORS, _errors_table(compared)]
    parts += _not_timed(rows)
    for stage in stages:
        if stage.said:
            parts += [f"## What {stage.name} printed", _quoted(stage.said)]
        if stage.passed is False and stage.tail and stage.tail != stage.said:
            parts += [f"## The end of what {stage.name} printed", _quoted(stage.tail)]
    return "\n\n".join(parts) + "\n"


def _quoted(output: str) -> str:
    return f"```\n{output.replace('```', '').rstrip()}\n```"


def _stages_table(stages: Sequence[Stage]) -> str:
    lines = [[s.name, s.verdict, f"{s.seconds:.0f}", s.detail.replace("|", "/") or "–"] for s in stages]
    return table(["stage", "verdict", "seconds", "found"], lines)


def _bars_table(rows: Sequence[GpuRow], speed: float | None) -> str:
    lines = []
    for row in rows:
        for bar in row.bars:
            reached, holds = row.reached(bar, speed), row.holds(bar, speed)
            verdict = "not known" if holds is None else "reached" if holds else "**missed**"
            found = "–" if reached is None else bar.figure(reached)
            lines.append([f"{row.group}: {row.title}", bar.contender, str(bar), found, verdict])
    return table(["", "who", "bar", "found", "verdict"], lines)


def _group_table(rows: Sequence[GpuRow], speed: float | None) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.calls_ms))
    head = ["", *(f"{name}, µs" for name in names), "floor, µs", "first ÷ floor", "predicted, µs", "first ÷ predicted"]
    lines = []
    for row in rows:
        medians, floor, ours = row.median_us(), row.floor_us(speed), row.median_us()[row.ours()]
        figures = [microseconds(medians.get(name)) for name in names]
        foreseen = [microseconds(row.predicted_us), ratio(ours, row.predicted_us)]
        lines.append([row.title, *figures, microseconds(floor), ratio(ours, floor), *foreseen])
    return table(head, lines)


def _errors_table(rows: Sequence[GpuRow]) -> str:
    lines = []
    for row in rows:
        (ours, error), *others = row.errors.items()
        found = ", ".join(f"{name} {value:.1e}" for name, value in others)
        lines.append(
            [f"{row.group}: {row.title}", ours, f"{error:.1e}", found, "**refused**" if row.refused else "right"]
        )
    return table(["", "ours", "error", "the others", "verdict"], lines)


def microseconds(value: float | None) -> str:
    """Three figures or more."""
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float, of: float | None) -> str:
    return f"{value / of:.2f}×" if of else "–"


def _not_timed(rows: Sequence[GpuRow]) -> list[str]:
    """Sections on what was wrong, what was absent and what broke."""
    parts = []
    if refused := [row for row in rows if row.refused]:
        parts += ["## Refused: not right, so not timed", _list((row, str(row.refused)) for row in refused)]
    absent = [(row, f"{name}: {reason}") for row in rows for name, reason in row.absent.items()]
    if absent:
        parts += ["## Absent", _list(absent)]
    if failed := [row for row in rows if row.failed]:
        parts += ["## Failed", _list((row, str(row.failed)) for row in failed)]
    return parts


def _list(items: Any) -> str:
    return "\n".join(f"- {row.group}, {row.title}: {text}" for row, text in items)


def write(folder: Path, machine: dict[str, Any], stages: Sequence[Stage], rows: Sequence[GpuRow]) -> None:
    """gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(as_json(machine, stages, rows) + "\n")
    (folder / "gpu.md").write_text(as_markdown(machine, stages, rows))
