"""The page of a target, as Markdown to read and as CSV to compute with, both from the same cells."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from crrl.data.folds import fold_names
from crrl.files import explain_os_errors, write_text
from crrl.reproduction.drawings import draw
from crrl.reproduction.orders import floor_line, order_lines
from crrl.reproduction.paper import Column, Row, paper_number
from crrl.reproduction.plan import QUICK_EPOCHS, Plan
from crrl.reproduction.records import Record
from crrl.reproduction.results import HEADLINES, Key, Overall, Scores, collect, lines, overall
from crrl.reproduction.sheets import write_csv
from crrl.runs import RunFolder

KINDS = {"ours": "", "floor": "", "supervised": " (supervised, quoted)", "unsupervised": " (unsupervised, quoted)"}
FIELDS = (
    *("target", "dataset", "column", "splits", "protocol", "reading", "tests", "row", "kind", "recipe", "quick"),
    *("paper", "ours_mean", "ours_std", "seeds", "difference", "beyond_first", "beyond_first_error"),
    *("mean_rank", "worst_set", "worst_beyond_first", "worst_beyond_first_error"),
)


def write_page(plan: Plan, runs: Path, out: Path, command: str, with_figures: bool = True) -> Path:
    """Write `out`/TARGET.md and TARGET.csv, and the figures with their data beside them; returns the page's path.

    Args:
        plan: the target's plan. runs: the folder of the runs. command: the command that makes this page, as typed.
        with_figures: draw the figures, which takes minutes for features of many clips.

    Raises:
        CrrlError: a file of a run is damaged, or `out` cannot be written.
    """
    scores = collect(plan, runs)
    with explain_os_errors(out, "create"):
        out.mkdir(parents=True, exist_ok=True)
    drawn = draw(plan, scores, runs, out) if with_figures else ""
    page = out / f"{plan.name}.md"
    sections = [_section(plan, each) for each in scores]
    parts = [_head(plan, runs, command), *sections, drawn, _elsewhere(plan), _runs(plan, runs)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_text(page, text)
    write_csv(out / f"{plan.name}.csv", FIELDS, _csv_rows(plan, scores))
    return page


def _head(plan: Plan, runs: Path, command: str) -> str:
    settings = plan.settings
    seeds = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    backends = "the fastest backends (--fused)" if settings.fused else "the PyTorch reference (--no-fused)"
    lines = [f"# {plan.target.title}", f"Made by `{command}`."]
    if settings.quick:
        lines.append(
            f"**Quick: {QUICK_EPOCHS} epochs a phase and one column a data set, to see that everything works. "
            "The numbers below do not reproduce the paper's.**"
        )
    lines.append(f"Recipe `{settings.recipe}`, {seeds}, {settings.precision}, on {backends}. {_legend(plan)}")
    lines += plan.target.notes
    lines += [f"- {dataset} is left out: {reason}." for dataset, reason in plan.skipped.items()]
    failed = _failures(plan, runs)
    if failed:
        lines.append("**Runs that failed, and are missing from their cells:**\n\n" + "\n".join(failed))
    return "\n\n".join(lines)


def _legend(plan: Plan) -> str:
    what = "training loss" if plan.target.protocol == "loss" else "accuracy in percent"
    if plan.target.against_first:
        return (
            f"A cell is our {what}, mean ± sample standard deviation over seeds · the difference from the first row, "
            "mean ± standard error over folds (of one fold over seeds); – where there is no number."
        )
    if not plan.target.has_numbers:
        return f"A cell is our {what}, mean ± sample standard deviation over seeds; – where there is no number."
    return (
        f"A cell is the paper's {what} · ours, mean ± sample standard deviation over seeds · ours less the paper's; "
        "– where there is no number."
    )


def _failures(plan: Plan, runs: Path) -> list[str]:
    records = ((run.name, Record.read(runs / run.name)) for run in plan.runs)
    return [f"- `{name}`: {record.failure}" for name, record in records if record.failure]


def _section(plan: Plan, scores: Scores) -> str:
    protocol, reading = plan.target.protocol, scores.reading
    columns = _columns(plan, scores)
    headline = reading == HEADLINES[protocol]
    if not columns and not (headline and scores.tests in ("all", "training clips")):
        return ""
    columns = columns or list(plan.columns)
    tests = scores.tests if protocol == "loss" else f"{scores.tests} test clips"
    measured = protocol if protocol == reading else f"{protocol}, {reading}"
    title = f"## {measured}, {tests}{plan.mark}"
    head = [["", *(f"{column.dataset}<br>{column.label}{_size(plan, column, scores.tests)}" for column in columns)]]
    rows = [
        [row.name + KINDS[row.kind], *(_text(key, row, column, scores, plan) for column in columns)]
        for key, row in lines(plan.target)
    ]
    parts = [title, _remarks(scores, headline, plan.target.has_numbers), _markdown(head + rows)]
    parts.append(floor_line(plan.target, scores, tuple(columns)))
    if headline and protocol != "loss":
        parts.append("\n".join(f"- {line}" for line in order_lines(plan.target, scores, tuple(columns))))
    parts.append(_over_sets(plan, scores))
    return "\n\n".join(part for part in parts if part)


def _columns(plan: Plan, scores: Scores) -> list[Column]:
    """The columns in which a reading has any number of ours."""
    return [column for column in plan.columns if column in scores.columns]


def _chosen_by(plan: Plan, scores: Scores) -> list[Column]:
    """The columns by which settings may be chosen: of the headline alone, those on folds of the training clips."""
    if not plan.target.against_first or scores.reading != HEADLINES[plan.target.protocol]:
        return []
    return [column for column in _columns(plan, scores) if fold_names(column.splits)]


def _over_sets(plan: Plan, scores: Scores) -> str:
    """The rows over all data sets together: mean rank and worst set. Empty for a single set."""
    columns = _chosen_by(plan, scores)
    found = overall(scores, columns)
    if not found:
        return ""
    first, *_ = names = [row.name for row in plan.target.rows]
    sets = [_set_name(column, columns) for column in columns]
    of = f" of {len(plan.columns)}" if len(columns) < len(plan.columns) else ""
    title = f"### {len(columns)}{of} data sets together: {', '.join(sets)}"
    text = (
        f"Mean rank: a row's rank within a set, 1 for the best row, averaged over the sets. Worst set: the one where "
        f"the row is furthest behind “{first}”, and its difference from it there. Rows are sorted by that "
        "difference: the bold row has the best worst set."
    )
    rows = [["", "mean rank", "worst set"]]
    for place, row in enumerate(found):
        name = names[row.number] if place else f"**{names[row.number]}**"
        rows.append([name, f"{row.rank:.1f}", _worst_text(row, _set_name(row.worst, columns), plan)])
    lacking = [name for number, name in enumerate(names) if number not in {row.number for row in found}]
    missing = f"Not in every set: {', '.join(lacking)}." if lacking else ""
    tested = [column.name for column in _columns(plan, scores) if column not in columns]
    if tested:
        missing += f" Not among the sets, since nothing should be chosen by test clips: {', '.join(tested)}."
    return "\n\n".join(part for part in (title, text, _markdown(rows), missing.strip()) if part)


def _set_name(column: Column, columns: list[Column]) -> str:
    """The data set's name, with the column's label if several of `columns` are of that data set."""
    same = [other for other in columns if other.dataset == column.dataset]
    return column.name if len(same) > 1 else column.dataset


def _worst_text(row: Overall, name: str, plan: Plan) -> str:
    if row.number == 0:
        return "the other rows are compared with it"
    digits = _digits(plan)
    return f"{name}: {_signed(row.lead, digits)}" + ("" if row.error is None else f" ± {row.error:.{digits}f}")


def _elsewhere(plan: Plan) -> str:
    """The paper's numbers in the columns that were not run, so that its table is complete."""
    columns = [column for column in plan.target.columns if column not in plan.columns]
    if not columns or not plan.target.has_numbers:
        return ""
    head = [["", *(f"{column.dataset}<br>{column.label}" for column in columns)]]
    numbers = [(row, [paper_number(plan.target, row, column) for column in columns]) for row in plan.target.rows]
    rows = [
        [row.name + KINDS[row.kind], *("–" if x is None else f"{x:.{_digits(plan)}f}" for x in found)]
        for row, found in numbers
    ]
    return f"## The paper's numbers in columns that were not run\n\n{_markdown(head + rows)}"


