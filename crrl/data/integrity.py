"""Hashes of files: a folder of ours is checked when it is opened, the files of others after they were read."""

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
"""Bytes from which a file with an unchanged modification time is checked by a sample alone."""
BLOCK, BLOCKS = 1 << 20, 64
"""Bytes of a block of such a sample, and the number of blocks, which include the file's first and last."""

Digest = Callable[[Path], str]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as sha256sum prints it."""
    with open_input(path) as file, explain_os_errors(path, "read"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample(path: Path) -> str:
    """SHA-256 of a file's size and of blocks spread evenly over it; they cover all of a small file."""
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
    """Write the hashes of all files of a folder into the file SEAL beside them, for `damage`."""
    write_json(
        folder / SEAL,
        {
            path.name: {"sha256": sha256(path), "sample": _sample(path), "modified": path.stat().st_mtime_ns}
            for path in sorted(folder.iterdir())
        },
    )


def damage(folder: Path, names: Collection[str]) -> str:
    """How a folder with files of these names differs from what `seal` saw, in words; "" if it does not.

    A file of at least LARGE bytes with an unchanged modification time is checked by a sample. With CRRL_CHECK=full in
    the environment every file is read from end to end.

    Raises:
        OSError: an existing file cannot be read.
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
    """The hashes of files that are about to be read; `check` finds files that changed in the meantime."""

    def __init__(self, files: Iterable[Path], digest: Digest = sha256):
        self.digest = digest
        self._stamps, self.digests = {}, {}
        for path in files:
            self._stamps[path] = _stamp(path)  # before the digest, so that `check` sees a change between the two
            self.digests[path] = digest(path)

    def check(self) -> None:
        """Check that no file changed since it was hashed, not even to another content and back.

        Raises:
            CrrlError: one did; names it.
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
