"""All data sets and formats, an entry each: how it is read, and what its presets are made of."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from crrl.data import prepared
from crrl.data.clips import Clips, FloatArray, IntArray
from crrl.data.readers import (
    bvh,
    cmu,
    coco,
    ctr_gcn,
    folder,
    mediapipe,
    ntu,
    nw_ucla,
    openpose,
    pku_mmd,
    pyskl,
    st_gcn,
    synthetic,
)


@dataclass(frozen=True)
class ClipFiles:
    """How a data set is read of which each file is a clip: apart, so many at once, and too large to be read twice.

    Attributes:
        read: a file's content to float32 [T, J, 3] (T is 0 where it shows nothing) and how much was left out of it, by
            reason. Raises ValueError, "line N: what is wrong there".
        join: frames float32 [ΣT, J, 3], offsets int64 [N + 1] and the files' stems to clips with labels and splits.
        missing_names: the clips that a list of clips to leave out names.
        official: clips on each side of each split, as the field counts them.
    """

    read: Callable[[bytes], tuple[FloatArray, Counter[str]]]
    join: Callable[[FloatArray, IntArray, Sequence[str]], Clips]
    missing_names: Callable[[Path], list[str]]
    official: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Presets:
    """What the presets of a data set are made of.

    Attributes:
        splits: those whose results stand side by side, in the order of the paper's columns; `fold-1` and so on are
            one cross validation.
        view_joints: spine base, spine, left and right shoulder; None: not known, no view transform.
        max_frames: frames kept of a longer clip (Section IV-B).
        lr_cml, lr_ser: the paper's learning rates of step 1 and step 2; a data set that it lacks takes NW-UCLA's.
    """

    splits: tuple[str, ...]
    view_joints: tuple[int, int, int, int] | None
    max_frames: int = 60
    lr_cml: float = 0.01
    lr_ser: float = 0.04

    @property
    def split(self) -> str:
        """The split to use where none is named: cross-subject, else the first."""
        return "cross-subject" if "cross-subject" in self.splits else self.splits[0]


@dataclass(frozen=True)
class Source:
    """One data set, or one format.

    Attributes:
        code: the module that reads it, with what that imports.
        find_files: the files of the data set below a folder. load: reads them; None: `clip_files` says how.
        presets: of training on it by its name; None: it is prepared first, and trained on as what it then is.
        joints: how many its skeletons may have; empty: any number.
        one_file: it is one file, which `find_files` takes as well, in place of its folder.
        is_format: it says how files are written, not whose skeletons they hold: prepared, they serve as any data set.
        embedded: it has no files; its clips are drawn.
    """

    code: ModuleType
    find_files: Callable[[Path], list[Path]]
    load: Callable[[list[Path]], Clips] | None = None
    presets: Presets | None = None
    clip_files: ClipFiles | None = None
    joints: tuple[int, ...] = ()
    one_file: bool = False
    is_format: bool = False
    embedded: bool = False

    @property
    def is_prepared(self) -> bool:
        """Whether it opens the folders that `crrl prepare` makes."""
        return self.code is prepared

    def code_parts(self) -> Iterator[bytes]:
        """The code that reads it, to be hashed."""
        for name in sorted(_with_imports(self.code.__name__)):
            yield Path(str(sys.modules[name].__file__)).read_bytes()


def _with_imports(name: str, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """The module `name` and all of crrl.data that it takes anything from, by name."""
    known |= {name}
    for value in vars(sys.modules[name]).values():
        other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(other, str) and other.startswith("crrl.data.") and other not in known:
            known = _with_imports(other, known)
    return known


def _ntu(edition: ntu.Edition, presets: Presets) -> Source:
    files = ClipFiles(ntu.read, edition.join, ntu.missing_names, edition.official)
    return Source(ntu, edition.find_files, presets=presets, clip_files=files, joints=(25, 50))


def _whole(module: Any, presets: Presets, *joints: int) -> Source:
    return Source(module, module.find_files, module.load, presets, joints=joints)


def _format(module: Any, presets: Presets | None = None, one_file: bool = False) -> Source:
    return Source(module, module.find_files, module.load, presets, one_file=one_file, is_format=True)


KINECT_V2 = (0, 1, 4, 8)
SUBJECT_VIEW, VIEW_SUBJECT = ("cross-subject", "cross-view"), ("cross-view", "cross-subject")
OWN = Presets(("default",), None)
"""Of clips of the user's own, or that others have prepared: nothing is known of them."""

SOURCES = {
    "synthetic": Source(
        synthetic,
        find_files=lambda root: [],
        load=lambda files: synthetic.generate(),
        presets=Presets(SUBJECT_VIEW, KINECT_V2),
        embedded=True,
    ),
    "ntu60": _ntu(ntu.NTU60, Presets(VIEW_SUBJECT, KINECT_V2, lr_cml=0.005, lr_ser=0.05)),
    "ntu120": _ntu(ntu.NTU120, Presets(("cross-setup", "cross-subject"), KINECT_V2, lr_cml=0.001, lr_ser=0.05)),
    # CMU's joints are the far ends of bones.
    "cmu": _whole(
        cmu, Presets(("fold-1", "fold-2", "fold-3", "fold-4"), (0, 12, 17, 24), max_frames=100, lr_ser=0.01), 31
    ),
    "pku-mmd": _whole(pku_mmd, Presets(SUBJECT_VIEW, KINECT_V2), 25, 50),
    # Kinect v1 puts the spine of NW-UCLA a few centimetres above the hips, too near to tell a direction: the shoulder
    # centre takes its place.
    "nw-ucla": _whole(nw_ucla, Presets(("cross-view",), (0, 2, 4, 8), max_frames=50), 20),
    "folder": _format(folder, OWN),
    "bvh": _format(bvh),
    "ctr-gcn": _format(ctr_gcn, one_file=True),
    "st-gcn": _format(st_gcn),
    "pyskl": _format(pyskl, one_file=True),
    "coco": _format(coco),
    "openpose": _format(openpose),
    "mediapipe": _format(mediapipe),
    "prepared": _whole(prepared, OWN),
}

Dataset = Literal["synthetic", "ntu60", "ntu120", "cmu", "pku-mmd", "nw-ucla", "folder", "prepared"]
"""The names of those with presets, for the command line and the type checker, which read no table."""
PRESETS: dict[str, Presets] = {name: source.presets for name, source in SOURCES.items() if source.presets}
assert tuple(PRESETS) == get_args(Dataset), "Dataset names the entries of SOURCES that have presets"

FORMATS = [name for name, source in SOURCES.items() if source.is_format]
DATA_SETS = [name for name, source in SOURCES.items() if not (source.is_format or source.is_prepared)]
NAMED_BY_FOLDER = {name for name, presets in PRESETS.items() if presets is OWN}
"""Names that do not say which clips these are: the folder does."""
