"""A prepared folder, what `crrl prepare` leaves: clips in their flat form, a manifest with a hash of every file."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from crrl.data.clips import Clips
from crrl.errors import CrrlError
from crrl.files import explain_os_errors, read_json

FORMAT = 1
MANIFEST = "manifest.json"
NEEDED = (MANIFEST, "meta.json", "frames.npy")
"""The files by which a prepared folder is known: others have a manifest.json too."""

_blake2b = partial(hashlib.blake2b, digest_size=16)


def is_prepared(root: Path) -> bool:
    return not _missing(root)


def _missing(root: Path) -> list[str]:
    return [name for name in NEEDED if not (root / name).is_file()]


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        CrrlError: there is none, or it is damaged or of another version.
    """
    if missing := _missing(root):
        raise CrrlError(
            f"{root} was not prepared (no {', '.join(missing)}): make it by python -m crrl.prepare SOURCE --out FOLDER"
        )
    manifest = read_json(root / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CrrlError(f"{root / MANIFEST} is damaged or of another version of crrl: prepare the data set again")
    return manifest


def find_files(root: Path) -> list[Path]:
    """The manifest alone: it holds the hash of all that it stands for."""
    read_manifest(root)
    return [root / MANIFEST]


def load(files: list[Path]) -> Clips:
    """Open the folder of the manifest that `find_files` found, memory-mapped, once every file has its hash.

    Raises:
        CrrlError: a file is missing or is no longer what was prepared.
    """
    root = files[0].parent
    for name, expected in read_manifest(root)["files"].items():
        if digest(root / name) != expected:
            raise CrrlError(f"{root / name} is no longer what was prepared: restore it or prepare the data set again")
    return Clips.open(root)


def digest(path: Path) -> str:
    """BLAKE2b of a file, 32 hex digits: what `b2sum -l 128` prints."""
    with explain_os_errors(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def digest_of(content: bytes) -> str:
    """`digest` of a file with this content."""
    return _blake2b(content).hexdigest()
