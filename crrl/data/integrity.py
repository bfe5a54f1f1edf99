"""Files held against their hashes: what is kept when it is opened, what is read of others once it was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from crrl.errors import CrrlError
from crrl.files import explain_os_errors, open_input, read_json, write_json

SEAL = "hashes.json"
LARGE = 1 << 30
"""Bytes from which on a file whose time of last change is still the same is held against a sample of it alone."""
BLOCK, BLOCKS = 1 << 20, 64
"""Bytes of a block of such a sample, and how many blocks there are, the file's first and last among them."""

Digest = Callable[[Path], str]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as sha256sum prints it."""
    with open_input(path) as file, explain_os_errors(path, "read"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample(path: Path) -> str:
    """SHA-256 of a file's size and of blocks that lie evenly in it; of a small file that is all of it."""
    with open_input(path) as file, explain_os_errors(path, "read"):
        size = os.fstat(file.fileno()).st_size
        hashed = hashlib.sha256(size.to_bytes(8, "little"))
        for i in range(BLOCKS):
            file.seek(max(size - BLOCK, 0) * i // (BLOCKS - 1))
            hashed.update(file.read(BLOCK))
            if size <= BLOCK:
                break
    return hashed.hexdigest()


def seal(folder: Path) -> None:
    """Write down the hashes of all files of a folder, in a file beside them that `damage` reads."""
    write_json(
        folder / SEAL,
        {
            path.name: {"sha256": sha256(path), "sample": _sample(path), "modified": path.stat().st_mtime_ns}
            for path in sorted(folder.iterdir())
        },
    )


def damage(folder: Path, names: Collection[str]) -> str:
    """What of a folder of files with these names is not as it was when it was sealed, in words; "": nothing.

    A file of LARGE and more is held against a sample where its time of last change is the same. With CRRL_CHECK=full
    in the environment all files are read from end to end.

    Raises:
        OSError: a file that is there cannot be read.
    """
    try:
        sealed = read_json(folder / SEAL)
        if not isinstance(sealed, dict) or sealed.keys() != set(names):
            return f"{folder / SEAL} is damaged"
        changed = [name for name in names if not _is_sealed(folder / name, sealed[name])]
    except CrrlError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from None
        return str(error)
    return f"{folder / changed[0]} is no longer what was written" if changed else ""


def _is_sealed(path: Path, known: Any) -> bool:
    if not isinstance(known, dict) or known.keys() != {"sha256", "sample", "modified"}:
        return False
    with explain_os_errors(path, "read"):
        state = path.stat()
    untouched = state.st_size >= LARGE and state.st_mtime_ns == known["modified"]
    if untouched and os.environ.get("CRRL_CHECK") != "full":
        return bool(_sample(path) == known["sample"])
    return bool(sha256(path) == known["sha256"])


class Inputs:
    """Files that are to be read, by their hashes; `check` finds what was replaced or written to in the meantime."""

    def __init__(self, files: Iterable[Path], digest: Digest = sha256):
        self.digest = digest
        self._stamps, self.digests = {}, {}
        for path in files:
            self._stamps[path] = _stamp(path)  # before the content: a change between the two shows in `check`
            self.digests[path] = digest(path)

    def check(self) -> None:
        """Raise where a file is no longer what was hashed, or was exchanged for another and back.

        Raises:
            CrrlError: it names the file.
        """
        for path, digest in self.digests.items():
            if _stamp(path) != self._stamps[path] or self.digest(path) != digest:
                raise CrrlError(
                    f"{path} changed while it was read: run the same command again when nobody writes to it"
                )


def _stamp(path: Path) -> tuple[int, ...]:
    with explain_os_errors(path, "read"):
        state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
