"""The rows of a run as JSON, as Markdown tables and as a plot of ratios."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.plot import as_svg
from bench.rows import Row, spread


def as_json(machine: dict[str, Any], peaks: dict[str, float], rows: Sequence[Row]) -> str:
    """Everything, the calls as median, quartiles and count."""
    return json.dumps(
        {**machine, "peak_gflops": _rounded(peaks), "rows": [_row_json(r, peaks) for r in rows]}, indent=1
    )


def _row_json(row: Row, peaks: dict[str, float]) -> dict[str, Any]:
    peers = {}
    for name, calls in row.calls_ms.items():
        shares = {"gflops": row.gflops(name), "percent_of_peak": row.percent_of_peak(name, peaks)}
        peers[name] = {**_rounded({**spread(calls, "ms"), **shares}), "calls": len(calls)}
    best = row.best_peer() if row.calls_ms else None
    kept = {key: value for key, value in asdict(row).items() if key not in ("rank", "calls_ms")}
    errors = {name: float(f"{error:.2g}") for name, error in row.errors.items()}
    ratio = row.times_as_fast(best) if best else None
    return {**kept, "errors": errors, "peers": peers, "best_peer": best, "times_as_fast": ratio and round(ratio, 3)}


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}


def as_markdown(machine: dict[str, Any], peaks: dict[str, float], rows: Sequence[Row]) -> str:
    """Where others are faster, the headline rows, a table for each group, then who was absent and why."""
    timed = [row for row in rows if row.calls_ms]
    parts = [INTRODUCTION, _machine_table(machine, peaks)]
    if lost := [row for row in timed if (row.times_as_fast(row.best_peer()) or 1) < 1]:
        parts += ["## Where others are faster", _lost(lost)]
    if bars := [row for row in timed if row.bar]:
        parts += ["## Headlines", _headlines(bars, peaks), "![times as fast as the best peer](cpu.svg)"]
    for group in dict.fromkeys(row.group for row in timed):
        parts += [f"## {group}", _group_table([row for row in timed if row.group == group], peaks)]
    if refused := [row for row in rows if row.refused]:
        parts += ["## Refused: not right, so not timed", *(f"- {r.group}, {r.title}: {r.refused}" for r in refused)]
    if absent := _absent_lines(rows):
        parts += ["## Absent", "\n".join(absent)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# CPU bench

Written by `make bench` or `make bench-avx2`. Every row was checked for parity first: float32 and bf16 results and
gradients against torch.nn.GRU in float64. All peers ran on the same number of threads, in turns, in one process;
figures are medians of single calls. Forward is without gradients; forward + backward gives the gradients of the input
and of all weights. FLOP are those of the matrix products, on valid frames only; a peak is what the processor's unit
was measured to reach in this run, for bf16 that of its best bf16 unit. A ratio above 1 means that crrl is faster.

Unless a row says otherwise the GRU has 2 layers, both directions, 256 units and 150 inputs (NTU's), over 60 frames."""


def _machine_table(machine: dict[str, Any], peaks: dict[str, float]) -> str:
    facts = [(key, value) for key, value in machine.items() if not isinstance(value, dict)]
    facts += [
        (f"{key}, {name}", text)
        for key, value in machine.items()
        if isinstance(value, dict)
        for name, text in value.items()
    ]
    facts += [(f"peak, {unit}", f"{gflops:.0f} GFLOP/s") for unit, gflops in peaks.items()]
    return table(
        ["machine", ""], [[str(key), "not installed" if value is None else str(value)] for key, value in facts]
    )


def _lost(rows: Sequence[Row]) -> str:
    """The rows in which a peer is faster, the worst first."""
    lines = []
    for row in sorted(rows, key=lambda row: row.times_as_fast(row.best_peer()) or 1):
        lines.append([f"{row.group}: {row.title}", f"{row.median_ms()[row.ours()]:.2f}", _best(row, row.best_peer())])
    return table(["", "crrl, ms", "best peer, crrl is"], lines)


def _headlines(rows: Sequence[Row], peaks: dict[str, float]) -> str:
    lines = []
    for row in rows:
        name, bar, best = row.ours(), row.bar or "", row.best_peer()
        ratio = row.times_as_fast(bar)
        versus = [f"{bar} {row.median_ms()[bar]:.2f}", f"**{ratio:.2f}×**"] if ratio else [f"{bar} (absent)", "–"]
        lines.append([f"{row.group}: {row.title}", *_figures(row, name, peaks), *versus, _best(row, best)])
    return table(["", "crrl, ms", "GFLOP/s", "% of peak", "to beat, ms", "crrl is", "best peer"], lines)


def _group_table(rows: Sequence[Row], peaks: dict[str, float]) -> str:
    ours = rows[0].ours()
    peers = list(dict.fromkeys(name for row in rows for name in row.calls_ms if name != ours))
    lines = []
    for row in rows:
        medians = row.median_ms()
        others = [f"{medians[name]:.2f}" if name in medians else "–" for name in peers]
        lines.append([row.title, *_figures(row, ours, peaks), *others, _best(row, row.best_peer())])
    return table(["", f"{ours}, ms", "GFLOP/s", "% of peak", *(f"{name}, ms" for name in peers), "best peer"], lines)


def _figures(row: Row, name: str, peaks: dict[str, float]) -> list[str]:
    """Median ms, GFLOP/s and % of peak."""
    gflops, percent = row.gflops(name), row.percent_of_peak(name, peaks)
    known = ["–" if gflops is None else f"{gflops:.0f}", "–" if percent is None else f"{percent:.0f}"]
    return [f"{row.median_ms()[name]:.2f}", *known]


def _best(row: Row, best: str | None) -> str:
    ratio = row.times_as_fast(best)
    return f"{best} {ratio:.2f}×" if ratio else "–"


def _absent_lines(rows: Sequence[Row]) -> list[str]:
    """One line for each peer and reason, with the rows it holds for."""
    where: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, reason in row.absent.items():
            where[name, reason][row.group].append(row.title)
    lines = []
    for (name, reason), groups in where.items():
        lines.append(f"- **{name}**: {reason}. In: {'; '.join(_named(rows, *item) for item in groups.items())}.")
    return lines


def _named(rows: Sequence[Row], group: str, titles: Sequence[str]) -> str:
    """These rows of a group; by its name alone where they are all of it."""
    all_of_it = len(titles) == sum(row.group == group for row in rows)
    return group if all_of_it else f"{group} ({'; '.join(titles)})"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def write(folder: Path, machine: dict[str, Any], peaks: dict[str, float], rows: Sequence[Row]) -> None:
    """cpu.json, cpu.md and cpu.svg, the rows by group and by their place in it, in whichever order they ran."""
    groups = list(dict.fromkeys(row.group for row in rows))
    rows = sorted(rows, key=lambda row: (groups.index(row.group), row.rank))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.json").write_text(as_json(machine, peaks, rows) + "\n")
    (folder / "cpu.md").write_text(as_markdown(machine, peaks, rows))
    (folder / "cpu.svg").write_text(as_svg(rows))
