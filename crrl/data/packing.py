"""`crrl prepare`: a data set from its raw files to a prepared folder, with a manifest.

Files that are a clip each are read in chunks by worker processes. A finished chunk is a file of its own in
FOLDER.partial, called by a hash of all that it depends on: whatever stops the command, the next one takes up the chunks
that are there and whole. The chunks are then laid one after the other, and the result is renamed into place. Other data
sets are read whole, and from the start each time; some of their readers have workers too (`parallel.in_order`).
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, FloatArray, check_clip, write_frames
from crrl.data.manifest import dropped_lines, manifest_of, summary_of
from crrl.data.parallel import cores, progress, use_workers, worker_pool
from crrl.data.prepared import MANIFEST, digest, digest_of
from crrl.data.sources import SOURCES, ClipFiles, Source, data_root
from crrl.errors import CrrlError
from crrl.files import content_hash, explain_os_errors, read_bytes, write_file, write_json

CHUNK_FILES = 256


@dataclass
class Found:
    """What reading a data set's files has shown.

    Attributes:
        inputs: a hash of each file that was read, by its path below the data set's folder.
        dropped: the clips that were left out, with the reason. left_out: what was left out of the others, by reason.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def prepare_folder(
    dataset: str,
    data: Path | None,
    out: Path,
    missing: Sequence[Path] = (),
    skip_damaged: bool = False,
    workers: int = 0,
) -> str:
    """Make the prepared folder `out` of a data set and return what there is to say about it.

    Args:
        dataset: a name of SOURCES. data: the folder of its raw files (or its one file), else $CRRL_DATA.
        missing: lists of clips to leave out. skip_damaged: drop damaged files, with the reason, instead of refusing.
        workers: processes that read; 0: one for each core.

    Raises:
        CrrlError: `out` exists, a file is damaged, nothing is left, ...; finished chunks stay for the next call.
    """
    if dataset not in SOURCES or dataset == "prepared":
        raise CrrlError(
            f"no data set {dataset!r}: choose from {', '.join(name for name in SOURCES if name != 'prepared')}"
        )
    if out.exists():
        raise CrrlError(f"{out} is there already: remove it or give another --out")
    source, root = SOURCES[dataset], data_root(dataset, data)
    if source.clip_files is None and (missing or skip_damaged):
        raise CrrlError(f"--missing and --skip-damaged are for data sets of one clip a file, and {dataset} is none")
    partial = partial_folder(out)
    with explain_os_errors(partial, "write"), _work_folder(partial) as whole:
        if source.clip_files is None:
            with use_workers(workers):
                clips, found = _load_whole(source, root)
            clips.save(whole)
        else:
            reader = _Reader(dataset, root, partial, missing, skip_damaged, workers)
            clips, found = reader.read(whole)
        summary = _describe(whole, dataset, source, clips, found)
        os.rename(whole, out)
        shutil.rmtree(partial)
    return summary


def partial_folder(out: Path) -> Path:
    """Where finished chunks lie until `out` is whole; not there where nothing is kept."""
    return out.with_name(out.name + ".partial")


@contextmanager
def _work_folder(partial: Path) -> Iterator[Path]:
    """A new folder in `partial`, removed where it is still there at the end; so is `partial` without chunks."""
    partial.mkdir(parents=True, exist_ok=True)
    whole = partial / "whole"
    shutil.rmtree(whole, ignore_errors=True)  # of an attempt that was killed while it joined chunks
    whole.mkdir()
    try:
        yield whole
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        with suppress(OSError):
            partial.rmdir()


def _load_whole(source: Source, root: Path) -> tuple[Clips, Found]:
    files = source.find_files(root)
    inputs = {_below(root, path): digest(path) for path in files}
    assert source.load is not None
    clips = source.load(files)
    return clips, Found(inputs, clips.dropped)


def _describe(folder: Path, dataset: str, source: Source, clips: Clips, found: Found) -> str:
    """Write inputs.b2 (as b2sum -l 128 would), manifest.json and report.txt; returns the summary."""
    listed = "".join(f"{value}  {name}\n" for name, value in found.inputs.items())
    (folder / "inputs.b2").write_text(listed, "utf-8")
    official = source.clip_files.official if source.clip_files else None
    code = content_hash(source.code_parts())
    manifest = manifest_of(folder, dataset, code, clips, found.dropped, found.left_out, official)
    summary = summary_of(manifest)
    (folder / "report.txt").write_text("\n".join([summary, *dropped_lines(manifest), ""]), "utf-8")
    write_json(folder / MANIFEST, manifest)
    return summary


