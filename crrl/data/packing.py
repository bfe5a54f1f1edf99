"""`crrl prepare`: a data set from its raw files to a prepared folder, with a manifest.

Files that are a clip each are read in chunks by worker processes. A finished chunk is kept in FOLDER.partial: whatever
stops the command, the next one takes up the chunks that are there and whole. The chunks are then laid one after the
other, and the result is renamed into place. Other data sets are read whole: those whose readers have workers keep
chunks as well (`chunks.read_in_order`), the others are read from the start each time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.chunks import Chunk, Place, below, keep_in, make_in_order
from crrl.data.clips import Clips, check_clip, warn_of_classes, write_frames
from crrl.data.folds import fold_names
from crrl.data.integrity import Inputs
from crrl.data.manifest import dropped_lines, manifest_of, summary_of
from crrl.data.parallel import use_workers
from crrl.data.prepared import MANIFEST, digest, digest_of
from crrl.data.registry import SOURCES, ClipFiles, Source
from crrl.data.sources import data_root
from crrl.errors import CrrlError
from crrl.files import content_hash, explain_os_errors, move_folder, read_bytes, sweep, work_folder, write_json

CHUNK_FILES = 256
AGAIN = "wait for it, then run the same command again"


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
    raw = [name for name, source in SOURCES.items() if not source.is_prepared]
    if dataset not in raw:
        raise CrrlError(f"no data set {dataset!r}: choose from {', '.join(raw)}")
    _refuse_existing(out)
    source, root = SOURCES[dataset], data_root(dataset, data)
    if source.clip_files is None and (missing or skip_damaged):
        raise CrrlError(f"--missing and --skip-damaged are for data sets of one clip a file, and {dataset} is none")
    place = Place(partial_folder(out), root, content_hash(source.code_parts()))
    with (
        explain_os_errors(place.folder, "write"),
        work_folder(place.folder, f"is in use by another crrl prepare: {AGAIN}") as whole,
        use_workers(workers),
    ):
        _refuse_existing(out)  # made by the process that was alone before
        if source.clip_files is None:
            clips, found = _load_whole(source, place, whole)
        else:
            clips, found = _Reader(dataset, place, missing, skip_damaged).read(whole)
        folds = fold_names(clips.splits)
        warn_of_classes(clips, [name for name in clips.splits if name not in folds])
        summary = _describe(whole, dataset, place.code, clips, found)
        move_folder(whole, out)
        _remove_chunks(place.folder)
    return summary


def _refuse_existing(out: Path) -> None:
    """Raise where `out` is there; chunks of a process that was killed just when it had made it go."""
    if not os.path.lexists(os.path.normpath(out)):
        return
    if (left := partial_folder(out)).is_dir():
        with suppress(CrrlError), work_folder(left, AGAIN):
            _remove_chunks(left)
    raise CrrlError(f"{out} is there already: remove it or give another --out")


def partial_folder(out: Path) -> Path:
    """Where finished chunks lie until `out` is whole; not there where nothing is kept."""
    return out.with_name(out.name + ".partial")


def _remove_chunks(folder: Path) -> None:
    """And what processes that were killed have left of them."""
    for path in folder.glob("*.npz"):
        path.unlink()
    sweep(folder, "*.npz")


def _load_whole(source: Source, place: Place, folder: Path) -> tuple[Clips, Found]:
    """The clips, saved in `folder`, and what was found.

    Raises:
        CrrlError: a file changed while it was read; what was kept of it goes.
    """
    inputs = Inputs(source.find_files(place.root), digest)
    digests = {below(place.root, path): value for path, value in inputs.digests.items()}
    assert source.load is not None
    with keep_in(replace(place, digests=digests)):
        clips = source.load(list(inputs.digests))
    clips.save(folder)
    try:
        inputs.check()
    except CrrlError:
        _remove_chunks(place.folder)
        raise
    return clips, Found(digests, clips.dropped)


def _describe(folder: Path, dataset: str, code: str, clips: Clips, found: Found) -> str:
    """Write inputs.b2 (as b2sum -l 128 would), manifest.json and report.txt; returns the summary."""
    listed = "".join(_as_b2sum(value, name) for name, value in found.inputs.items())
    (folder / "inputs.b2").write_text(listed, "utf-8", "surrogateescape")  # names as the disk has them
    clip_files = SOURCES[dataset].clip_files
    official = clip_files.official if clip_files else None
    manifest = manifest_of(folder, dataset, code, clips, found.dropped, found.left_out, official)
    summary = summary_of(manifest)
    (folder / "report.txt").write_text("\n".join([summary, *dropped_lines(manifest), ""]), "utf-8")
    write_json(folder / MANIFEST, manifest)
    return summary


def _as_b2sum(value: str, name: str) -> str:
    """A line of b2sum's, which escapes names of several lines."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{value}  {escaped}\n"


