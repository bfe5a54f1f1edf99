"""Data sets by name: find the files, load, preprocess, and keep the prepared set in a cache keyed by content."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from crrl.data import clips as clips_module
from crrl.data import folder, nw_ucla, preprocessing, synthetic
from crrl.data.clips import Clips, FloatArray, IntArray
from crrl.data.preprocessing import Preprocessing, Preprocessor
from crrl.errors import CrrlError
from crrl.files import cache_folder, content_hash, explain_os_errors, read_json, write_folder, write_json


@dataclass(frozen=True)
class Source:
    """How one data set is read.

    Attributes:
        code: the module that reads it.
        find_files: the files of the data set below a folder. load: reads them.
    """

    code: ModuleType
    find_files: Callable[[Path], list[Path]]
    load: Callable[[list[Path]], Clips]


SOURCES = {
    "synthetic": Source(synthetic, lambda root: [], lambda files: synthetic.generate()),
    "nw-ucla": Source(nw_ucla, nw_ucla.find_files, nw_ucla.load),
    "folder": Source(folder, folder.find_files, folder.load),
}


@dataclass(frozen=True)
class Prepared:
    """A preprocessed data set.

    Attributes:
        clips: the clips. preprocessor: what made them. fingerprint: a hash of frames, labels and splits, by which a run
            knows its data again.
    """

    clips: Clips
    preprocessor: Preprocessor
    fingerprint: str


def data_root(dataset: str, data: Path | None) -> Path:
    """The folder with the files of `dataset`: `data`, else $CRRL_DATA.

    Raises:
        CrrlError: neither is given, or it is no folder.
    """
    if dataset == "synthetic":
        return Path()
    root = data or (Path(os.environ["CRRL_DATA"]) if os.environ.get("CRRL_DATA") else None)
    if root is None:
        raise CrrlError(f"where are the files of {dataset}? Give --data FOLDER or set CRRL_DATA")
    if not root.is_dir():
        raise CrrlError(f"{root} is no folder: give --data (or CRRL_DATA) the folder that holds {dataset}")
    return root


def prepare(dataset: str, data: Path | None, split: str, steps: Preprocessing) -> Prepared:
    """The preprocessed data set, from the cache when its content and these steps were prepared before.

    Args:
        dataset: "synthetic", "nw-ucla" or "folder". data: the folder of its files, else $CRRL_DATA.
        split: the split whose training clips the "dataset" normalisation is fitted on.

    Raises:
        CrrlError: the data set is missing or damaged; there is no such split, or one of its sides is empty.
    """
    source = SOURCES[dataset]
    files = source.find_files(data_root(dataset, data))
    target = cache_folder() / f"{dataset}-{_key(source, files, split, steps)}"
    if not target.is_dir():
        _write(source.load(files), split, steps, target)
    facts = read_json(target / "prepared.json")
    clips = Clips.open(target)
    chosen = clips.split(split)
    for side, index in {"train": chosen.train, **chosen.test}.items():
        if len(index) == 0:
            raise CrrlError(f"split {split!r} of {dataset} has no clips in {side!r}: is the data set complete?")
    return Prepared(clips, Preprocessor.from_dict(facts["preprocessor"]), facts["fingerprint"])


def _key(source: Source, files: list[Path], split: str, steps: Preprocessing) -> str:
    """The hash of all that the prepared set depends on: files, settings, and the code that reads and prepares."""

    def parts() -> Iterator[bytes | str]:
        yield from (split, json.dumps(asdict(steps), sort_keys=True))
        for code in (source.code, clips_module, preprocessing):
            yield Path(str(code.__file__)).read_bytes()
        for path in files:
            with explain_os_errors(path, "read"):
                yield from (path.name, path.read_bytes())

    return content_hash(parts())


def fingerprint(clips: Clips) -> str:
    """A hash of the clips' frames, labels and splits."""
    arrays: list[FloatArray | IntArray] = [clips.frames, clips.offsets, clips.labels]
    for split in clips.splits.values():
        arrays += [split.train, *split.test.values()]
    return content_hash(array.tobytes() for array in arrays)


def _write(raw: Clips, split: str, steps: Preprocessing, target: Path) -> None:
    preprocessor = Preprocessor.fit(steps, raw.frames, raw.offsets, raw.split(split).train)
    frames, offsets = preprocessor.apply(raw.frames, raw.offsets)

    clips = replace(raw, frames=frames, offsets=offsets)
    facts = {"preprocessor": preprocessor.to_dict(), "fingerprint": fingerprint(clips)}

    def write(folder: Path) -> None:
        clips.save(folder)
        write_json(folder / "prepared.json", facts)

    write_folder(target, write)
