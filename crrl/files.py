"""Files that are either whole or absent: every write goes to a temporary neighbour first and is renamed into place.

Files that others wrote are opened by `open_input`, which waits for no pipe and says what a file of another kind is.
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
"""Bytes by which a kind of file is told."""
SHOWN = 24
"""Characters of a file that a message repeats."""
ELSEWHERE = "set CRRL_CACHE to another folder"
"""What to do where the cache is of no use."""
LOCK = ".lock"
FRESH = 60
"""Seconds within which a new folder has its lock."""


class Kind(NamedTuple):
    """A kind of file that its first bytes tell: its name here, what it is in words, and what to do with it."""

    name: str
    words: str
    remedy: str


def _kinds() -> dict[re.Pattern[bytes], Kind]:
    pointed = "fetch the file that it stands for, by git"
    again = "download the file again, as this came in its place"
    unpack = "unpack it"
    other = "give the file that is meant"
    table = (
        (rb".{4}\0{4}\{\"", "safetensors", "a safetensors file", other),  # first: its length may begin as others do
        (rb"version https://git-lfs", "git-lfs", "a git-lfs pointer", f"{pointed} lfs pull"),
        (rb"[^\n]{0,300}/annex/objects/", "git-annex", "a git-annex pointer", f"{pointed} annex get"),
        (rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body|title)", "html", "a web page (HTML)", again),
        (rb"(\xef\xbb\xbf)?\s*<([?!]?[a-z]|!--)", "xml", "XML", again),
        (rb"404: not found|(not found|access denied|forbidden)\.?\s*\Z", "answer", "the answer of a server", again),
        (rb"\x1f[\x8b\x9d]", "gzip", "compressed (gzip)", unpack),
        (rb"BZh[1-9]", "bzip2", "compressed (bzip2)", unpack),
        (rb"\xfd7zXZ\0", "xz", "compressed (xz)", unpack),
        (rb"\x28\xb5\x2f\xfd", "zstd", "compressed (zstd)", unpack),
        (rb"7z\xbc\xaf", "7z", "a 7z archive", unpack),
        (rb"Rar!\x1a", "rar", "a RAR archive", unpack),
        (rb".{257}ustar", "tar", "a tar archive", unpack),
        (rb"PK(\x03\x04|\x05\x06)", "zip", "a zip archive (.npz, .pt, .xlsx)", other),
        (rb"\x93NUMPY", "npy", "a NumPy array (.npy)", other),
        (rb"\x80[\x02-\x05]", "pickle", "a pickle", other),
        (rb"(\xef\xbb\xbf)?\s*[\[{]", "json", "JSON", other),
        (rb"(\xef\xbb\xbf)?\s*HIERARCHY\b", "bvh", "a BVH file", "such files are read by python -m crrl.prepare bvh"),
        (rb"Kaydara FBX", "fbx", "an FBX file", "export it as BVH"),
        (rb"\x89HDF\r\n", "hdf5", "an HDF5 file", "save what it holds as .npy"),
        (rb"MATLAB [57]\.", "mat", "a MATLAB file", "save what it holds as .npy"),
        (rb"\xff\xfe[^\0]\0|\xfe\xff\0[^\0]", "utf-16", "text in UTF-16", "save it as UTF-8"),
        (rb"\xd0\xcf\x11\xe0", "office", "a document of Office", "save it as text in UTF-8"),
        (rb"%PDF-", "pdf", "a PDF document", other),
        (rb"\x89PNG|\xff\xd8\xff|GIF8", "image", "a picture", other),
        (rb"RIFF.{4}AVI |.{4}ftyp|\x1a\x45\xdf\xa3", "video", "a video", other),
        (rb"SQLite format 3\0", "sqlite", "an SQLite database", other),
        (rb"PAR1[\0-\x1f]", "parquet", "a Parquet file", other),
        (rb"\x7fELF|MZ.\0", "program", "a program", other),
    )
    return {re.compile(pattern, re.DOTALL | re.IGNORECASE): Kind(*kind) for pattern, *kind in table}


_KINDS = _kinds()


def kind_of(head: bytes) -> Kind | None:
    """What a file is that begins so; None: text, or nothing that is known."""
    return next((kind for pattern, kind in _KINDS.items() if pattern.match(head[:HEAD])), None)


def check_kind(path: Path, head: bytes, what: str, *kinds: str, only: bool = False) -> None:
    """Raise where a file that begins so is known to be of another kind than it should.

    Args:
        what: it should be, in words. kinds: names of kinds that it may be. only: it must be one of these,
            unless it is empty.

    Raises:
        CrrlError: says what it is, and what to do.
    """
    kind = kind_of(head)
    if kind and kind.name not in kinds:
        raise CrrlError(f"{path} is {kind.words}, not {what}: {kind.remedy}")
    if only and head and not kind:
        begins = f"it begins with {shown(head)!r}"
        raise CrrlError(f"{path} is not {what} ({begins}): restore it, or give the file that is meant")


def shown(text: str | bytes) -> str:
    """What a message repeats of a file: its first characters, those that cannot be printed as ?."""
    start = text[:SHOWN].decode("ascii", "replace") if isinstance(text, bytes) else text[:SHOWN]
    return "".join(char if char.isprintable() and char != "\ufffd" else "?" for char in start)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_input(path: Path, what: str = "", *kinds: str, only: bool = False) -> BufferedReader:
    """Open a file that others wrote, of the kind that `check_kind` is told; without `what` of any.

    Raises:
        CrrlError: it cannot be opened, is of another kind, or is no regular file: a pipe may never have anything to
            read, and a device no end.
    """
    with explain_os_errors(path, "read"):
        try:
            file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
        except ValueError as error:
            raise CrrlError(f"{shown(str(path))!r} ... names no file ({error}): give it another name") from error
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CrrlError(f"{path} is no regular file, but a pipe, a device or a socket: give a file")
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
    """Turn an OSError met while `doing` something with `path` into one line that names the file and the remedy.

    Args:
        elsewhere: how to have it done in another place, where this one is of no use.
    """
    try:
        yield
    except OSError as error:
        short_write = error.errno is None and "written" in str(error)  # NumPy's word for a full disk
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


class Busy(CrrlError):
    """Another process works in a folder that this one needs for itself."""


@contextmanager
def alone(folder: Path, busy: str, name: str = LOCK, shared: bool = False) -> Iterator[int]:
    """Within the block no other process is in a block of its own by this folder and name; yields the lock's descriptor.

    The folder is made where it is missing; the file `name` in it stays. The lock is the kernel's: it ends with the
    process, however that ends, or with the last of the processes begun with the descriptor; forked workers do not hold
    it.

    Args:
        busy: what is said of the folder where another process is in such a block, and the remedy.
        shared: others that share it may be in their blocks too.

    Raises:
        Busy: another process is there: the folder and `busy`.
        CrrlError: the folder cannot be written.
    """
    import fcntl  # here, so that what locks nothing goes without a POSIX system

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
    """What a forked process does: a worker lives on for a moment when its parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hold_nothing)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file of ours that is made, appended to or cut, by the flags of os.open.

    Raises:
        CrrlError: it cannot be opened, or is a symbolic link or no regular file: what it stands for is not ours.
    """
    with explain_os_errors(path, "write"):
        if path.is_symlink():
            raise CrrlError(f"{path} is a symbolic link, and nothing is written through one: remove it")
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CrrlError(f"{path} is no regular file: remove it")
    return descriptor


def refuse_place(out: Path) -> None:
    """Raise where a file cannot be written, before much is computed for it.

    Raises:
        CrrlError: its folder is not there or may not be written to, or it is a folder itself, a device, ...
    """
    _check_place(out)
    if out.is_dir():
        raise CrrlError(f"{out} is a folder: give --out the name of a file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise CrrlError(f"{out} cannot be written: {out.parent} is no folder that you may write to; choose another")


def _check_place(path: Path) -> None:
    """Raise where a file moved to `path` would take the place of a device, a pipe or a socket, for all who use it."""
    with explain_os_errors(path, "write"):
        special = path.exists() and not path.is_file() and not path.is_dir()
        folder = os.path.realpath(path.parent)
    if special or folder == "/dev" or f"{folder}/".startswith(("/proc/", "/sys/")):
        raise CrrlError(f"{path} is a device, a pipe or a socket, or lies among such: give the name of a file")


def refuse_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """Raise CrrlError where the file to be written is one of those that are read."""
    for path in inputs:
        with suppress(OSError):
            if os.path.samefile(out, path):
                raise CrrlError(f"--out {out} is read as {path}, and would be lost: give it another name")


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` with a new file, then move that to `path` in one step; it is on the disk afterwards.

    Raises:
        CrrlError: the disk is full, the folder may not be written to, `path` is a device, ...; it then is what it was
            before.
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
    """Have the names in a folder on the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, *names: str) -> None:
    """Remove what killed processes left of writing the files of these names, patterns of fnmatch, in a folder."""
    for name in names:
        for path in folder.glob(f".{name}.*.tmp"):
            with explain_os_errors(path, "remove"):
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; what is none, as in a path, is escaped."""
    write_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def read_bytes(path: Path, what: str = "", *kinds: str) -> bytes:
    """The content of a file that `open_input` opens.

    Raises:
        CrrlError: it is missing, unreadable, no regular file or of another kind.
    """
    with open_input(path, what, *kinds) as file, explain_os_errors(path, "read"):
        return file.read()


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names stands twice: JSON's own reader takes the last."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{shown(twice)!r} is there twice")
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CrrlError: it is missing, unreadable, another kind of file, not JSON (truncated, say), nested too deep to be
            read, names a thing twice in one object, or has a carriage return without a line feed, which one changed bit
            makes of a minus sign.
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
    """A new folder in `folder`, for a process that is alone there (`alone`, which has `busy` explained).

    At the end of the block it is removed where it is still there; so is `folder` where nothing else is in it. What a
    killed process has left of its own goes at the start.

    Raises:
        Busy: another process is there.
        CrrlError: `folder` cannot be written, or is a symbolic link.
    """
    if folder.is_symlink():
        raise CrrlError(f"{folder} is a symbolic link, and nothing is written through one: remove it")
    with alone(folder, busy) as lock:
        whole = folder / "whole"
        with explain_os_errors(whole, "write"):
            if not os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):  # removed by who was done just then
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
    """Call `write(temporary folder)`, then move that folder into the cache, to `path`; a folder already there stays.

    Two processes may do this at once: the first to finish wins, both then read the same content.

    Raises:
        CrrlError: the disk is full, the cache may not be written to, ...
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
    """Remove a folder from the cache: first out of the way in one step, then from the disk.

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
    """A new folder below that of `path`, removed at the end of the block; so are those that killed processes left."""
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
    """Move a folder of files to `path` in one step, once the disk holds them, and have the disk hold that too."""
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
    """Where prepared sets are kept: $CRRL_CACHE, else ~/.cache/crrl.

    Raises:
        CrrlError: the user has no home folder.
    """
    if folder := os.environ.get("CRRL_CACHE"):
        return Path(folder)
    try:
        return Path.home() / ".cache" / "crrl"
    except RuntimeError as error:
        raise CrrlError("there is no home folder to keep prepared sets in: set CRRL_CACHE to a folder") from error
