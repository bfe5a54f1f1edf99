"""`crrl prepare`: read a data set's raw files and write a prepared folder with a manifest.

Files of one clip each are read in chunks by worker processes. Finished chunks are kept in FOLDER.partial, and the next
run uses those that are there and whole. When all chunks are done they are written one after the other, and the result
is renamed into place. Other data sets are read whole: readers with workers keep chunks (`chunks.read_in_order`), the
others start anew in each run.
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
from crrl.data.manifest import manifest_of, summary_of
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
    """What reading the files of a data set has found.

    Attributes:
        inputs: the hash of each file read, by its path below the data set's folder.
        dropped: the reason for each clip left out. left_out: how much was left out of the other clips, by reason.
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
    """Read a data set and write the prepared folder `out`; returns the summary of the manifest.

    Args:
        dataset: a name of SOURCES. data: the folder of its raw files (or its one file), else $CRRL_DATA.
        missing: lists of clips to leave out. skip_damaged: drop damaged files, with the reason, instead of failing.
        workers: processes that read; 0: one for each core.

    Raises:
        CrrlError: `out` exists, a file is damaged, no clip is left, ...; finished chunks stay for the next run.
    """
    raw = [name for name, source in SOURCES.items() if not source.is_prepared]
    if dataset not in raw:
        raise CrrlError(f"no data set {dataset!r}: choose from {', '.join(raw)}")
    _refuse_existing(out)
    source, root = SOURCES[dataset], data_root(dataset, data)
    if source.clip_files is None and (missing or skip_damaged):
        raise CrrlError(f"--missing and --skip-damaged are for data sets with one file a clip, unlike {dataset}")
    place = Place(partial_folder(out), root, content_hash(source.code_parts()))
    with (
        explain_os_errors(place.folder, "write"),
        work_folder(place.folder, f"is in use by another crrl prepare: {AGAIN}") as whole,
        use_workers(workers),
    ):
        _refuse_existing(out)  # another process may have made it before this one got the lock
        if source.clip_files is None:
            clips, found = _load_whole(source, place, whole)
        else:
            clips, found = _read_clip_files(dataset, source.clip_files, place, missing, skip_damaged, whole)
        folds = fold_names(clips.splits)
        warn_of_classes(clips, [name for name in clips.splits if name not in folds])
        summary = _describe(whole, dataset, place.code, clips, found)
        move_folder(whole, out)
        _remove_chunks(place.folder)
    return summary


def _refuse_existing(out: Path) -> None:
    """Raise where `out` exists, and remove chunks left by a process that was killed just after it made `out`."""
    if not os.path.lexists(os.path.normpath(out)):
        return
    if (left := partial_folder(out)).is_dir():
        with suppress(CrrlError), work_folder(left, AGAIN):
            _remove_chunks(left)
    raise CrrlError(f"{out} already exists: remove it or give another --out")


def partial_folder(out: Path) -> Path:
    """The folder of the finished chunks until `out` is whole."""
    return out.with_name(out.name + ".partial")


def _remove_chunks(folder: Path) -> None:
    """Remove the chunks, and unfinished ones of killed processes."""
    for path in folder.glob("*.npz"):
        path.unlink()
    sweep(folder, "*.npz")


def _load_whole(source: Source, place: Place, folder: Path) -> tuple[Clips, Found]:
    """Load the clips and save them in `folder`. If a file changed in the meantime, raise and remove its chunks."""
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
    """Write inputs.b2 (as `b2sum -l 128` would), manifest.json and report.txt; returns the summary."""
    listed = "".join(_as_b2sum(value, name) for name, value in found.inputs.items())
    (folder / "inputs.b2").write_text(listed, "utf-8", "surrogateescape")  # names as the disk has them
    clip_files = SOURCES[dataset].clip_files
    official = clip_files.official if clip_files else None
    manifest = manifest_of(folder, dataset, code, clips, found.dropped, found.left_out, official)
    summary = "\n".join(summary_of(manifest))
    dropped = [f"dropped {name}: {reason}" for name, reason in sorted(found.dropped.items())]
    (folder / "report.txt").write_text("\n".join([summary, *dropped, ""]), "utf-8")
    write_json(folder / MANIFEST, manifest)
    return summary


def _as_b2sum(value: str, name: str) -> str:
    """A line as b2sum prints it, with line breaks in the name escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{value}  {escaped}\n"


def _read_clip_files(
    dataset: str, source: ClipFiles, place: Place, missing: Sequence[Path], skip_damaged: bool, folder: Path
) -> tuple[Clips, Found]:
    """Read a data set of one clip a file, and write its frames to folder/frames.npy."""
    unwanted = {name: path for path in missing for name in source.missing_names(path)}
    files = SOURCES[dataset].find_files(place.root)
    found = Found(dropped={f.stem: f"listed in {unwanted[f.stem].name}" for f in files if f.stem in unwanted})
    chunks = place.chunks([(path,) for path in files if path.stem not in unwanted], CHUNK_FILES)
    with closing(make_in_order(partial(make_chunk, dataset, place.root), chunks, f"prepare {dataset}")) as made:
        lengths = _gather(made, place.root, found, skip_damaged)
    if not lengths:
        raise CrrlError(f"no clip of {dataset} is left of the {len(files)} files in {place.root}")
    offsets = np.concatenate([[0], np.cumsum(list(lengths.values()))]).astype(np.int64)
    joints = next(frames.shape[1:] for frames in (chunk.frames() for chunk in chunks) if len(frames))
    frames = write_frames(folder, (int(offsets[-1]), *joints), (chunk.frames() for chunk in chunks))
    clips = source.join(frames, offsets, list(lengths))
    clips.save_facts(folder)
    return clips, found


def _gather(chunks: Iterable[Chunk], root: Path, found: Found, skip_damaged: bool) -> dict[str, int]:
    """Add the facts of the chunks to `found`, unless a file is damaged; returns the length of each clip by name."""
    lengths: dict[str, int] = {}
    damaged: list[str] = []
    for chunk in chunks:
        facts = chunk.facts()
        lengths |= facts["lengths"]
        damaged += [f"{root / facts['paths'][name]}, {reason}" for name, reason in facts["damaged"].items()]
        found.inputs |= facts["inputs"]
        found.left_out.update(facts["left_out"])
        found.dropped |= facts["dropped"] | {name: f"damaged, {why}" for name, why in facts["damaged"].items()}
    if damaged and not skip_damaged:
        more = f" (the first of {len(damaged)} damaged files)" if len(damaged) > 1 else ""
        raise CrrlError(f"{damaged[0]}{more}: restore the file, or drop what is damaged by --skip-damaged")
    return lengths


def make_chunk(dataset: str, root: Path, chunk: Chunk) -> None:
    """Read the files of a chunk and write it."""
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
