"""The ratios of a run as one picture, in plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.rows import Row

BAR_HEIGHT, LABEL_WIDTH, WIDTH = 20, 380, 900


def as_svg(rows: Sequence[Row]) -> str:
    """A horizontal bar for each row: how many times as fast as the best peer; the line is at 1."""
    shown = [(row, ratio) for row in rows if row.calls_ms and (ratio := row.times_as_fast(row.best_peer()))]
    scale = (WIDTH - LABEL_WIDTH - 160) / max([1.0, *(ratio for _, ratio in shown)])
    height, one = BAR_HEIGHT * (len(shown) + 2), LABEL_WIDTH + scale
    bars = [_bar(row, ratio, scale, BAR_HEIGHT * (place + 1)) for place, (row, ratio) in enumerate(shown)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
            'font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{LABEL_WIDTH}" y="14">times as fast as the best peer (line: 1)</text>',
            *bars,
            f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{BAR_HEIGHT}" y2="{height - BAR_HEIGHT}" stroke="black"/>',
            "</svg>\n",
        ]
    )


def _bar(row: Row, ratio: float, scale: float, top: int) -> str:
    colour, base = ("#2a9d5c" if ratio >= 1 else "#c8553d"), top + BAR_HEIGHT - 6
    end = LABEL_WIDTH + ratio * scale
    return "\n".join(
        [
            f'<text x="{LABEL_WIDTH - 6}" y="{base}" text-anchor="end">{escape(f"{row.group}: {row.title}")}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{top + 2}" width="{end - LABEL_WIDTH:.1f}" height="{BAR_HEIGHT - 4}" '
            f'fill="{colour}"/>',
            f'<text x="{end + 4:.1f}" y="{base}">{ratio:.2f}× {escape(row.best_peer() or "")}</text>',
        ]
    )
