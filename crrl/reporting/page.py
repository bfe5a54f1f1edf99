"""HTML pages that are one file each and need no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from crrl.data.clips import FloatArray
from crrl.data.skeletons import Skeleton
from crrl.errors import CrrlError
from crrl.files import write_file
from crrl.reporting.motion import pack

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
"""Content-Security-Policy: the browser lets the page load nothing and send nothing."""


def need(extra: str, *libraries: str) -> None:
    """Check that the libraries of an optional extra of crrl can be imported.

    Raises:
        CrrlError: one cannot; names it and the extra.
    """
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            raise CrrlError(f"{library} cannot be imported ({error}): pip install 'crrl[{extra}]'") from error


def write_page(out: Path, template: str, **values: Any) -> None:
    """Fill a template of this folder and write the page atomically; templates include scripts and styles by `own`.

    Raises:
        CrrlError: `out` cannot be written.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    def own(name: str) -> Markup:
        return Markup((files(__package__) / name).read_text())

    environment = Environment(autoescape=True, trim_blocks=True)
    environment.globals["own"] = own
    text = environment.from_string(own(template)).render(policy=POLICY, **values)
    write_file(out, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_clips(
    out: Path,
    title: str,
    lines: Sequence[str],
    labels: tuple[str, str, str],
    skeleton: Skeleton,
    rows: Sequence[tuple[str, Sequence[tuple[str, FloatArray]]]],
) -> None:
    """Write a page of moving upright clips, each [T, J, 3].

    Args:
        lines: text above the clips. labels: names of the axes right, up and near. rows: (title, (name, clip) of each).

    Raises:
        CrrlError: `out` cannot be written.
    """
    named = [clip for _, clips in rows for clip in clips]
    packed = {**pack([frames for _, frames in named], skeleton), "names": [name for name, _ in named]}
    counted = [(name, len(clips)) for name, clips in rows]
    write_page(
        out, "view.html", title=title, lines=lines, labels=labels, rows=counted, large=len(named) == 1,
        page=script_data({"clips": packed, "rows": [count for _, count in counted]}),
    )  # fmt: skip


def script_data(value: Any) -> Any:
    """JSON for a <script> element; nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(text)
