"""Clips drawn by matplotlib in their own units, as a still PNG or an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import FloatArray
from crrl.data.preprocessing import absent_joints
from crrl.data.skeletons import Skeleton
from crrl.files import write_file
from crrl.reporting.motion import MOST_FRAMES

# matplotlib is optional and slow to import: functions import it, after `page.need` has checked that it is installed.

MOMENTS = 6
"""Frames of one clip that a PNG shows."""
FRAMES_A_SECOND = 15
DPI = 80

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Update = Callable[[float], None]
"""Makes a figure show its clips at a time from 0, the first frame, to 1, the last."""


def last_seen(frames: FloatArray) -> tuple[FloatArray, Flags]:
    """Frames [T, J, 3] with missing joints filled in, and which joints are missing, bool [T, J].

    A missing joint is put where it was seen last, else where it is seen next; it is NaN if it is never seen.
    """
    absent = absent_joints(frames)
    times = np.arange(len(frames))[:, None]
    before = np.maximum.accumulate(np.where(absent, -1, times), axis=0)
    after = np.minimum.accumulate(np.where(absent, len(frames), times)[::-1], axis=0)[::-1]
    source = np.where(before >= 0, before, after)
    filled = np.take_along_axis(frames, np.minimum(source, len(frames) - 1)[:, :, None], axis=0)
    return np.where((source == len(frames))[:, :, None], np.nan, filled), absent


class Bodies:
    """Skeletons on axes: bones, dots for joints, and a red cross where a missing joint was seen last."""

    def __init__(self, axes: Any, bones: Sequence[tuple[int, int]], size: float):
        from matplotlib.collections import LineCollection

        self._bones = np.array(bones, np.int64).reshape(-1, 2)
        self._lines = axes.add_collection(LineCollection([], linewidths=size / 2, colors="#4477aa"))
        (self._dots,) = axes.plot([], [], ".", color="#223355", markersize=size)
        (self._crosses,) = axes.plot([], [], "x", color="#dd0000", markersize=size)

    def show(self, places: Array, absent: Flags) -> None:
        """Show joints at `places` [J, 2]; `absent`, bool [J], says which are missing."""
        there = self._bones[~absent[self._bones].any(axis=1)]
        self._lines.set_segments(places[there])
        self._dots.set_data(*places[~absent].T)
        self._crosses.set_data(*places[absent].T)


def draw_clip(
    out: Path, clip: FloatArray, labels: tuple[str, str, str], skeleton: Skeleton, title: str, text: str
) -> None:
    """Draw one upright clip, [T, J, 3], from the front and from the side, in its own units.

    Args:
        out: ends in .png or .gif. labels: names of the axes right, up and near. text: the caption below.

    Raises:
        CrrlError: `out` cannot be written.
    """
    filled, absent = last_seen(clip)
    moves = out.suffix == ".gif"
    columns = 1 if moves else min(MOMENTS, len(clip))
    views = ((0, "front"), (2, "side"))
    figure = _figure((5.5, 4.0) if moves else (2.4 * columns + 1, 7.0), title, text)
    grid = figure.subplots(1, 2, squeeze=False).T if moves else figure.subplots(2, columns, squeeze=False)
    drawn = []
    for row, (across, name) in enumerate(views):
        for column in range(columns):
            axes = grid[row][column]
            _frame(axes, filled[:, :, [across, 1]])
            axes.set_xlabel(labels[across])
            axes.set_ylabel(f"{labels[1]} (up)" if column == 0 else "")
            axes.set_title(name if moves else f"{name}, frame {_frame_at(column / max(columns - 1, 1), len(clip))}")
            axes.title.set_fontsize(9)
            drawn.append((Bodies(axes, skeleton.bones, 6), across, column))

    def update(time: float) -> None:
        for bodies, across, column in drawn:
            t = _frame_at(time if moves else column / max(columns - 1, 1), len(clip))
            bodies.show(filled[t][:, [across, 1]], absent[t])

    _write(out, figure, update, len(clip))


def draw_sheet(
    out: Path,
    rows: Sequence[tuple[str, Sequence[FloatArray]]],
    labels: tuple[str, str, str],
    skeleton: Skeleton,
    title: str,
    text: str,
) -> None:
    """Draw rows of upright clips, each [T, J, 3], from the front; each clip is scaled to its cell.

    Args:
        rows: the name of each class, and its clips. The others: as for `draw_clip`.

    Raises:
        CrrlError: `out` cannot be written.
    """
    columns = max(len(clips) for _, clips in rows)
    blocks = max(1, round((len(rows) / columns) ** 0.5))
    high = -(-len(rows) // blocks)
    wide = blocks * (columns + 0.3)
    figure = _figure((max(5.0, 1.3 * wide), 1.3 * high + 1.2), title, text)
    axes = figure.subplots()
    axes.set(xlim=(-0.6, wide - 0.6), ylim=(high - 0.4, -0.7), aspect="equal")
    axes.set_xlabel(f"right: {labels[0]}, up: {labels[1]}")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    cells = []
    for number, (name, clips) in enumerate(rows):
        left, row = number // high * (columns + 0.3), number % high
        axes.text(left - 0.5, row - 0.48, name.replace("$", r"\$"), fontsize=7, weight="bold")
        cells += [(*_celled(clip, left + column, row), len(clip)) for column, clip in enumerate(clips)]
    bones = [(a + first, b + first) for first in range(0, len(cells) * skeleton.joints, skeleton.joints)
             for a, b in skeleton.bones]  # fmt: skip
    bodies = Bodies(axes, bones, 3)

    def update(time: float) -> None:
        shown = [(places[_frame_at(time, length)], absent[_frame_at(time, length)]) for places, absent, length in cells]
        bodies.show(*(np.concatenate(part) for part in zip(*shown, strict=True)))

    _write(out, figure, update, max(length for *_, length in cells), 0.5)


def _celled(clip: FloatArray, left: float, row: int) -> tuple[Array, Flags]:
    """A clip's places [T, J, 2] in its cell of side 1, and which joints are missing, bool [T, J]."""
    filled, absent = last_seen(clip)
    places = filled[:, :, :2].astype(np.float64)
    low, high = _range(places)
    scaled = (places - (low + high) / 2) / (max(high - low) or 1) * 0.88
    return scaled * (1, -1) + (left, row), absent


