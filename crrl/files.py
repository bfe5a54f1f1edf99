"""Atomic files, locks and the cache: a file or folder is whole or absent, because it is written beside and renamed.

`open_input` opens users' files: it never waits for a pipe, and an error names the kind of a wrong file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from crrl.errors import CrrlError

HEAD = 512
"""Bytes from which the kind of a file is recognised."""
SHOWN = 24
"""Characters of a file that an error message repeats."""
ELSEWHERE = "set CRRL_CACHE to another folder"
"""The remedy where the cache folder cannot be used."""
LOCK = ".lock"
FRESH = 60
"""Seconds after which a temporary folder whose lock is free counts as abandoned."""


class Kind(NamedTuple):
    """A kind of file: its name here, how a message calls it, and the remedy where another kind is expected."""

    name: str
    words: str
    remedy: str


_POINTED = "fetch the file that it stands for, by git"
_AGAIN = "download the file again, as this came in its place"
_UNPACK = "unpack it"
_OTHER = "give the file that is meant"
_KINDS = {
    re.compile(pattern, re.DOTALL | re.IGNORECASE): Kind(*kind)
    for pattern, *kind in (
        (rb".{4}\0{4}\{\"", "safetensors", "a safetensors file", _OTHER),  # first: its length may match another pattern
        (rb"version https://git-lfs", "git-lfs", "a git-lfs pointer", f"{_POINTED} lfs pull"),
        (rb"[^\n]{0,300}/annex/objects/", "git-annex", "a git-annex pointer", f"{_POINTED} annex get"),
        (rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body|title)", "html", "a web page (HTML)", _AGAIN),
        (rb"(\xef\xbb\xbf)?\s*<([?!]?[a-z]|!--)", "xml", "XML", _AGAIN),
        (rb"404: not found|(not found|access denied|forbidden)\.?\s*\Z", "answer", "the answer of a server", _AGAIN),
        (rb"\x1f[\x8b\x9d]", "gzip", "compressed (gzip)", _UNPACK),
        (rb"BZh[1-9]", "bzip2", "compressed (bzip2)", _UNPACK),
        (rb"\xfd7zXZ\0", "xz", "compressed (xz)", _UNPACK),
        (rb"\x28\xb5\x2f\xfd", "zstd", "compressed (zstd)", _UNPACK),
        (rb"7z\xbc\xaf", "7z", "a 7z archive", _UNPACK),
        (rb"Rar!\x1a", "rar", "a RAR archive", _UNPACK),
        (rb".{257}ustar", "tar", "a tar archive", _UNPACK),
        (rb"PK(\x03\x04|\x05\x06)", "zip", "a zip archive (.npz, .pt, .xlsx)", _OTHER),
        (rb"\x93NUMPY", "npy", "a NumPy array (.npy)", _OTHER),
        (rb"\x80[\x02-\x05]", "pickle", "a pickle", _OTHER),
        (rb"(\xef\xbb\xbf)?\s*[\[{]", "json", "JSON", _OTHER),
        (rb"(\xef\xbb\xbf)?\s*HIERARCHY\b", "bvh", "a BVH file", "such files are read by python -m crrl.prepare bvh"),
        (rb"Kaydara FBX", "fbx", "an FBX file", "export it as BVH"),
        (rb"\x89HDF\r\n", "hdf5", "an HDF5 file", "save what it holds as .npy"),
        (rb"MATLAB [57]\.", "mat", "a MATLAB file", "save what it holds as .npy"),
        (rb"\xff\xfe[^\0]\0|\xfe\xff\0[^\0]", "utf-16", "text in UTF-16", "save it as UTF-8"),
        (rb"\xd0\xcf\x11\xe0", "office", "a document of Office", "save it as text in UTF-8"),
        (rb"%PDF-", "pdf", "a PDF document", _OTHER),
        (rb"\x89PNG|\xff\xd8\xff|GIF8", "image", "a picture", _OTHER),
        (rb"RIFF.{4}AVI |.{4}ftyp|\x1a\x45\xdf\xa3", "video", "a video", _OTHER),
        (rb"SQLite format 3\0", "sqlite", "an SQLite database", _OTHER),
        (rb"PAR1[\0-\x1f]", "parquet", "a Parquet file", _OTHER),
        (rb"\x7fELF|MZ.\0", "program", "a program", _OTHER),
    )
}
"""The kinds by the pattern of a file's first bytes. The first match counts."""


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that begins with `head`; None for text and anything unknown."""
    return next((kind for pattern, kind in _KINDS.items() if pattern.match(head[:HEAD])), None)


def check_kind(path: Path, head: bytes, what: str, *kinds: str, only: bool = False) -> None:
    """Check that a file which begins with `head` is of an expected kind.

    Args:
        what: the expected kind, in words. kinds: the names of the kinds allowed. only: refuse unknown content too,
            unless the file is empty; otherwise unknown content passes.

    Raises:
        CrrlError: the file is of another kind; says which, and the remedy.
    """
    kind = kind_of(head)
    if kind and kind.name not in kinds:
        raise CrrlError(f"{path} is {kind.words}, not {what}: {kind.remedy}")
    if only and head and not kind:
        begins = f"it begins with {shown(head)!r}"
        raise CrrlError(f"{path} is not {what} ({begins}): restore it, or give the file that is meant")


def shown(text: str | bytes) -> str:
    """The first characters of a text, as a message repeats them; unprintable ones become "?"."""
    start = text[:SHOWN].decode("ascii", "replace") if isinstance(text, bytes) else text[:SHOWN]
    return "".join(char if char.isprintable() and char != "\ufffd" else "?" for char in start)


def open_input(path: Path, what: str = "", *kinds: str, only: bool = False) -> BufferedReader:
    """Open a regular file for reading, and check its kind as `check_kind` does; without `what` every kind passes.

    Raises:
        CrrlError: the file cannot be opened, is of another kind, or is a pipe, a device or a socket, which may block
            or never end.
    """
    with explain_os_errors(path, "read"):
        try:
            file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
        except ValueError as error:
            raise CrrlError(
                f"{shown(str(path))!r} ... cannot be a file's name ({error}): choose another name"
            ) from error
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CrrlError(f"{path} is not a regular file, but a pipe, a device or a socket: give a file")
        if what:
            with explain_os_errors(path, "read"):
                check_kind(path, file.read(HEAD), what, *kinds, only=only)
                file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def explain_os_errors(path: Path, doing: str, elsewhere: str = "choose another folder") -> Iterator[None]:
    """Turn an OSError raised in the block into a CrrlError with the path and a remedy.

    Args:
        doing: the verb of the message: read, write, lock, ... elsewhere: how to use another place than this one.
    """
    try:
        yield
    except OSError as error:
        short_write = error.errno is None and "written" in str(error)  # NumPy's error for a full disk
        if short_write or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some disk space (or raise the quota), then run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = f"give yourself permission there, or {elsewhere}"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = f"a file is in the way of a folder: {elsewhere}"
        elif error.errno == errno.ENOENT:
            remedy = "check the path"
        else:
            remedy = "check the disk and the path, then run the same command again"
        raise CrrlError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}") from error


@contextmanager
def explain_damage(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn any error raised while the file `path` is read into a CrrlError: "PATH is `what` (reason): `remedy`".

    Libraries report a damaged file by many exception types (zipfile, zlib, tokenize, mmap, ...), so all are caught. A
    CrrlError passes unchanged; an OSError is explained by `explain_os_errors`.
    """
    with explain_os_errors(path, "read"):
        try:
            yield
        except (CrrlError, OSError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise CrrlError(f"{path} is {what} ({reason}): {remedy}") from error


class Busy(CrrlError):
    """Another process holds the lock of a folder."""


@contextmanager
def alone(folder: Path, busy: str, name: str = LOCK, shared: bool = False) -> Iterator[int]:
    """Hold the lock file `name` of a folder during the block; yields its descriptor.

    The folder is made if missing, and the lock file stays. The kernel frees the lock when this process, and all
    that inherited the descriptor, have ended, however they end. Forked workers do not hold it.

    Args:
        busy: the message for a folder that is locked, after its path, with the remedy.
        shared: take a lock that other processes may share.

    Raises:
        Busy: another process holds the lock.
        CrrlError: the folder cannot be written.
    """
    import fcntl  # imported here because only locking needs a POSIX system

    with explain_os_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = open_own(folder / name, os.O_RDWR)
    try:
        with explain_os_errors(folder / name, "lock"):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"{folder} {busy}") from error
        _held.add(descriptor)
        yield descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


