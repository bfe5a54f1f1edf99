"""All data sets and formats in one table: how each is read, and the data for its presets."""

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
    """How to read a data set of one clip a file. Its files are many, and are read in parallel and only once.

    Attributes:
        read: from a file's content to float32 [T, J, 3] (T is 0 if it shows nobody), and how much was left out, by
            reason. Raises ValueError, "line N: what is wrong there".
        join: from frames float32 [ΣT, J, 3], offsets int64 [N + 1] and the stems of the files to clips.
        missing_names: the clips named by a list of clips to leave out.
        official: the published clip counts of each side of each split.
    """

    read: Callable[[bytes], tuple[FloatArray, Counter[str]]]
    join: Callable[[FloatArray, IntArray, Sequence[str]], Clips]
    missing_names: Callable[[Path], list[str]]
    official: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Presets:
    """The data for the presets of a data set.

    Attributes:
        splits: the splits to report, in the order of the paper's columns; `fold-1`, ... are one cross validation.
        view_joints: spine base, spine, left and right shoulder; None: unknown, so no view transform.
        max_frames: frames kept of a longer clip (Section IV-B).
        lr_cml, lr_ser: the paper's learning rates of step 1 and step 2; NW-UCLA's for a data set that it lacks.
    """

    splits: tuple[str, ...]
    view_joints: tuple[int, int, int, int] | None
    max_frames: int = 60
    lr_cml: float = 0.01
    lr_ser: float = 0.04

    @property
    def split(self) -> str:
        """The default split: cross-subject if there is one, else the first."""
        return "cross-subject" if "cross-subject" in self.splits else self.splits[0]


@dataclass(frozen=True)
class Source:
    """A data set or a format.

    Attributes:
        code: the module that reads it.
        find_files: the files of the data set below a folder. load: reads them; None: `clip_files` does.
        presets: for training on it by its name; None: it is first prepared, and trained on under the name "prepared".
        joints: the joint counts allowed; empty: any.
        one_file: it is one file, and `find_files` takes that as well as its folder.
        is_format: a file format rather than a data set; what is prepared from it may serve as any data set.
        embedded: its clips are generated, not read from files.
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
        """The source code that reads it, for a hash: `code` and all of crrl.data that it imports."""
        for name in sorted(_with_imports(self.code.__name__)):
            yield Path(str(sys.modules[name].__file__)).read_bytes()


def _with_imports(name: str, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """The names of the module `name` and of all modules of crrl.data that it imports from."""
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
"""For clips of the user's own, or prepared by others: nothing is known of them."""

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
    # A joint of CMU is the far end of a bone.
    "cmu": _whole(
        cmu, Presets(("fold-1", "fold-2", "fold-3", "fold-4"), (0, 12, 17, 24), max_frames=100, lr_ser=0.01), 31
    ),
    "pku-mmd": _whole(pku_mmd, Presets(SUBJECT_VIEW, KINECT_V2), 25, 50),
    # The shoulder centre replaces the spine, which Kinect v1 puts too near to the hips to give a direction.
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
"""The names with presets, for the command line and the type checker, which cannot read the table."""
PRESETS: dict[str, Presets] = {name: source.presets for name, source in SOURCES.items() if source.presets}
assert tuple(PRESETS) == get_args(Dataset), "Dataset names the entries of SOURCES that have presets"

FORMATS = [name for name, source in SOURCES.items() if source.is_format]
DATA_SETS = [name for name, source in SOURCES.items() if not (source.is_format or source.is_prepared)]
NAMED_BY_FOLDER = {name for name, presets in PRESETS.items() if presets is OWN}
"""Names that do not identify the clips; their folder does."""