def _range(places: Array) -> tuple[Array, Array]:
    """Minimum and maximum of `places` [T, J, 2] on each axis, without NaN; 0 and 1 if all are NaN."""
    known = places[~np.isnan(places).any(axis=2)].astype(np.float64)
    return (known.min(axis=0), known.max(axis=0)) if len(known) else (np.zeros(2), np.ones(2))


def _frame(axes: Any, places: Array) -> None:
    """Set the limits of the axes to show all of a clip's places [T, J, 2], at one scale."""
    low, high = _range(places)
    middle, half = (low + high) / 2, 0.55 * (max(high - low) or 1)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axes.tick_params(labelsize=7)


def _frame_at(time: float, length: int) -> int:
    return round(time * (length - 1))


def _figure(size: tuple[float, float], title: str, text: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    figure.supxlabel(text.replace("$", r"\$"), fontsize=7, wrap=True)
    return figure


def _write(out: Path, figure: Any, update: Update, length: int, still: float = 0.0) -> None:
    """Write a figure as a PNG at the time `still`, or as a GIF of `length` frames, but at most MOST_FRAMES."""
    from PIL import Image

    def drawn(time: float) -> Any:
        update(time)
        figure.canvas.draw()
        return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())

    content = io.BytesIO()
    if out.suffix == ".gif":
        count = min(MOST_FRAMES, length)
        first, *others = [
            drawn(number / max(count - 1, 1)).quantize(32, Image.Quantize.MAXCOVERAGE) for number in range(count)
        ]
        duration = 1000 // FRAMES_A_SECOND
        first.save(content, "gif", save_all=True, append_images=others, duration=duration, loop=0)
    else:
        drawn(still).save(content, "png")
    write_file(out, lambda file: file.write(content.getbuffer()))
