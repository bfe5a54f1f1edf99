"""What is read of many files, kept in chunks, so that a command that was stopped goes on where it was.

A chunk is what a few files hold, in a file of its own, called by a hash of all that it depends on: the code that reads,
and the files' names and contents, or sizes and times. One that is there and whole is not made again. `crrl prepare`
keeps chunks of all data sets whose files are many and slow to read: of one clip a file by itself (`packing`), of others
in `read_in_order`.
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
"""What `read_in_order` has a worker read at a time: what is under way when the command is stopped is read again."""

Files = tuple[Path, ...]
"""Files that are read together: one item."""
Shown = list[tuple[Any, FloatArray]]
"""What an item shows: clips, float32 [T, J, 3] (T may be 0), each after facts that JSON holds as they are."""


@dataclass(frozen=True)
class Chunk:
    """Some items, and where what they show is kept: an array and facts, as .npz without pickles."""

    items: Sequence[Files]
    path: Path

    @cached_property
    def is_done(self) -> bool:
        """Whether it was made before, and what was kept is whole."""
        try:
            self.facts()
            self.frames()
        except Exception:  # what is damaged fails in zipfile, NumPy, JSON, ..., each in its own way
            return False
        return True

    def write(self, frames: FloatArray, facts: Any) -> None:
        """Keep `frames` (float32, any shape) and `facts` (JSON), whole or not at all."""
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
    """Where chunks are kept, and what they depend on beside their files.

    Attributes:
        folder: an existing folder. root: that of the data set: a file is known by its path below it.
        code: a hash of the code that reads. digests: a hash of a file's content, by its path below the root; of a file
            that is not there, size and time of the last change stand for it.
    """

    folder: Path
    root: Path
    code: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def chunks(self, items: Sequence[Files], size: int) -> list[Chunk]:
        """Items in their order, `size` to a chunk. A file that is changed or replaced gives its chunk another name."""
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
    """Within the block `read_in_order` keeps what it reads, and takes up what is kept; outside of any it does not."""
    before = _place.set(place)
    try:
        yield
    finally:
        _place.reset(before)


def read_in_order(read: Callable[[Files], Shown], items: Sequence[Files], what: str) -> Generator[Shown, None, None]:
    """read(item) for all items in their order, by worker processes as `in_order` has them, with a bar called `what`.

    Args:
        read: of a module. What it gives depends on the content of an item's files and their paths below the root alone.

    Raises:
        CrrlError: a worker was killed, or `read` raised it for an item, in the place of what the item (where chunks
            are kept: its chunk) shows.
    """
    place = _place.get()
    if place is None:
        yield from in_order(read, items, what)
        return
    with closing(make_in_order(partial(_make, read), place.chunks(items, CHUNK_ITEMS), what)) as chunks:
        for chunk in chunks:
            yield from _shown(chunk)


def make_in_order(make: Callable[[Chunk], None], chunks: Sequence[Chunk], what: str) -> Generator[Chunk, None, None]:
    """The chunks in their order, each once it is there; make(chunk) writes one that is not done, in a worker process.

    Close the generator (contextlib.closing) to end the workers before the last chunk.

    Args:
        make: of a module, or a partial of such a function.

    Raises:
        CrrlError: a worker was killed. What `make` raises comes in the place of its chunk.
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
    """Keep what the chunk's items show: all frames in one flat array, facts and shapes of each item's clips."""
    shown = [read(files) for files in chunk.items]
    flat = [frames.ravel() for clips in shown for _, frames in clips]  # joints may differ: the reader will say so
    facts = [[(about, frames.shape) for about, frames in clips] for clips in shown]
    chunk.write(np.concatenate([np.empty(0, np.float32), *flat]), facts)


def _shown(chunk: Chunk) -> Iterator[Shown]:
    """What `_make` kept, item by item."""
    flat, first = chunk.frames(), 0
    for clips in chunk.facts():
        shown: Shown = []
        for about, shape in clips:
            last = first + prod(shape)
            shown.append((about, flat[first:last].reshape(shape)))
            first = last
        yield shown


def below(root: Path, path: Path) -> str:
    """A file's path below `root`, or its name where `root` is that file."""
    if path == root:
        return path.name
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
