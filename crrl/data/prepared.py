"""A prepared folder, written by `crrl prepare`: clips in their flat form, and a manifest with a hash of every file."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from crrl.data.clips import ARRAYS, Clips
from crrl.data.naming import wrong_name
from crrl.errors import CrrlError
from crrl.files import explain_os_errors, open_input, read_json, shown

FORMAT = 1
MANIFEST = "manifest.json"
NEEDED = (MANIFEST, "meta.json", "frames.npy")
"""The files that make a folder a prepared one: other programs write a manifest.json too."""
HELD = {f"{name}.npy" for name in ARRAYS} | {"meta.json"}
"""Files whose hashes every manifest holds."""

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
    files = manifest.get("files")
    if not isinstance(manifest.get("dataset"), str) or not isinstance(files, dict) or not files.keys() >= HELD:
        raise CrrlError(f"{root / MANIFEST} is damaged, it does not say what it stands for: prepare the data set again")
    for name, value in files.items():
        if Path(name).name != name or name == ".." or wrong_name(name) or not isinstance(value, str):
            raise CrrlError(
                f"{root / MANIFEST} names {shown(name)!r}, no file of its folder: prepare the data set again"
            )
    return manifest


def find_files(root: Path) -> list[Path]:
    """The manifest alone: it holds the hashes of the other files."""
    read_manifest(root)
    return [root / MANIFEST]


def load(files: list[Path]) -> Clips:
    """Check every file of the folder of the manifest against its hash, then open the clips, memory-mapped.

    Raises:
        CrrlError: a file is missing or differs from what was prepared.
    """
    root = files[0].parent
    for name, expected in read_manifest(root)["files"].items():
        open_input(root / name, "a file of a prepared folder", "npy", "json").close()  # refuses a git-lfs pointer, say
        if digest(root / name) != expected:
            raise CrrlError(f"{root / name} is no longer what was prepared: restore it or prepare the data set again")
    return Clips.open(root)


def digest(path: Path) -> str:
    """BLAKE2b of a file, 32 hex digits: what `b2sum -l 128` prints."""
    with open_input(path) as file, explain_os_errors(path, "read"):
        return hashlib.file_digest(file, _blake2b).hexdigest()


def digest_of(content: bytes) -> str:
    """`digest` of a file with this content."""
    return _blake2b(content).hexdigest()
