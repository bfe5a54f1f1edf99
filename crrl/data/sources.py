"""Data sets by name: find the files, load and preprocess them, and cache the result by a hash of all its inputs."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from crrl.data import prepared, preprocessing, registry
from crrl.data.batches import ClipTensors
from crrl.data.clips import ARRAYS, Clips, FloatArray, IntArray, write_frames
from crrl.data.integrity import Inputs, damage, seal
from crrl.data.preprocessing import Preprocessing, Preprocessor
from crrl.data.readers import folder
from crrl.data.registry import FORMATS, SOURCES, Source
from crrl.errors import CrrlError, command
from crrl.facts import read_facts
from crrl.files import ELSEWHERE, cache_folder, content_hash, discard, explain_os_errors, write_folder, write_json

CACHED = {*(f"{name}.npy" for name in ARRAYS), "meta.json", "prepared.json"}
"""The files of a prepared set in the cache, besides their hashes."""
A_DAY = 24 * 3600
"""Seconds after which nobody works on a cache folder any more."""


@dataclass(frozen=True)
class Prepared:
    """A preprocessed data set.

    Attributes:
        clips: the clips. preprocessor: what made them. fingerprint: a hash of frames, labels and the split, which a run
            keeps to recognise its data.
    """

    clips: Clips
    preprocessor: Preprocessor
    fingerprint: str
    _on: dict[torch.device, ClipTensors] = field(default_factory=dict, repr=False, compare=False)

    def tensors(self, device: torch.device) -> ClipTensors:
        """The clips on a device, the same tensors for all who ask."""
        if device not in self._on:
            self._on[device] = ClipTensors(self.clips, device)
        return self._on[device]


def data_root(dataset: str, data: Path | None) -> Path:
    """The folder (or the one file) of `dataset`: `data`, else $CRRL_DATA.

    Raises:
        CrrlError: neither is given, or it is neither a folder nor the file of a data set of one file.
    """
    if SOURCES[dataset].embedded:
        return Path()
    root = data or (Path(os.environ["CRRL_DATA"]) if os.environ.get("CRRL_DATA") else None)
    if root is None:
        raise CrrlError(f"where are the files of {dataset}? Give --data FOLDER or set CRRL_DATA")
    if not root.is_dir() and not (SOURCES[dataset].one_file and root.is_file()):
        raise CrrlError(f"{root} is not a folder: give --data (or CRRL_DATA) the folder that holds {dataset}")
    return root


def own_folders(folders: Sequence[Path]) -> list[Path]:
    """Those of `folders` (if empty: $CRRL_DATA) that hold clips of the user's own: absolute paths, each once.

    Raises:
        CrrlError: one does not exist, or is prepared and its manifest is damaged or of another version.
    """
    root = os.environ.get("CRRL_DATA")
    given = folders or ([Path(root)] if root else [])
    return [place for place in dict.fromkeys(Path(os.path.abspath(each)) for each in given) if _is_own(place)]


def _is_own(root: Path) -> bool:
    if not root.exists():
        raise CrrlError(f"{root} does not exist: give --data (or CRRL_DATA) folders of data sets")
    if prepared.is_prepared(root):
        return prepared.read_manifest(root)["dataset"] in FORMATS
    return (root / folder.LABELS).is_file()


def prepare(dataset: str, data: Path | None, split: str, steps: Preprocessing) -> Prepared:
    """The preprocessed data set, from the cache if the same content was prepared with the same steps before.

    A cached set is first checked against its hashes (`integrity.damage`); a damaged one is made again, with a warning.

    Args:
        dataset: a name of SOURCES. data: the folder of its files, else $CRRL_DATA.

    Raises:
        CrrlError: the data set is missing or damaged, or changed while it was read; there is no such split, or one of
            its sides is empty; the cache cannot be read or written.
    """
    root = data_root(dataset, data)
    source = _source(dataset, root)
    inputs = Inputs(source.find_files(root))
    target = cache_folder() / f"{dataset}-{_key(source, inputs, steps)}"
    if not _is_kept(target):
        _write(source, inputs, steps, target)
        _sweep(target.parent)
    clips, facts = _open(target)
    _check_joints(dataset, root, clips)
    chosen = clips.split(split)
    for side, index in {"train": chosen.train, **chosen.test}.items():
        if len(index) == 0:
            raise CrrlError(f"split {split!r} of {dataset} has no clips in {side!r}: is the data set complete?")
    fingerprint = _hash(facts.clips, chosen.train, *chosen.test.values())
    return Prepared(clips, facts.preprocessor, fingerprint)


def load_raw(dataset: str, data: Path | None) -> Clips:
    """The clips of a data set as its files hold them, not preprocessed.

    Args:
        dataset: a name of SOURCES. data: the folder of its files, else $CRRL_DATA.

    Raises:
        CrrlError: there is no such data set, or it is missing or damaged.
    """
    if dataset not in SOURCES:
        raise CrrlError(f"no data set {dataset!r}: choose from {', '.join(SOURCES)}")
    root = data_root(dataset, data)
    source = _source(dataset, root)
    assert source.load is not None
    clips = source.load(source.find_files(root))
    _check_joints(dataset, root, clips)
    return clips


def _source(dataset: str, root: Path) -> Source:
    """The source that loads `dataset` from `root`, which holds raw files or is a prepared folder."""
    source = SOURCES[dataset]
    if not source.embedded and prepared.is_prepared(root):
        holds = prepared.read_manifest(root)["dataset"]
        if dataset != holds and not source.is_prepared and holds not in FORMATS:
            raise CrrlError(f"{root} was prepared from {holds}, not {dataset}: give --dataset {holds}, or prepared")
        return SOURCES["prepared"]
    if source.load is None:
        first = command("prepare", dataset, "--data", root, "--out", "FOLDER")
        raise CrrlError(f"{dataset} is prepared once from its raw files: {first}; then give --data FOLDER")
    return source


def _check_joints(dataset: str, root: Path, clips: Clips) -> None:
    joints = SOURCES[dataset].joints
    if joints and clips.num_joints not in joints:
        raise CrrlError(
            f"{root} holds skeletons of {clips.num_joints} joints, those of {dataset} have "
            f"{' or '.join(map(str, joints))}: give --dataset prepared, and --view-joints where they are known"
        )


def _key(source: Source, inputs: Inputs, steps: Preprocessing) -> str:
    """The hash of all that a prepared set depends on: files, settings, and the code that reads and preprocesses."""

    own = [Path(str(file)).read_bytes() for file in (preprocessing.__file__, registry.__file__, __file__)]
    root = os.path.commonpath([path.parent for path in inputs.digests]) if inputs.digests else ""
    # Paths are part of the key because they are the names of clips that no labels.csv lists.
    files = [part for path, digest in inputs.digests.items() for part in (os.path.relpath(path, root), digest)]
    return content_hash([json.dumps(asdict(steps), sort_keys=True), *source.code_parts(), *own, *files])


def _hash(*parts: str | FloatArray | IntArray) -> str:
    return content_hash(part if isinstance(part, str) else np.ascontiguousarray(part).data for part in parts)


def _is_kept(target: Path) -> bool:
    """Whether the cache holds this set undamaged; a damaged one is removed, with a warning."""
    with explain_os_errors(target, "read", ELSEWHERE):
        if not target.is_dir():
            return False
        found = damage(target, CACHED)
    if found:
        warnings.warn(f"{target} is damaged and made again: {found}", stacklevel=3)
        discard(target)
    return not found


@dataclass(frozen=True)
class _Facts:
    """The content of prepared.json: what made the clips, and a hash of them."""

    preprocessor: Preprocessor
    clips: str


def _sweep(cache: Path) -> None:
    """Remove from the cache the folders of earlier versions of crrl: prepared sets without hashes, and unfinished ones.

    A folder is removed only if its name is one of theirs, it holds only their files, and it is unchanged for A_DAY.
    """
    name = rf"({'|'.join(SOURCES)})-[0-9a-f]{{32}}"
    removed = 0
    for kept in cache.iterdir():
        if re.fullmatch(rf"{name}|\.{name}\.[0-9a-z_]{{8}}", kept.name) and _is_earlier(kept):
            with suppress(CrrlError):  # another user's
                discard(kept)
                removed += 1
    if removed:
        warnings.warn(f"removed what earlier versions of crrl kept in {cache}: {removed} folders", stacklevel=4)


def _is_earlier(kept: Path) -> bool:
    with suppress(OSError):
        names = {path.name for path in kept.iterdir()}
        old = time.time() - kept.lstat().st_mtime > A_DAY
        return old and not kept.is_symlink() and names <= {*CACHED, "preprocessor.json"}
    return False


def _open(target: Path) -> tuple[Clips, _Facts]:
    again = f"delete {target} to have it made again"
    return Clips.open(target), read_facts(target / "prepared.json", _Facts, again)


def _write(source: Source, inputs: Inputs, steps: Preprocessing, target: Path) -> None:
    """Load and preprocess the data set and write it to the cache, provided that its files still have their hashes."""
    assert source.load is not None
    files = list(inputs.digests)
    raw = source.load(files)
    preprocessor = Preprocessor(steps, raw.num_joints)
    offsets = preprocessor.offsets(raw.offsets)

    def write(folder: Path) -> None:
        shape = (int(offsets[-1]), *raw.frames.shape[1:])
        frames = write_frames(folder, shape, preprocessor.pieces(raw.frames, raw.offsets))
        replace(raw, frames=frames, offsets=offsets).save_facts(folder)
        facts = _Facts(preprocessor, _hash(frames, offsets, raw.labels))
        write_json(folder / "prepared.json", asdict(facts))
        inputs.check()
        if source.is_prepared:
            prepared.load(files)  # checks the files that the manifest stands for once more
        seal(folder)

    write_folder(target, write)
