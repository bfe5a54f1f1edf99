"""Finding files by name in a tree of folders, and what is allowed as a name."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from crrl.errors import CrrlError
from crrl.files import explain_os_errors

LONGEST = 255
"""Characters of a name, at most."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def files_below(root: Path, *endings: str) -> Iterator[Path]:
    """The files below `root` with one of these endings, in any case. Links to folders are followed, each folder once.

    Names that begin with a dot are skipped, because archivers leave such files beside the real ones.

    Raises:
        CrrlError: a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    with explain_os_errors(root, "read"):
        for folder, below, names in os.walk(root, followlinks=True, onerror=_raise):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                below.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            below.sort()
            for name in sorted(names):
                if name.lower().endswith(endings) and not name.startswith("."):
                    yield Path(folder, name)


def _raise(error: OSError) -> None:
    raise error


def by_stem(paths: Iterable[Path], wanted: Container[str] | None = None) -> dict[str, Path]:
    """Files by their names without ending; if `wanted` is given, only those in it.

    Raises:
        CrrlError: two files have the same name, so that it is unclear which is meant.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if wanted is not None and path.stem not in wanted:
            continue
        if path.stem in found:
            raise CrrlError(f"{found[path.stem]} and {path} have the same name: remove one of them")
        found[path.stem] = path
    return found


def wrong_name(name: str) -> str:
    """Why `name` cannot name a clip, a class or a joint, to follow the word "name"; "" if it can."""
    if not name.strip():
        return "is empty"
    if len(name) > LONGEST:
        return f"has {len(name):,} characters, more than {LONGEST}"
    odd = _UNPRINTABLE.search(name)
    return f"holds an unprintable character (U+{ord(odd[0]):04X})" if odd else ""
