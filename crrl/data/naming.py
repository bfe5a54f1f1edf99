"""Names: files found by theirs, in whichever folder they lie, and what may be a name at all."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from crrl.errors import CrrlError
from crrl.files import explain_os_errors

LONGEST = 255
"""Characters of a name."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def files_below(root: Path, *endings: str) -> Iterator[Path]:
    """The files below `root` whose names end so, in any case; links to folders are followed, each folder once.

    Names that begin with a dot are passed over, as archivers leave them beside a file.

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
            yield from (Path(folder, name) for name in sorted(names) if _ends(name, endings))


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    return name.lower().endswith(endings) and not name.startswith(".")


def _raise(error: OSError) -> None:
    raise error


def by_stem(paths: Iterable[Path], wanted: Container[str] | None = None) -> dict[str, Path]:
    """Files by their names without ending: of those `wanted`, or of all.

    Raises:
        CrrlError: two are called the same, so that there is no telling which is meant.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if wanted is not None and path.stem not in wanted:
            continue
        if path.stem in found:
            raise CrrlError(f"{found[path.stem]} and {path} are called the same: remove one of them")
        found[path.stem] = path
    return found


def wrong_name(name: str) -> str:
    """What keeps `name` from being one of a clip, a class or a joint, after the word "name"; "" where nothing does."""
    if not name.strip():
        return "is empty"
    if len(name) > LONGEST:
        return f"has {len(name):,} characters, more than {LONGEST}"
    if odd := _UNPRINTABLE.search(name):
        return f"holds an unprintable character (U+{ord(odd[0]):04X})"
    return ""