@dataclass(frozen=True)
class _Chunk:
    """Some files, and where what they hold is kept."""

    files: Sequence[Path]
    path: Path

    @cached_property
    def is_done(self) -> bool:
        """Whether it was read before, and what was kept is whole."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.testzip() is None
        except (OSError, zipfile.BadZipFile):
            return False


class _Reader:
    """Reads a data set of one clip a file."""

    def __init__(
        self, dataset: str, root: Path, partial: Path, missing: Sequence[Path], skip_damaged: bool, workers: int
    ):
        self.dataset, self.root, self.partial, self.skip_damaged = dataset, root, partial, skip_damaged
        self.workers = workers or cores()
        self.source = SOURCES[dataset]
        self.missing = {name: path for path in missing for name in self.clip_files.missing_names(path)}

    @property
    def clip_files(self) -> ClipFiles:
        assert self.source.clip_files is not None
        return self.source.clip_files

    def read(self, folder: Path) -> tuple[Clips, Found]:
        """The clips, their frames written to folder/frames.npy, and what was found."""
        files = self.source.find_files(self.root)
        found = Found(
            dropped={f.stem: f"listed in {self.missing[f.stem].name}" for f in files if f.stem in self.missing}
        )
        chunks = list(self._chunks([path for path in files if path.stem not in found.dropped]))
        self._make(chunks)
        lengths = self._gather(chunks, found)
        if not lengths:
            raise CrrlError(f"no clip of {self.dataset} is left of the {len(files)} files in {self.root}")
        offsets = np.concatenate([[0], np.cumsum(list(lengths.values()))]).astype(np.int64)
        pieces = (_frames(chunk.path) for chunk in chunks)
        frames = write_frames(folder, (int(offsets[-1]), *_joints(chunks)), pieces)
        clips = self.clip_files.join(frames, offsets, list(lengths))
        clips.save_facts(folder)
        return clips, found

    def _chunks(self, files: Sequence[Path]) -> Iterator[_Chunk]:
        """A file that is changed or replaced gives its chunk another name."""
        code = list(self.source.code_parts())
        for start in range(0, len(files), CHUNK_FILES):
            some = files[start : start + CHUNK_FILES]
            key = content_hash([*code, json.dumps([_state(self.root, path) for path in some])])
            yield _Chunk(some, self.partial / f"{start:06}-{key[:16]}.npz")

    def _make(self, chunks: Sequence[_Chunk]) -> None:
        """Read what was not read yet, with a bar that knows when it will be over."""
        todo = [chunk for chunk in chunks if not chunk.is_done]
        done = sum(len(chunk.files) for chunk in chunks if chunk.is_done)
        total = done + sum(len(chunk.files) for chunk in todo)
        with progress(f"prepare {self.dataset}", total, done) as bar, closing(self._in_parallel(todo)) as counts:
            for count in counts:
                bar.update(count)

    def _in_parallel(self, chunks: Sequence[_Chunk]) -> Generator[int, None, None]:
        """Make chunks; the number of files of each as it is done."""
        if self.workers == 1 or len(chunks) < 2:
            yield from (make_chunk(self.dataset, self.root, chunk.files, chunk.path) for chunk in chunks)
            return
        with worker_pool(self.workers, "run the same command again, it goes on where it was") as pool:
            futures = [pool.submit(make_chunk, self.dataset, self.root, c.files, c.path) for c in chunks]
            yield from (future.result() for future in as_completed(futures))

    def _gather(self, chunks: Sequence[_Chunk], found: Found) -> dict[str, int]:
        """Add up in `found` what the chunks say; the clips that are left, with their lengths.

        Raises:
            CrrlError: a file is damaged, and damaged ones are not to be skipped.
        """
        lengths: dict[str, int] = {}
        damaged: list[str] = []
        for chunk in chunks:
            facts = _facts(chunk.path)
            lengths |= facts["lengths"]
            damaged += [f"{self.root / facts['paths'][name]}, {reason}" for name, reason in facts["damaged"].items()]
            found.inputs |= facts["inputs"]
            found.left_out.update(facts["left_out"])
            found.dropped |= facts["dropped"] | {name: f"damaged, {why}" for name, why in facts["damaged"].items()}
        if damaged and not self.skip_damaged:
            more = f" (the first of {len(damaged)} damaged files)" if len(damaged) > 1 else ""
            raise CrrlError(f"{damaged[0]}{more}: restore the file, or drop what is damaged by --skip-damaged")
        return lengths


def make_chunk(dataset: str, root: Path, files: Sequence[Path], target: Path) -> int:
    """Read files, keep what they hold in `target`, whole or not at all, and return how many they were."""
    read = SOURCES[dataset].clip_files.read  # type: ignore[union-attr]
    facts: dict[str, Any] = {name: {} for name in ("lengths", "paths", "damaged", "dropped", "inputs")}
    clips, left_out = [], Counter[str]()
    for path in files:
        content, name = read_bytes(path), path.stem
        facts["paths"][name] = _below(root, path)
        facts["inputs"][facts["paths"][name]] = digest_of(content)
        try:
            clip, unused = read(content)
        except ValueError as error:
            facts["damaged"][name] = str(error)
            continue
        if len(clip) == 0:
            facts["dropped"][name] = "shows nobody"
            continue
        clips.append(check_clip(clip, str(path)))
        facts["lengths"][name] = len(clip)
        left_out += unused
    text = np.frombuffer(json.dumps(facts | {"left_out": left_out}).encode(), np.uint8)
    arrays: dict[str, Any] = {
        "frames": np.concatenate(clips) if clips else np.zeros((0, 0, 3), np.float32),
        "facts": text,
    }
    write_file(target, lambda temporary: _save(temporary, arrays))
    return len(files)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with open(path, "wb") as file:  # given a path, savez would add .npz to it
        np.savez(file, **arrays)


def _facts(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
    return facts


def _frames(path: Path) -> FloatArray:
    with np.load(path, allow_pickle=False) as arrays:
        frames: FloatArray = arrays["frames"]
    return frames


def _joints(chunks: Sequence[_Chunk]) -> tuple[int, ...]:
    """[J, 3] of the first chunk that has a clip."""
    return next(frames.shape[1:] for frames in map(_frames, (chunk.path for chunk in chunks)) if len(frames))


def _state(root: Path, path: Path) -> tuple[str, int, int]:
    """A file's place below `root`, its size and the time of its last change."""
    with explain_os_errors(path, "read"):
        state = path.stat()
    return _below(root, path), state.st_size, state.st_mtime_ns


def _below(root: Path, path: Path) -> str:
    """A file's path below `root`, or its name where `root` is that file."""
    if path == root:
        return path.name
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
