"""The plots of a report, by plotly: loss curves, a confusion matrix, a map of the features."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from crrl.reporting.findings import Findings

# plotly is optional and slow to import: functions import it, after `page.need` has checked that it is installed.

MARGIN = {"l": 50, "r": 20, "t": 50, "b": 45}


def as_json(figure: Any) -> Any:
    """A plotly figure as plain values."""
    return json.loads(figure.to_json())


def palette(classes: int) -> list[str]:
    """A colour for each class; colours repeat after 48."""
    from plotly.colors import qualitative

    colors = qualitative.D3 if classes <= 10 else [*qualitative.Dark24, *qualitative.Light24]
    return [colors[number % len(colors)] for number in range(classes)]


def loss_curves(names: Sequence[str], runs: Sequence[Findings]) -> Any:
    """A panel for each loss of each phase, with a line for each run."""
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    panels = list(dict.fromkeys((phase.name, loss) for run in runs for phase in run.phases for loss in phase.losses))
    rows = -(-len(panels) // 3)
    figure = make_subplots(rows, min(3, len(panels)), subplot_titles=[f"{phase}: {loss}" for phase, loss in panels])
    for number, (name, run) in enumerate(zip(names, runs, strict=True)):
        style = {"mode": "lines", "line": {"color": qualitative.D3[number % 10]}, "legendgroup": str(number)}
        known = [(phase.name, loss, values) for phase in run.phases for loss, values in phase.losses.items()]
        for phase, loss, values in known:
            row, column = divmod(panels.index((phase, loss)), 3)
            legend = len(runs) > 1 and (phase, loss, values) == known[0]
            line = {"y": values, "x0": 1, "name": html.escape(name), "showlegend": legend, **style}
            figure.add_scatter(**line, row=row + 1, col=column + 1)
    figure.update_xaxes(title="epoch")
    figure.update_layout(template="plotly_white", height=260 * rows + 40, margin=MARGIN, hovermode="x unified")
    return as_json(figure)


def confusion_matrix(run: Findings) -> Any:
    """Percent of each class's clips (a row) that are classified as each class."""
    import plotly.graph_objects as go

    counts = run.confusions
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = [html.escape(name) for name in run.class_names]
    width, height = (min(more + 26 * len(classes), 1000) for more in (240, 180))
    heat = go.Heatmap(
        z=percent.round(1).tolist(),
        customdata=counts.astype(int).tolist(),
        colorscale="Blues",
        zmin=0,
        zmax=100,
        xgap=1,
        ygap=1,
        hovertemplate="%{customdata} clips (%{z} %)<br>true class %{y}<br>predicted class %{x}<extra></extra>",
    )
    figure = go.Figure(heat)
    ticks = {"tickmode": "array", "tickvals": list(range(len(classes))), "ticktext": classes}
    figure.update_xaxes(**ticks, tickangle=-45, title="predicted class")
    figure.update_yaxes(**ticks, autorange="reversed", title="true class")
    figure.update_layout(template="plotly_white", width=width, height=height, margin={**MARGIN, "l": 120, "b": 120})
    return as_json(figure)


def feature_map(run: Findings) -> Any:
    """t-SNE of the features, coloured by class: circles are training clips, discs test clips, crosses mistakes."""
    import plotly.graph_objects as go

    figure, colors = go.Figure(), palette(len(run.class_names))
    wrong = run.taken_for != run.shown_labels
    kinds = {"circle-open": ~run.tested, "circle": run.tested & ~wrong, "x": run.tested & wrong}
    for label, name in enumerate(run.class_names):
        named = False
        for symbol, kind in kinds.items():
            clips = np.flatnonzero((run.shown_labels == label) & kind)
            if not len(clips):
                continue
            training = symbol == "circle-open"
            figure.add_scatter(
                x=run.places[clips, 0].round(2).tolist(),
                y=run.places[clips, 1].round(2).tolist(),
                customdata=clips.tolist(),
                mode="markers",
                name=html.escape(name),
                legendgroup=str(label),
                showlegend=not named,
                marker={
                    "color": colors[label], "symbol": symbol,
                    "size": 6 if training else 8, "opacity": 0.5 if training else 0.9,
                },
                hoverinfo="none",
            )  # fmt: skip
            named = True
    bare = {"showticklabels": False, "zeroline": False, "showgrid": False, "title": None}
    figure.update_xaxes(**bare)
    figure.update_yaxes(**bare)
    figure.update_layout(template="plotly_white", height=620, margin={"l": 5, "r": 5, "t": 30, "b": 5})
    figure.update_layout(dragmode="pan", hovermode="closest")
    return as_json(figure)
