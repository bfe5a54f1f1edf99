"""Chunks: what a few files hold is kept in one file, so that a command that was stopped can continue.

A chunk's name is a hash of all that it depends on: the code that reads, and the names of the files with their contents,
or their sizes and times. A chunk that exists and is whole is not made again. `crrl prepare` keeps chunks for data sets
of many files: `packing` for those of one clip a file, `read_in_order` for the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import FloatArray
from crrl.data.parallel import compute, in_order, processes_for, progress
from crrl.files import content_hash, explain_os_errors, write_file

CHUNK_ITEMS = 8
"""Items in a chunk of `read_in_order`; only the chunks being read when a command is stopped are read again."""

Files = tuple[Path, ...]
"""Files that are read together: one item."""
Shown = list[tuple[Any, FloatArray]]
"""What an item holds: clips, float32 [T, J, 3] (T may be 0), each after facts that JSON can hold."""


@dataclass(frozen=True)
class Chunk:
    """Some items, and the .npz file that keeps what they hold: an array and facts, without pickles."""

    items: Sequence[Files]
    path: Path

    @cached_property
    def is_done(self) -> bool:
        """Whether the chunk was made before and is whole."""
        try:
            self.facts()
            self.frames()
        except Exception:  # zipfile, NumPy, JSON, ... each report damage by exceptions of their own
            return False
        return True

    def write(self, frames: FloatArray, facts: Any) -> None:
        """Write `frames` (float32, any shape) and `facts` (JSON) atomically."""
        arrays: dict[str, Any] = {"frames": frames, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        write_file(self.path, lambda file: np.savez(file, **arrays))

    def frames(self) -> FloatArray:
        with np.load(self.path, allow_pickle=False) as arrays:
            frames: FloatArray = arrays["frames"]
        return frames

    def facts(self) -> Any:
        with np.load(self.path, allow_pickle=False) as arrays:
            return json.loads(arrays["facts"].tobytes())


@dataclass(frozen=True)
class Place:
    """Where chunks are kept, and what they depend on besides their files.

    Attributes:
        folder: an existing folder. root: the folder of the data set; a file is identified by its path below it.
        code: a hash of the code that reads. digests: the hash of a file's content, by its path below the root; a file
            that is not among them is identified by its size and modification time.
    """

    folder: Path
    root: Path
    code: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def chunks(self, items: Sequence[Files], size: int) -> list[Chunk]:
        """Chunks of `size` items each, in order. A change of a file changes the name of its chunk."""
        chunks = []
        for start in range(0, len(items), size):
            some = items[start : start + size]
            states = [self._state(path) for files in some for path in files]
            key = content_hash([self.code, json.dumps(states)])
            chunks.append(Chunk(some, self.folder / f"{start:06}-{key[:16]}.npz"))
        return chunks

    def _state(self, path: Path) -> tuple[str | int, ...]:
        name = below(self.root, path)
        if name in self.digests:
            return name, self.digests[name]
        with explain_os_errors(path, "read"):
            state = path.stat()
        return name, state.st_size, state.st_mtime_ns


_place: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def keep_in(place: Place) -> Iterator[None]:
    """During the block `read_in_order` keeps chunks in `place`; outside of any block it keeps none."""
    before = _place.set(place)
    try:
        yield
    finally:
        _place.reset(before)


def read_in_order(read: Callable[[Files], Shown], items: Sequence[Files], what: str) -> Generator[Shown, None, None]:
    """Yield read(item) for all items in their order, by worker processes (`in_order`), with a bar named `what`.

    Args:
        read: defined at the top level of a module; its result depends only on the contents of an item's files and
            their paths below the root.

    Raises:
        CrrlError: a worker was killed, or `read` raised it, in place of the item's result (or that of its chunk).
    """
    place = _place.get()
    if place is None:
        yield from in_order(read, items, what)
        return
    with closing(make_in_order(partial(_make, read), place.chunks(items, CHUNK_ITEMS), what)) as chunks:
        for chunk in chunks:
            yield from _shown(chunk)


def make_in_order(make: Callable[[Chunk], None], chunks: Sequence[Chunk], what: str) -> Generator[Chunk, None, None]:
    """Yield the chunks in their order, each once it is done; make(chunk) writes a missing one in a worker process.

    Close the generator (contextlib.closing) to end the workers early.

    Args:
        make: defined at the top level of a module, or a partial of such a function.

    Raises:
        CrrlError: a worker was killed. An error of `make` is raised in place of its chunk.
    """
    todo = [chunk for chunk in chunks if not chunk.is_done]
    total, left = (sum(len(chunk.items) for chunk in some) for some in (chunks, todo))
    remedy = "run the same command again, it goes on where it was"
    made = compute(make, todo, processes_for(left, len(todo)), remedy)
    with progress(what, total, total - left) as bar, closing(made):
        for chunk in chunks:
            if not chunk.is_done:
                next(made)
                bar.update(len(chunk.items))
            yield chunk


def _make(read: Callable[[Files], Shown], chunk: Chunk) -> None:
    """Read the items of a chunk and keep all frames in one flat array, with the facts and the shape of each clip."""
    shown = [read(files) for files in chunk.items]
    flat = [frames.ravel() for clips in shown for _, frames in clips]  # flat, because numbers of joints may differ
    facts = [[(about, frames.shape) for about, frames in clips] for clips in shown]
    chunk.write(np.concatenate([np.empty(0, np.float32), *flat]), facts)


def _shown(chunk: Chunk) -> Iterator[Shown]:
    """The items that `_make` kept."""
    flat, first = chunk.frames(), 0
    for clips in chunk.facts():
        shown: Shown = []
        for about, shape in clips:
            last = first + prod(shape)
            shown.append((about, flat[first:last].reshape(shape)))
            first = last
        yield shown


def below(root: Path, path: Path) -> str:
    """A file's path below `root`; its name if it is `root`."""
    if path == root:
        return path.name
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
