"""The clips given to a command, with labels or without: files, folders of files, or a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tyro

from crrl.bars import counted
from crrl.data.clips import IntArray
from crrl.data.readers.clip_files import find_clip_files, read_clip_file
from crrl.data.sources import load_raw
from crrl.errors import CrrlError
from crrl.files import refuse_inputs
from crrl.runs import RunFolder


@dataclass(frozen=True)
class GivenOptions:
    run: tyro.conf.Positional[Path]
    """Run folder, the --out of crrl.train."""
    clips: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files that are a clip each, or folders of them: .npy and .npz of [frames, joints, 3], .skeleton (NTU RGB+D),
    .json (NW-UCLA, MMPose, Ultralytics, rtmlib, AlphaPose, MediaPipe), .csv (MediaPipe), .bvh, .amc (beside its .asf).
    A folder of OpenPose's frames is a clip."""
    dataset: str | None = None
    """A data set instead of files: any that crrl.train or crrl.prepare reads."""
    data: Path | None = None
    """Folder of the data set's files, else $CRRL_DATA."""
    split: str | None = None
    """Only the test clips of this split; None: all clips of the data set."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""

    def __post_init__(self) -> None:
        if bool(self.clips) == bool(self.dataset):
            raise CrrlError("give files or folders of clips, or --dataset NAME, one of the two")
        if not self.dataset and (self.data or self.split):
            raise CrrlError("--data and --split need --dataset")

    def given(self, joints: int, out: Path | None = None) -> Given:
        """The clips given, with the joint count `joints` of the run; see `read_clip_file`.

        Args:
            out: the file that the command will write.

        Raises:
            CrrlError: there are none, the data set is missing or damaged, or `out` is a file of the clips or the run.
        """
        if out:
            RunFolder(self.run).refuse(out)
        if self.dataset:
            if out and self.data and out.exists() and out.resolve().is_relative_to(self.data.resolve()):
                refuse_inputs(out, [out])
            return _of_dataset(self.dataset, self.data, self.split)
        files = find_clip_files(self.clips)
        if out:
            refuse_inputs(out, [path for file in files for path in (file.iterdir() if file.is_dir() else (file,))])
        return Given(tuple(map(str, files)), lambda place: read_clip_file(files[place], joints))


@dataclass(frozen=True)
class Given:
    """N clips, which are read one at a time.

    Attributes:
        names: N. read: the clip at a place, [T, J, 3], not checked.
        labels: int64 [N], indices into class_names; None: unknown.
    """

    names: tuple[str, ...]
    read: Callable[[int], npt.ArrayLike]
    labels: IntArray | None = None
    class_names: tuple[str, ...] = ()

    def named(self) -> Iterator[tuple[str, npt.ArrayLike]]:
        """(name, clip) of each clip in turn."""
        return ((name, self.read(place)) for place, name in enumerate(self.names))

    def counted(self, what: str) -> Iterator[tuple[str, npt.ArrayLike]]:
        """`named` under a progress bar called `what`."""
        return counted(self.named(), len(self.names), what, "clip", delay=1)


def _of_dataset(dataset: str, data: Path | None, split: str | None) -> Given:
    clips = load_raw(dataset, data)
    if split and not clips.split(split).test:
        raise CrrlError(f"split {split!r} of {dataset} has no test clips: leave out --split, for all clips")
    index = clips.split(split).test["all"] if split else np.arange(len(clips))
    names = tuple(clips.names[place] for place in index)
    labels = clips.labels[index] if clips.class_names else None
    return Given(names, lambda place: clips.clip(index[place]), labels, clips.class_names)
