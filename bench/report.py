"""The rows of a run, on a CPU or a GPU, as JSON, as Markdown tables and, of a CPU, as a picture of ratios in SVG."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from bench.rows import CRRL, Row, Stage, spread

COPY = "device-to-device copy"
"""The group whose first row gives the bandwidth that floors are computed with."""

ERRORS_OF = ("GRU encoder", "both GRU encoders")
ERRORS = """The norm of the difference over the norm of the truth, the largest of all results of a call."""

INTRODUCTIONS = {
    "cpu": """# CPU bench

Written by `make bench` or `make bench-avx2`. Every row was checked for parity first: float32 and bf16 results and
gradients against torch.nn.GRU in float64. All peers ran on the same number of threads, in turns, in one process;
figures are medians of single calls. Forward is without gradients; forward + backward gives the gradients of the input
and of all weights. FLOP are those of the matrix products, on valid frames only; a peak is what the processor's unit
was measured to reach in this run, for bf16 that of its best bf16 unit. A ratio above 1 means that crrl is faster.

Unless a row says otherwise the GRU has 2 layers, both directions, 256 units and 150 inputs (NTU's), over 60 frames.""",
    "gpu": """# GPU bench

Written by `make bench-gpu`. Figures are microseconds of one call: the median of series of calls, each between two
waits for the device, peers in turns, in one process for each group of rows. A series of eager calls has in it what the
host takes to launch them, as it would for a user; "graph replay" and "captured" are replays of a CUDA graph. Every
contender was checked for parity on fresh random inputs before it was timed. Rows of training steps run float32 GRUs as
PyTorch does by default, in TF32, and are checked for being right, not for being exact; those of the GRU encoder say how
far each is from float64, and ours may be off by three times what cuDNN is.

The floor of a row is the bytes that a call must move, each input read once and each output written once, over the
bandwidth of a large copy measured in this run. Rows that memory bounds go through several sets of inputs, so that a
cache does not hold them. "predicted" are microseconds written down before this code had been on any card.""",
}
UNITS = {"cpu": ("ms", 1.0), "gpu": ("us", 1e3)}
"""Of the figures on a page, and how many of it are a ms."""