def _remarks(scores: Scores, headline: bool, has_numbers: bool) -> str:
    remarks = []
    if not headline:
        remarks.append("An epoch chosen by the test clips themselves: it is too favourable, and is not the result.")
    if scores.tests not in ("all", "training clips") and has_numbers:
        remarks.append("The paper's numbers are of all test clips.")
    return " ".join(remarks)


def _size(plan: Plan, column: Column, tests: str) -> str:
    """The number of test clips of a column, summed over its splits; empty for none."""
    sizes = [plan.materials[column.dataset, split].tests.get(tests, 0) for split in column.splits]
    return f"<br>{sum(sizes)} clips" if sum(sizes) else ""


def _digits(plan: Plan) -> int:
    """Decimals of a number, as the paper prints them."""
    return 2 if plan.target.protocol == "loss" else 1


def _text(key: Key, row: Row, column: Column, scores: Scores, plan: Plan) -> str:
    """One cell: paper · ours · difference, or ours · difference from the first row."""
    cell, digits = scores.cells[key, column], _digits(plan)
    paper = "–" if cell.paper is None else f"{cell.paper:.{digits}f}"
    if row.kind not in ("ours", "floor"):
        return paper
    ours = "–"
    if cell.mean is not None:
        ours = f"{cell.mean:.{digits}f}" + ("" if cell.std is None else f" ± {cell.std:.{digits}f}")
        if len(cell.values) < plan.settings.seeds:
            ours += f" ({len(cell.values)} of {plan.settings.seeds} seeds)"
    if plan.target.against_first:
        found = scores.beyond_first(key, column)
        return f"{ours} · " + (f"{_signed(found.mean, digits)} ± {found.error:.{digits}f}" if found else "–")
    if not plan.target.has_numbers:
        return ours
    return f"{paper} · {ours} · " + ("–" if cell.difference is None else _signed(cell.difference, digits))


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _markdown(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its header."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _runs(plan: Plan, runs: Path) -> str:
    """The state, commits, training time and commands of each run."""
    rows = [["run", "trained in", "commit", "state"]]
    commands = []
    for run in plan.runs:
        record = Record.read(runs / run.name)
        trained = RunFolder(runs / run.name).encoder_path.exists()
        state = f"failed: {record.failure}" if record.failure else "done" if trained else "not finished"
        time = f"{record.seconds:.0f} s" if record.seconds else "–"
        rows.append([f"`{run.name}`", time, ", ".join(record.commits) or "–", state])
        commands.append(record.command or shlex.join(["python", "-m", "crrl.train", *run.training(runs)]))
        if plan.tests(run):
            evaluation = run.evaluation(runs, plan.target.protocol)
            commands.append(shlex.join(["python", "-m", "crrl.evaluate", *evaluation]))
    return "\n\n".join(["## Runs", _markdown(rows), "```sh\n" + "\n".join(commands) + "\n```"])


def _csv_rows(plan: Plan, scores: list[Scores]) -> Iterable[tuple[object, ...]]:
    settings = plan.settings
    for each in scores:
        together = _together(plan, each)
        for key, row in lines(plan.target):
            for column in plan.columns:
                cell = each.cells[key, column]
                seeds = len(cell.values) if row.kind in ("ours", "floor") else None
                yield (
                    *(plan.name, column.dataset, column.label, " ".join(column.splits), plan.target.protocol),
                    *(each.reading, each.tests, row.name, row.kind),
                    *(settings.recipe, "yes" if settings.quick else "no"),
                    *(cell.paper, cell.mean, cell.std, seeds, cell.difference),
                    *_beyond(plan, each, key, column),
                    *together.get(key, (None,) * 4),
                )


def _beyond(plan: Plan, scores: Scores, key: Key, column: Column) -> tuple[float | None, float | None]:
    found = scores.beyond_first(key, column) if plan.target.against_first else None
    return (found.mean, found.error) if found else (None, None)


def _together(plan: Plan, scores: Scores) -> dict[Key, tuple[object, ...]]:
    """The CSV fields over all data sets together (see `_over_sets`), by row."""
    columns = _chosen_by(plan, scores)
    found = overall(scores, columns)
    return {
        row.number: (row.rank, _set_name(row.worst, columns) if row.number else None, row.lead, row.error)
        for row in found
    }
