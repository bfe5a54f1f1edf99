"""Plots by matplotlib and t-SNE by scikit-learn, which are optional: `pip install 'crrl[reproduce]'`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.evaluation import inspection
from crrl.files import write_file

Matrix = npt.NDArray[np.float64]


class Missing(Exception):
    """A library that the figure needs cannot be imported; the message names it, the reason and the remedy."""


def _remedy(library: str, error: ImportError) -> str:
    return f"{library} cannot be imported ({error}): pip install 'crrl[reproduce]' and run the same command"


def _canvas(panels: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with `panels` axes side by side, each `width` by `height` inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Missing(_remedy("matplotlib", error)) from error
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _save(figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_file(path, lambda file: file.write(content.getbuffer()))


def loss_curves(path: Path, curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> None:
    """A panel for each loss, a line for each seed. Args: curves: {"CML, L_c": [seeds][epochs]}.

    Raises:
        Missing: matplotlib cannot be imported.
    """
    kinds = list(dict.fromkeys(name.split(", ")[1] for name in curves))
    figure, panels = _canvas(len(kinds), 4.2, 3.4)
    for panel, kind in zip(panels, kinds, strict=True):
        shown = [(name.split(", ")[0], seeds) for name, seeds in curves.items() if name.endswith(kind)]
        for color, (name, seeds) in enumerate(shown):
            for number, values in enumerate(seeds):
                epochs = range(1, len(values) + 1)
                panel.plot(epochs, values, color=f"C{color}", marker=".", label=None if number else name, linewidth=1)
        panel.set(xlabel="epoch", ylabel=kind)
        panel.legend(fontsize=8)
    _save(figure, path, title)


def confusion_matrices(path: Path, matrices: Mapping[str, Matrix], classes: Sequence[str], title: str) -> None:
    """A panel for each matrix, in percent of the row's class; numbers below 2 % are not printed, as in Fig. 6.

    Raises:
        Missing: matplotlib cannot be imported.
    """
    side = max(3.5, 0.42 * len(classes) + 1.5)
    figure, panels = _canvas(len(matrices), side, side)
    for panel, (name, matrix) in zip(panels, matrices.items(), strict=True):
        panel.imshow(matrix, cmap="Blues", vmin=0, vmax=100)
        panel.set_title(name, fontsize=9)
        panel.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
        panel.set_yticks(range(len(classes)), classes, fontsize=6)
        for i, j in np.argwhere(matrix >= 2):
            color = "white" if matrix[i, j] > 50 else "black"
            panel.text(j, i, f"{matrix[i, j] / 100:.2f}", ha="center", va="center", fontsize=5, color=color)
    _save(figure, path, title)


def tsne(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Two coordinates for each clip, float32 [N, 2]; see `inspection.tsne`.

    Raises:
        Missing: scikit-learn cannot be imported.
    """
    try:
        return inspection.tsne(features)
    except ImportError as error:
        raise Missing(_remedy("scikit-learn", error)) from error


def scatters(
    path: Path,
    points: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
    classes: Sequence[str],
    title: str,
) -> None:
    """A scatter plot for each name, coloured by class. Args: points: by name, coordinates [N, 2] and labels [N].

    Raises:
        Missing: matplotlib cannot be imported.
    """
    figure, panels = _canvas(len(points), 4.0, 3.8)
    for panel, (name, (xy, labels)) in zip(panels, points.items(), strict=True):
        drawn = panel.scatter(xy[:, 0], xy[:, 1], c=labels, s=5, cmap="nipy_spectral", vmin=0, vmax=len(classes) - 1)
        panel.set(title=name, xticks=[], yticks=[])
    if len(classes) <= 20:
        bar = figure.colorbar(drawn, ax=panels, ticks=range(len(classes)))
        bar.ax.set_yticklabels(classes, fontsize=6)
    _save(figure, path, title)


def sweeps(path: Path, swept: Mapping[str, Sequence[tuple[float, float, float, float | None]]], title: str) -> None:
    """A panel for each setting: accuracy against it. Args: swept: by symbol, (value, mean, std, paper's or None).

    Raises:
        Missing: matplotlib cannot be imported.
    """
    figure, panels = _canvas(len(swept), 4.2, 3.4)
    for panel, (symbol, points) in zip(panels, swept.items(), strict=True):
        values, means, stds = ([point[i] for point in points] for i in range(3))
        panel.errorbar(values, means, yerr=stds, marker="o", capsize=3, label="ours")
        printed = [(point[0], point[3]) for point in points if point[3] is not None]
        if printed:
            panel.plot(*zip(*printed, strict=True), "x", color="black", label="paper")
        panel.set(xscale="log", xlabel=symbol, ylabel="accuracy, %")
        panel.legend(fontsize=8)
    _save(figure, path, title)