@dataclass
class Page:
    """What a run has found.

    Attributes:
        device: "cpu" or "gpu". machine: what it ran on. rows: in any order. peaks: GFLOP/s by the CPU's unit.
        stages: of the check on a GPU.
    """

    device: str
    machine: Mapping[str, Any]
    rows: Sequence[Row]
    peaks: dict[str, float] = field(default_factory=dict)
    stages: Sequence[Stage] = ()

    def __post_init__(self) -> None:
        groups = list(dict.fromkeys(row.group for row in self.rows))
        self.rows = sorted(self.rows, key=lambda row: (groups.index(row.group), row.rank))
        # On a CPU all is said beside ours: without them a row has nothing to say.
        self.timed = [row for row in self.rows if (CRRL in row.calls_ms if self.device == "cpu" else row.calls_ms)]
        self.unit, self.per_ms = UNITS[self.device]
        self.speed = bandwidth(self.rows)

    def medians(self, row: Row) -> dict[str, float]:
        """In the page's unit."""
        return {name: self.per_ms * median for name, median in row.median_ms().items()}

    def write(self, folder: Path) -> None:
        """cpu.json, cpu.md and cpu.svg, or gpu.json and gpu.md."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.device}.json").write_text(as_json(self) + "\n")
        (folder / f"{self.device}.md").write_text(as_markdown(self))
        if self.device == "cpu":
            (folder / "cpu.svg").write_text(as_svg(self.timed))


def bandwidth(rows: Sequence[Row]) -> float | None:
    """Bytes per second, read and written, of the measured copy."""
    for row in rows:
        if row.group == COPY and row.calls_ms and row.bytes:
            return row.bytes / (row.median_us()[row.ours()] / 1e6)
    return None


def as_json(page: Page) -> str:
    """Everything; the calls as median, quartiles and count."""
    whole = {
        **page.machine,
        "peak_gflops": _rounded(page.peaks),
        "copy_bytes_per_second": page.speed,
        "stages": [asdict(stage) for stage in page.stages],
        "rows": [_row_json(row, page) for row in page.rows],
    }
    return json.dumps(whole, indent=1)


def _row_json(row: Row, page: Page) -> dict[str, Any]:
    contenders = {}
    for name, calls in row.calls_ms.items():
        shares = {"gflops": row.gflops(name), "percent_of_peak": row.percent_of_peak(name, page.peaks)}
        figures = spread([page.per_ms * call for call in calls], page.unit)
        contenders[name] = {**_rounded({**figures, **shares}), "calls": len(calls)}
    bars = [{**asdict(b), "reached": row.reached(b, page.speed), "holds": row.holds(b, page.speed)} for b in row.bars]
    best = row.best_peer() if row.calls_ms else None
    kept = {key: value for key, value in asdict(row).items() if key not in ("rank", "calls_ms")}
    kept |= {"errors": _rounded(row.errors), "floor_us": row.floor_us(page.speed), "bars": bars}
    ratio = row.times_as_fast(best) if best else None
    return {**kept, "contenders": contenders, "best_peer": best, "times_as_fast": ratio and round(ratio, 3)}


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}


def as_markdown(page: Page) -> str:
    """The machine, the stages, where others are faster, the bars, a table for each group, what could not be timed."""
    rows, timed = page.rows, page.timed
    parts = [INTRODUCTIONS[page.device], _machine_table(page)]
    if page.stages:
        parts += ["## Stages", _stages_table(page.stages)]
    lost = [row for row in timed if page.device == "cpu" and (row.times_as_fast(row.best_peer()) or 1) < 1]
    if lost:
        parts += ["## Where others are faster", _lost(lost)]
    if any(row.bars for row in rows):
        parts += ["## Bars", _bars_table(page)]
    if page.device == "cpu":
        parts += ["![times as fast as the best peer](cpu.svg)"]
    for group in dict.fromkeys(row.group for row in timed):
        parts += [f"## {group}", _group_table(page, [row for row in timed if row.group == group])]
    if compared := [row for row in rows if len(row.errors) > 1 and row.group.startswith(ERRORS_OF)]:
        parts += ["## Errors against float64", ERRORS, _errors_table(compared)]
    parts += _not_timed(rows)
    for stage in page.stages:
        if stage.said:
            parts += [f"## What {stage.name} printed", _quoted(stage.said)]
        if stage.passed is False and stage.tail and stage.tail != stage.said:
            parts += [f"## The end of what {stage.name} printed", _quoted(stage.tail)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def _machine_table(page: Page) -> str:
    facts: list[tuple[str, Any]] = []
    for key, value in page.machine.items():
        several = isinstance(value, dict)
        facts += [(f"{key}, {name}", text) for name, text in value.items()] if several else [(key, value)]
    facts += [(f"peak, {unit}", f"{gflops:.0f} GFLOP/s") for unit, gflops in page.peaks.items()]
    if page.device == "gpu":
        facts.append(("copy bandwidth", page.speed and f"{page.speed / 1e12:.2f} TB/s, read + written"))
    return table(["machine", ""], [[key, "not here" if value is None else str(value)] for key, value in facts])


def _quoted(output: str) -> str:
    return f"```\n{output.replace('```', '').rstrip()}\n```"


def _stages_table(stages: Sequence[Stage]) -> str:
    lines = [[s.name, s.verdict, f"{s.seconds:.0f}", s.detail.replace("|", "/") or "–"] for s in stages]
    return table(["stage", "verdict", "seconds", "found"], lines)


def _lost(rows: Sequence[Row]) -> str:
    """The rows in which a peer is faster, the worst first."""
    lines = []
    for row in sorted(rows, key=lambda row: row.times_as_fast(row.best_peer()) or 1):
        lines.append([f"{row.group}: {row.title}", figure(row.median_ms()[row.ours()]), best(row)])
    return table(["", "crrl, ms", "best peer, crrl is"], lines)


def _bars_table(page: Page) -> str:
    lines = []
    for row in page.rows:
        for bar in row.bars:
            reached, holds = row.reached(bar, page.speed), row.holds(bar, page.speed)
            verdict = "not known" if holds is None else "reached" if holds else "**missed**"
            found = "–" if reached is None else bar.figure(reached)
            taken = figure(page.medians(row).get(bar.contender))
            lines.append([f"{row.group}: {row.title}", bar.contender, taken, str(bar), found, verdict])
    return table(["", "who", f"takes, {sign(page)}", "bar", "found", "verdict"], lines)


def _group_table(page: Page, rows: Sequence[Row]) -> str:
    """Who takes how long, then of ours what is known of any row."""
    names = list(dict.fromkeys(name for row in rows for name in row.calls_ms))
    columns: dict[str, Callable[[Row], str]] = {
        "GFLOP/s": lambda row: figure(row.gflops(row.ours())),
        "% of peak": lambda row: figure(row.percent_of_peak(row.ours(), page.peaks)),
        "floor, µs": lambda row: figure(row.floor_us(page.speed)),
        "first ÷ floor": lambda row: ratio(row, row.floor_us(page.speed)),
        "predicted, µs": lambda row: figure(row.predicted_us),
        "first ÷ predicted": lambda row: ratio(row, row.predicted_us),
        "best peer": lambda row: best(row) if page.device == "cpu" else "–",
    }
    known = {head: of for head, of in columns.items() if any(of(row) != "–" for row in rows)}
    lines = []
    for row in rows:
        medians = page.medians(row)
        lines.append([row.title, *(figure(medians.get(name)) for name in names), *(of(row) for of in known.values())])
    return table(["", *(f"{name}, {sign(page)}" for name in names), *known], lines)


def sign(page: Page) -> str:
    return page.unit.replace("us", "µs")


def _errors_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        (ours, error), *others = row.errors.items()
        found = ", ".join(f"{name} {value:.1e}" for name, value in others)
        verdict = "**refused**" if row.refused else "right"
        lines.append([f"{row.group}: {row.title}", ours, f"{error:.1e}", found, verdict])
    return table(["", "ours", "error", "the others", "verdict"], lines)


def figure(value: float | None) -> str:
    """Three figures or more."""
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, of: float | None) -> str:
    return f"{row.median_us()[row.ours()] / of:.2f}×" if of else "–"


def best(row: Row) -> str:
    times = row.times_as_fast(row.best_peer())
    return f"{row.best_peer()} {times:.2f}×" if times else "–"


def _not_timed(rows: Sequence[Row]) -> list[str]:
    """Sections on what was wrong, what was absent and what broke."""
    parts = []
    if refused := [row for row in rows if row.refused]:
        parts += ["## Refused: not right, so not timed", *(f"- {r.group}, {r.title}: {r.refused}" for r in refused)]
    if absent := _absent_lines(rows):
        parts += ["## Absent", "\n".join(absent)]
    if failed := [row for row in rows if row.failed]:
        parts += ["## Failed", *(f"- {r.group}, {r.title}: {r.failed}" for r in failed)]
    return parts


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


BAR_HEIGHT, LABEL_WIDTH, WIDTH = 20, 380, 900


def as_svg(rows: Sequence[Row]) -> str:
    """A horizontal bar for each row: how many times as fast as the best peer; the line is at 1."""
    shown = [(row, times) for row in rows if (times := row.times_as_fast(row.best_peer()))]
    scale = (WIDTH - LABEL_WIDTH - 160) / max([1.0, *(times for _, times in shown)])
    height, one = BAR_HEIGHT * (len(shown) + 2), LABEL_WIDTH + scale
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
            'font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{LABEL_WIDTH}" y="14">times as fast as the best peer (line: 1)</text>',
            *(_svg_bar(row, times, scale, BAR_HEIGHT * place) for place, (row, times) in enumerate(shown, 1)),
            f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{BAR_HEIGHT}" y2="{height - BAR_HEIGHT}" stroke="black"/>',
            "</svg>\n",
        ]
    )


def _svg_bar(row: Row, times: float, scale: float, top: int) -> str:
    colour, base, end = ("#2a9d5c" if times >= 1 else "#c8553d"), top + BAR_HEIGHT - 6, LABEL_WIDTH + times * scale
    return "\n".join(
        [
            f'<text x="{LABEL_WIDTH - 6}" y="{base}" text-anchor="end">{escape(f"{row.group}: {row.title}")}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{top + 2}" width="{end - LABEL_WIDTH:.1f}" height="{BAR_HEIGHT - 4}" '
            f'fill="{colour}"/>',
            f'<text x="{end + 4:.1f}" y="{base}">{escape(best(row))}</text>',
        ]
    )