_held: set[int] = set()


def _hold_nothing() -> None:
    """Close the locks in a forked process: a worker may outlive a parent that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hold_nothing)


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours for writing, making it if missing, with the flags of os.open; returns the descriptor.

    Raises:
        CrrlError: it cannot be opened, or is a symbolic link or no regular file.
    """
    with explain_os_errors(path, "write"):
        if path.is_symlink():
            raise CrrlError(f"{path} is a symbolic link, and nothing is written through one: remove it")
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CrrlError(f"{path} is not a regular file: remove it")
    return descriptor


def refuse_place(out: Path) -> None:
    """Check that a file can be written to `out`, before anything is computed for it.

    Raises:
        CrrlError: its folder is missing or not writable, or `out` is itself a folder, a device, ...
    """
    _check_place(out)
    if out.is_dir():
        raise CrrlError(f"{out} is a folder: give --out the name of a file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise CrrlError(f"{out} cannot be written: {out.parent} is not a folder that you may write to; choose another")


def _check_place(path: Path) -> None:
    """Refuse a path that is a device, a pipe or a socket, or lies in /dev, /proc or /sys: a rename would replace it."""
    with explain_os_errors(path, "write"):
        special = path.exists() and not path.is_file() and not path.is_dir()
        folder = os.path.realpath(path.parent)
    if special or folder == "/dev" or f"{folder}/".startswith(("/proc/", "/sys/")):
        raise CrrlError(
            f"{path} is a device, a pipe or a socket, or lies in /dev, /proc or /sys: give the name of a file"
        )


def refuse_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """Raise CrrlError if the output `out` is one of the input files."""
    for path in inputs:
        with suppress(OSError):
            if os.path.samefile(out, path):
                raise CrrlError(f"--out {out} would overwrite {path}, which is read: give another name")


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file, flush it to the disk and rename it to `path` in one step.

    Raises:
        CrrlError: the disk is full, the folder is not writable, `path` is a device, ...; `path` is then unchanged.
    """
    _check_place(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with explain_os_errors(path, "write"):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with open(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, where the file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, *names: str) -> None:
    """Remove temporary files that killed processes left of files with these names (fnmatch patterns) in a folder."""
    for name in names:
        for path in folder.glob(f".{name}.*.tmp"):
            with explain_os_errors(path, "remove"):
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; characters without an encoding, as in some paths, are escaped."""
    write_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def read_bytes(path: Path, what: str = "", *kinds: str) -> bytes:
    """The content of a file, opened by `open_input`.

    Raises:
        CrrlError: it is missing, unreadable, no regular file or of another kind.
    """
    with open_input(path, what, *kinds) as file, explain_os_errors(path, "read"):
        return file.read()


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that occurs twice is an error, where `json` alone would take the last value."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{shown(twice)!r} occurs twice")
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CrrlError: it is missing, unreadable, of another kind, not valid JSON, nested too deep, has an object with a key
            twice, or a carriage return without a line feed, which one flipped bit makes of a minus sign.
    """
    content = read_bytes(path, "JSON", "json", "utf-16")
    try:
        text = content.decode(json.detect_encoding(content))
        if re.search(r"\r(?!\n)", text):
            raise ValueError("a carriage return alone: it may have been a sign")
        return json.loads(text, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise CrrlError(f"{path} is not valid JSON ({error}): the file is damaged or cut short; restore it") from error


@contextmanager
def work_folder(folder: Path, busy: str) -> Iterator[Path]:
    """Make `folder/whole`, hold the lock of `folder` during the block (see `alone`), and yield `folder/whole`.

    At the start, the remains of a killed process are removed. At the end, `whole` is removed if it is still there, and
    so is `folder` if it is empty.

    Raises:
        Busy: another process holds the lock.
        CrrlError: `folder` cannot be written, or is a symbolic link.
    """
    if folder.is_symlink():
        raise CrrlError(f"{folder} is a symbolic link, and nothing is written through one: remove it")
    with alone(folder, busy) as lock:
        whole = folder / "whole"
        with explain_os_errors(whole, "write"):
            if not os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):  # the former holder has just removed it
                raise Busy(f"{folder} {busy}")
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
        try:
            yield whole
        finally:
            shutil.rmtree(whole, ignore_errors=True)
            with suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary folder)`, then rename that folder to `path` in the cache; an existing `path` stays.

    If two processes do this at once, the first to finish wins, and both read the same content afterwards.

    Raises:
        CrrlError: the disk is full, the cache is not writable, ...
    """
    with explain_os_errors(path, "write", ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(path) as temporary:
            write(temporary)
            try:
                move_folder(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise


def discard(path: Path) -> None:
    """Remove a folder from the cache: it is renamed away in one step, then deleted.

    Raises:
        CrrlError: it may not be removed.
    """
    with (
        explain_os_errors(path, "remove", ELSEWHERE),
        _temporary_folder(path) as temporary,
        suppress(FileNotFoundError),
    ):
        os.rename(path, temporary / path.name)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, removed at the end of the block; also removes those that killed processes left."""
    for old in path.parent.glob(".*.partial"):
        with suppress(OSError, CrrlError):
            if time.time() - old.stat().st_mtime > FRESH:
                with alone(old, "is in use"):
                    shutil.rmtree(old)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    folder.mkdir()
    with work_folder(folder, "is in use") as whole:
        yield whole


def move_folder(folder: Path, path: Path) -> None:
    """Flush the files of a folder to the disk, rename the folder to `path` in one step, and flush that too."""
    for each in folder.iterdir():
        with open(each, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    os.rename(folder, path)
    sync_folder(path.parent)


def content_hash(parts: Iterable[bytes | memoryview | str]) -> str:
    """SHA-256 over length-prefixed parts, as 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(memoryview(data).nbytes.to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def cache_folder() -> Path:
    """The folder of the cache of prepared sets: $CRRL_CACHE, else ~/.cache/crrl.

    Raises:
        CrrlError: the user has no home folder.
    """
    if folder := os.environ.get("CRRL_CACHE"):
        return Path(folder)
    try:
        return Path.home() / ".cache" / "crrl"
    except RuntimeError as error:
        raise CrrlError("there is no home folder to keep prepared sets in: set CRRL_CACHE to a folder") from error
