"""Files that are either whole or absent: every write goes to a temporary neighbour first and is renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crrl.errors import CrrlError


@contextmanager
def explain_os_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError met while `doing` something with `path` into one line that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        short_write = error.errno is None and "written" in str(error)  # NumPy's word for a full disk
        if short_write or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some disk space (or raise the quota), then run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "give yourself permission there, or choose another folder"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file is in the way of a folder: choose another path"
        elif error.errno == errno.ENOENT:
            remedy = "check the path"
        else:
            remedy = "check the disk and the path, then run the same command again"
        raise CrrlError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}") from error


@contextmanager
def explain_damage(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever fails while the file `path` is read into one line: that it is `what`, why, and the remedy.

    A damaged file fails in zipfile, zlib, tokenize, mmap, ..., each in its own way. A CrrlError passes as it is; an
    OSError is explained as such.
    """
    with explain_os_errors(path, "read"):
        try:
            yield
        except (CrrlError, OSError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise CrrlError(f"{path} is {what} ({reason}): {remedy}") from error


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, then move the result to `path` in one step.

    Raises:
        CrrlError: the disk is full, the folder may not be written to, ...; `path` then is what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explain_os_errors(path, "write"):
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        CrrlError: it is missing or unreadable.
    """
    with explain_os_errors(path, "read"):
        return path.read_bytes()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CrrlError: it is missing, unreadable, not JSON (truncated, say), or nested too deep to be read.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CrrlError(f"{path} is not valid JSON ({error}): the file is damaged or cut short; restore it") from error


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary folder)`, then move that folder to `path` in one step; a folder already there stays.

    Two processes may do this at once: the first to finish wins, both then read the same content.
    """
    with explain_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            write(temporary)
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def content_hash(parts: Iterable[bytes | memoryview | str]) -> str:
    """SHA-256 over length-prefixed parts, as 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(memoryview(data).nbytes.to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def cache_folder() -> Path:
    """Where prepared sets are kept: $CRRL_CACHE, else ~/.cache/crrl."""
    return Path(os.environ.get("CRRL_CACHE") or Path.home() / ".cache" / "crrl")
