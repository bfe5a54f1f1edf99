"""The site's view of what lies outside docs/: the README is its first page, other files stand there by their names.

A link to a file that is not there is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]*)(?:#[^)]*)?\)")

log = logging.getLogger("mkdocs.plugins.crrl")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, its links as seen from docs/."""
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"\]\((?!https?:|docs/)([^)]*)\)", r"](../\1)", text).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the name of a file in the repository in place of a link to it."""

    def name(link: re.Match[str]) -> str:
        path = (ROOT / "docs" / Path(page.file.src_uri).parent / link[2]).resolve()
        if not path.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
        said = path.relative_to(ROOT)
        return f"`{said}`" if link[1] in (str(said), path.name) else f"{link[1]} (`{said}`)"

    return LINK.sub(name, markdown)
