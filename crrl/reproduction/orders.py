"""Sentences about the rows of a column: whether they are in the paper's order, and which differ from the first row."""

from __future__ import annotations

from itertools import combinations, pairwise
from statistics import fmean

from crrl.reproduction.paper import Column, Target
from crrl.reproduction.results import FLOORS, RANDOM, VERDICTS, Scores

SHOWN = 4
"""At most so many pairs that changed places are named, those with the largest differences."""


def order_lines(target: Target, scores: Scores, columns: tuple[Column, ...]) -> list[str]:
    """A sentence for each column: whether our rows are in the paper's order.

    A column is left out unless two rows, one of them ours, have numbers here and different ones in the paper. For a
    target that is compared with its first row, the sentence says which rows are better, worse or not told apart.
    """
    say = _told_apart if target.against_first else _order
    return [line for column in columns if (line := say(target, scores, column))]


def floor_line(target: Target, scores: Scores, columns: tuple[Column, ...]) -> str:
    """A sentence that names our rows below each floor; empty if no floor is known."""
    said = []
    for name in FLOORS:
        known = [column for column in columns if (name, column) in scores.cells and scores.cells[name, column].values]
        below = {column: _rows_below(target, scores, column, name) for column in known}
        named = [f"{rows} ({column.name})" for column, rows in below.items() if rows]
        if known:
            said.append(f"Below {'the ' if name == RANDOM else ''}{name}: {'; '.join(named) or 'none'}.")
    return " ".join(said)


def _rows_below(target: Target, scores: Scores, column: Column, floor: str) -> str:
    bound = scores.cells[floor, column].mean
    means = {row.name: scores.cells[number, column].mean for number, row in enumerate(target.rows)}
    known = {name: mean for name, mean in means.items() if mean is not None}
    below = [name for name, mean in known.items() if bound is not None and mean < bound]
    return "all rows" if len(below) == len(known) > 1 else ", ".join(below)


def _told_apart(target: Target, scores: Scores, column: Column) -> str:
    groups: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for number, row in enumerate(target.rows):
        if found := scores.beyond_first(number, column):
            groups[found.verdict].append(row.name)
    if not any(groups.values()):
        return ""
    said = "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in groups.items())
    return f"{column.name}, against the first row by t (chance alone: one row in 20 is called better or worse): {said}."


def _order(target: Target, scores: Scores, column: Column) -> str:
    paper, whose = _paper(target, column)
    ours = {number: value for number in paper if (value := _ours(target, scores, number, column)) is not None}
    paper = {number: paper[number] for number in ours}
    if len(set(paper.values())) < 2 or all(target.rows[number].kind != "ours" for number in ours):
        return ""
    turned = [
        (number, other)
        for number, other in combinations(sorted(paper, key=lambda row: -paper[row]), 2)
        if paper[number] > paper[other] and not ours[number] > ours[other]
    ]
    expected = f"the paper's order{whose} {_chain(target, paper)}"
    close = _close(target, scores, ours, column)
    if not turned:
        return f"{column.name}: {expected} appears here too.{close}"
    pairs = len(ours) * (len(ours) - 1) // 2
    named = sorted(turned, key=lambda pair: ours[pair[0]] - ours[pair[1]])[:SHOWN]
    changes = ", ".join(
        f"{target.rows[b].name} over {target.rows[a].name} by {ours[b] - ours[a]:.1f}" for a, b in named
    )
    more = f", and {len(turned) - SHOWN} more" if len(turned) > SHOWN else ""
    return (
        f"{column.name}: {expected} does not appear here; ours is {_chain(target, ours)}. "
        f"{len(turned)} of {pairs} pairs changed places: {changes}{more}.{close}"
    )


def _close(target: Target, scores: Scores, ours: dict[int, float], column: Column) -> str:
    """Names neighbours in our order that differ by less than the larger of their standard deviations over seeds."""
    ordered = sorted(ours, key=lambda number: -ours[number])
    pairs = [
        f"{target.rows[a].name} and {target.rows[b].name}"
        for a, b in pairwise(ordered)
        if ours[a] - ours[b] < max(scores.cells[number, column].std or 0.0 for number in (a, b))
    ]
    return f" Closer than their spread over seeds: {', '.join(pairs)}." if pairs else ""


def _paper(target: Target, column: Column) -> tuple[dict[int, float], str]:
    """The paper's numbers by row, and a remark: this column's or, if the paper lacks it, means over its columns."""
    if column in target.columns:
        index = target.columns.index(column)
        numbers = {number: row.paper[index] for number, row in enumerate(target.rows)}
        return {number: value for number, value in numbers.items() if value is not None}, ""
    means = {
        number: fmean(value for value in row.paper if value is not None)
        for number, row in enumerate(target.rows)
        if row.kind == "ours" and None not in row.paper
    }
    return means, " (by the mean of its columns)" if len(target.columns) > 1 else ""


def _ours(target: Target, scores: Scores, number: int, column: Column) -> float | None:
    """Our mean; for a quoted row the quoted number."""
    cell = scores.cells[number, column]
    return cell.mean if target.rows[number].kind == "ours" else cell.paper


def _chain(target: Target, numbers: dict[int, float]) -> str:
    """The rows' names from the highest number to the lowest, with > or = between them."""
    ordered = sorted(numbers, key=lambda number: -numbers[number])
    text = target.rows[ordered[0]].name
    for before, number in pairwise(ordered):
        sign = "=" if numbers[before] == numbers[number] else ">"
        text += f" {sign} {target.rows[number].name}"
    return text