class _Reader:
    """Reads a data set of one clip a file."""

    def __init__(self, dataset: str, place: Place, missing: Sequence[Path], skip_damaged: bool):
        self.dataset, self.place, self.skip_damaged = dataset, place, skip_damaged
        self.source = SOURCES[dataset]
        self.missing = {name: path for path in missing for name in self.clip_files.missing_names(path)}

    @property
    def clip_files(self) -> ClipFiles:
        assert self.source.clip_files is not None
        return self.source.clip_files

    def read(self, folder: Path) -> tuple[Clips, Found]:
        """The clips, their frames written to folder/frames.npy, and what was found."""
        root = self.place.root
        files = self.source.find_files(root)
        found = Found(
            dropped={f.stem: f"listed in {self.missing[f.stem].name}" for f in files if f.stem in self.missing}
        )
        chunks = self.place.chunks([(path,) for path in files if path.stem not in found.dropped], CHUNK_FILES)
        make = partial(make_chunk, self.dataset, root)
        with closing(make_in_order(make, chunks, f"prepare {self.dataset}")) as made:
            lengths = self._gather(made, found)
        if not lengths:
            raise CrrlError(f"no clip of {self.dataset} is left of the {len(files)} files in {root}")
        offsets = np.concatenate([[0], np.cumsum(list(lengths.values()))]).astype(np.int64)
        frames = write_frames(folder, (int(offsets[-1]), *_joints(chunks)), (chunk.frames() for chunk in chunks))
        clips = self.clip_files.join(frames, offsets, list(lengths))
        clips.save_facts(folder)
        return clips, found

    def _gather(self, chunks: Iterable[Chunk], found: Found) -> dict[str, int]:
        """Add up in `found` what the chunks say; the clips that are left, with their lengths.

        Raises:
            CrrlError: a file is damaged, and damaged ones are not to be skipped.
        """
        lengths: dict[str, int] = {}
        damaged: list[str] = []
        for chunk in chunks:
            facts = chunk.facts()
            lengths |= facts["lengths"]
            damaged += [
                f"{self.place.root / facts['paths'][name]}, {reason}" for name, reason in facts["damaged"].items()
            ]
            found.inputs |= facts["inputs"]
            found.left_out.update(facts["left_out"])
            found.dropped |= facts["dropped"] | {name: f"damaged, {why}" for name, why in facts["damaged"].items()}
        if damaged and not self.skip_damaged:
            more = f" (the first of {len(damaged)} damaged files)" if len(damaged) > 1 else ""
            raise CrrlError(f"{damaged[0]}{more}: restore the file, or drop what is damaged by --skip-damaged")
        return lengths


def make_chunk(dataset: str, root: Path, chunk: Chunk) -> None:
    """Read a chunk's files and keep what they hold, whole or not at all."""
    read = SOURCES[dataset].clip_files.read  # type: ignore[union-attr]
    facts: dict[str, Any] = {name: {} for name in ("lengths", "paths", "damaged", "dropped", "inputs")}
    clips, left_out = [], Counter[str]()
    for (path,) in chunk.items:
        content, name = read_bytes(path), path.stem
        facts["paths"][name] = below(root, path)
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
    chunk.write(np.concatenate(clips) if clips else np.zeros((0, 0, 3), np.float32), facts | {"left_out": left_out})


def _joints(chunks: Iterable[Chunk]) -> tuple[int, ...]:
    """[J, 3] of the first chunk that has a clip."""
    return next(frames.shape[1:] for frames in (chunk.frames() for chunk in chunks) if len(frames))
