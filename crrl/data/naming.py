"""Files found by their names, in whichever folder they lie."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from crrl.errors import CrrlError


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
