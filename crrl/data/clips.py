"""The in-memory form of a data set: a flat array of frames, offsets, labels and facts about each clip."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from crrl.data.naming import wrong_name
from crrl.errors import CrrlError
from crrl.files import explain_damage, open_input, read_json, write_json

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

GROWTH = 1 << 20
"""Bytes by which the flat array grows, at least, while clips are joined; a large one grows by an eighth."""

ARRAYS = ("frames", "offsets", "labels", "subjects", "views", "setups")


@dataclass(frozen=True)
class Split:
    """The clips that train and those that test, as clip indices.

    Attributes:
        train: int64 [N_train].
        test: named test sets, each int64 [N_test]; "all" is among them, unless there are none.
    """

    train: IntArray
    test: dict[str, IntArray]

    @classmethod
    def of(cls, train: BoolArray, test: BoolArray | None = None) -> Split:
        """The split of masks over all clips, bool [N]; by default all other clips test."""
        return cls(np.flatnonzero(train), {"all": np.flatnonzero(~train if test is None else test)})


@dataclass(frozen=True)
class Tree:
    """The joint hierarchy of a body, as a file describes it.

    Attributes:
        names: of J joints. parents: the parent of each joint, which comes before it; -1 for the first, the root.

    Raises:
        ValueError: the parents do not form such a tree.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.parents) or self.parents[:1] != (-1,):
            raise ValueError("the parents do not form a tree of joints")
        if not all(type(parent) is int and 0 <= parent < joint for joint, parent in enumerate(self.parents[1:], 1)):
            raise ValueError("a joint's parent does not come before it")
        if any(not isinstance(name, str) or wrong_name(name) for name in self.names):
            raise ValueError("a joint has no valid name")


@dataclass(frozen=True)
class Clips:
    """Skeleton clips of different lengths, one after the other.

    Attributes:
        frames: float32 [ΣT, J, 3] joint coordinates (metres from a sensor, [-1, 1] after preprocessing); a joint at
            exactly (0, 0, 0) is absent.
        offsets: int64 [N + 1]; clip i is frames[offsets[i]:offsets[i + 1]].
        labels: int64 [N], an index into class_names; all -1 without labels.
        subjects, views, setups: int64 [N], -1 where unknown.
        names: N clip names, unique.
        class_names: the names of the classes; () without labels.
        splits: named splits.
        tree: the hierarchy of the J joints, if the files describe one.
        dropped: the reason for each clip that the reader left out, by name; for the report, not written by `save`.
    """

    frames: FloatArray
    offsets: IntArray
    labels: IntArray
    subjects: IntArray
    views: IntArray
    setups: IntArray
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    splits: dict[str, Split] = field(default_factory=dict)
    tree: Tree | None = None
    dropped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> IntArray:
        """Frames per clip, int64 [N]."""
        return np.diff(self.offsets)

    @property
    def num_joints(self) -> int:
        return int(self.frames.shape[1])

    def clip(self, index: int) -> FloatArray:
        """The frames of one clip, float32 [T, J, 3]."""
        return self.frames[self.offsets[index] : self.offsets[index + 1]]

    def split(self, name: str) -> Split:
        """The split called `name`.

        Raises:
            CrrlError: there is none of that name.
        """
        if name not in self.splits:
            raise CrrlError(f"no split named {name!r} in this data set; it has {', '.join(self.splits)}")
        return self.splits[name]

    @classmethod
    def from_arrays(
        cls,
        clips: Iterable[object],
        *,
        labels: npt.ArrayLike,
        names: Sequence[str],
        class_names: Sequence[str],
        subjects: npt.ArrayLike | None = None,
        views: npt.ArrayLike | None = None,
        setups: npt.ArrayLike | None = None,
        splits: dict[str, Split] | None = None,
        places: Sequence[str] = (),
        allow_empty: bool = False,
    ) -> Clips:
        """Check separate clips, each [T_i, J, 3], and join them into the flat form.

        Clips may come from a generator: see `join`. With `allow_empty` T_i may be 0, until `without_empty` is called.

        Args:
            places: where each clip lies, for error messages; by default its name.

        Raises:
            CrrlError: a clip is empty, not [T, J, 3], not finite, or has another joint count than the first.
        """
        frames, offsets = join(zip(places or names, clips, strict=True), allow_empty)
        unknown = np.full(len(names), -1, np.int64)
        return cls(
            frames=frames,
            offsets=offsets,
            labels=np.asarray(labels, np.int64),
            subjects=unknown if subjects is None else np.asarray(subjects, np.int64),
            views=unknown if views is None else np.asarray(views, np.int64),
            setups=unknown if setups is None else np.asarray(setups, np.int64),
            names=tuple(names),
            class_names=tuple(class_names),
            splits=splits or {},
        )

    @classmethod
    def unlabelled(cls, named: Sequence[tuple[str, object]]) -> Clips:
        """Join clips that have only names."""
        names, clips = zip(*named, strict=True)
        return cls.from_arrays(clips, labels=np.full(len(clips), -1), names=names, class_names=())

    def untrained(self, name: str) -> list[str]:
        """The classes with test clips in the split `name` that none of its training clips has."""
        split = self.split(name)
        tested = np.concatenate([self.labels[:0], *(self.labels[index] for index in split.test.values())])
        labels = np.setdiff1d(tested, self.labels[split.train]) if self.class_names else ()
        return [self.class_names[label] for label in labels]

    def without_empty(self, reason: str) -> Clips:
        """The clips that have frames; the others leave all splits, and `dropped` gives the reason by their names."""
        kept = self.lengths > 0
        place = np.cumsum(kept) - 1

        def remaining(index: IntArray) -> IntArray:
            return place[index[kept[index]]]

        splits = {
            name: Split(remaining(split.train), {k: remaining(v) for k, v in split.test.items()})
            for name, split in self.splits.items()
        }
        facts = {name: getattr(self, name)[kept] for name in ("labels", "subjects", "views", "setups")}
        return replace(
            self,
            **facts,
            offsets=self.offsets[np.append(True, kept)],
            names=tuple(name for name, has_frames in zip(self.names, kept, strict=True) if has_frames),
            splits=splits,
            dropped=self.dropped | {self.names[index]: reason for index in np.flatnonzero(~kept)},
        )

    def save(self, folder: Path) -> None:
        """Write .npy arrays and meta.json into `folder`, which exists (made by crrl.files.write_folder)."""
        write_frames(folder, self.frames.shape, [self.frames])
        self.save_facts(folder)

    def save_facts(self, folder: Path) -> None:
        """Write what `save` writes, except frames.npy, for which there is `write_frames`."""
        for name in ARRAYS[1:]:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        splits = {
            name: {"train": split.train.tolist(), "test": {k: v.tolist() for k, v in split.test.items()}}
            for name, split in self.splits.items()
        }
        meta = {"names": self.names, "class_names": self.class_names, "splits": splits}
        write_json(folder / "meta.json", meta | ({"tree": asdict(self.tree)} if self.tree else {}))

    @classmethod
    def open(cls, folder: Path) -> Clips:
        """Open what `save` wrote; arrays are memory-mapped (copy on write), so that only the frames used are read.

        Raises:
            CrrlError: a file is missing, cut short or does not fit the others.
        """
        meta = read_json(folder / "meta.json")
        again = f"delete {folder} to have it made again"
        with explain_damage(folder / "meta.json", "damaged", again):
            splits = {
                name: Split(_index(split["train"]), {k: _index(v) for k, v in split["test"].items()})
                for name, split in meta["splits"].items()
            }
            names, class_names = (tuple(map(str, meta[key])) for key in ("names", "class_names"))
            tree = Tree(*(tuple(meta["tree"][key]) for key in ("names", "parents"))) if "tree" in meta else None
        arrays = {}
        for name in ARRAYS:
            path = folder / f"{name}.npy"
            with explain_damage(path, "damaged or cut short", again):
                open_input(path, "a .npy array", "npy", only=True).close()
                arrays[name] = array = np.load(path, mmap_mode="c", allow_pickle=False)
                form = (np.float32, 3, (3,)) if name == "frames" else (np.int64, 1, ())
                if (array.dtype, array.ndim, array.shape[2:]) != form:
                    raise ValueError(f"{array.dtype} {list(array.shape)}")
        clips = cls(**arrays, names=names, class_names=class_names, splits=splits, tree=tree)
        if not clips._fits():
            raise CrrlError(f"{folder} holds arrays that do not fit each other; delete it to have it made again")
        return clips

    def _fits(self) -> bool:
        """Whether the arrays, names and splits belong to the same clips, with all indices in range."""
        count, offsets = len(self), self.offsets
        if self.tree and len(self.tree.names) != self.num_joints:
            return False
        if {len(self.labels), len(self.subjects), len(self.views), len(self.setups), len(offsets) - 1} != {count}:
            return False
        if offsets[0] != 0 or offsets[-1] != len(self.frames) or (self.lengths < 0).any():
            return False
        indices = [index for split in self.splits.values() for index in (split.train, *split.test.values())]
        labels = self.labels if self.class_names else self.labels + 1  # without classes all are -1
        limits = [(labels, len(self.class_names) or 1), *((index, count) for index in indices)]
        return all(len(values) == 0 or 0 <= values.min() <= values.max() < limit for values, limit in limits)


def _index(values: object) -> IntArray:
    """Clip indices, int64 [N], from JSON."""
    index = np.asarray(values)
    if index.ndim != 1 or (index.dtype.kind != "i" and index.size):
        raise ValueError("no list of places")
    return index.astype(np.int64)


def join(named: Iterable[tuple[str, object]], allow_empty: bool = False) -> tuple[FloatArray, IntArray]:
    """Check clips, each [T_i, J, 3] after its name, and copy them one after the other into a growing array.

    A generator of clips is read one at a time, so that only one clip is in memory beside the flat array. With
    `allow_empty` T_i may be 0.

    Returns:
        frames float32 [ΣT, J, 3] and offsets int64 [N + 1].

    Raises:
        CrrlError: there is no clip; one is empty, not [T, J, 3], not finite, or has another joint count than the first.
    """
    frames = np.empty((0, 0, 3), np.float32)
    ends, first = [0], ""
    for name, clip in named:
        array = check_clip(clip, name, allow_empty)
        if len(ends) == 1:
            frames, first = np.empty((0, *array.shape[1:]), np.float32), name
        if array.shape[1] != frames.shape[1]:
            joints = frames.shape[1]
            raise CrrlError(f"{name} has {array.shape[1]} joints, but {first} has {joints}: one count per data set")
        ends.append(ends[-1] + len(array))
        if ends[-1] > len(frames):  # resize is a realloc, which needs no second copy in memory
            step = max(len(frames) // 8, GROWTH // array[0].nbytes)
            frames.resize((ends[-1] + step, *array.shape[1:]), refcheck=False)
        frames[ends[-2] : ends[-1]] = array
    if len(ends) == 1:
        raise CrrlError("no clips given: at least one is needed")
    frames.resize((ends[-1], *frames.shape[1:]), refcheck=False)
    return frames, np.array(ends, np.int64)


def mark_present(frames: FloatArray, present: BoolArray) -> None:
    """Shift joints that are `present` (bool [T, J]) but at exactly (0, 0, 0), the mark of an absent one, by 1 µm.

    In place. Motion capture puts a hip at the origin, and public preparations a spine.
    """
    at_origin = present & np.all(frames == 0, axis=2)
    frames[at_origin, 0] = 1e-6


def of_joints(name: str, clip: FloatArray, expected: int, bodies: int | None) -> FloatArray:
    """Fit a clip [T, J, 3] to the joint count that an encoder was trained on.

    Args:
        bodies: the number of bodies in `expected` joints, if known; if 2, a single body gets an absent second one.

    Raises:
        CrrlError: the clip has another number of joints.
    """
    found = clip.shape[1]
    if found == expected:
        return clip
    if 2 * found == expected and bodies == 2:
        return np.pad(clip, ((0, 0), (0, found), (0, 0)))
    problem = f"{name} has {found} joints, but the encoder was trained on {expected}"
    if 2 * found == expected:  # the encoder may expect two bodies
        problem += (
            f", two bodies side by side: pad a single body with {found} joints of zeros, "
            f"np.pad(clip, ((0, 0), (0, {found}), (0, 0)))"
        )
    raise CrrlError(problem)


def warn_of_classes(clips: Clips, splits: Iterable[str]) -> None:
    """Warn where a test says little: there is one class, or test clips of these splits are of untrained classes."""
    if len(clips.class_names) == 1:
        warnings.warn(
            f"all clips are of one class, {clips.class_names[0]}, so that their accuracy says nothing: label them, or "
            f"leave out the labels",
            stacklevel=2,
        )
    found = {name: classes for name in splits if (classes := clips.untrained(name))}
    listed = "; ".join(f"{name}: {', '.join(classes[:5])}" for name, classes in list(found.items())[:3])
    if found:
        warnings.warn(
            f"{len(set().union(*found.values()))} classes have test clips, but no training clip ({listed}): none of "
            f"them can be classified correctly; is one class spelled in two ways?",
            stacklevel=2,
        )


def write_frames(folder: Path, shape: tuple[int, ...], pieces: Iterable[FloatArray]) -> FloatArray:
    """Write frames.npy from pieces [F_i, J, 3] one by one, so that they need not be in memory together.

    Args:
        folder: an existing folder. shape: of all pieces together, [ΣT, J, 3].

    Returns:
        The frames, memory-mapped.
    """
    with open(folder / "frames.npy", "wb") as file:
        facts = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, facts)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, np.float32).data)
    frames: FloatArray = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
    return frames


def check_clip(clip: object, name: str, allow_empty: bool = False) -> FloatArray:
    """A clip of a user or a file as float32 [T, J, 3]. In a masked array a joint with a masked number becomes zeros.

    Raises:
        CrrlError: it is not [T, J, 3], has no frame (unless `allow_empty`) or no joint, or holds NaN, infinity or
            something that is no real number.
    """
    try:
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinity, which is refused below
            array = np.ascontiguousarray(_numbers(cast(npt.ArrayLike, _unmasked(clip))), dtype=np.float32)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # RuntimeError: lists nested too deep
        raise CrrlError(f"{name} is not an array of numbers of shape [frames, joints, 3]: {error}") from error
    check_shape(array.shape, name, allow_empty)
    if not np.isfinite(array).all():
        frame, joint, _ = np.argwhere(~np.isfinite(array))[0].tolist()
        raise CrrlError(
            f"{name} holds NaN or infinity, first in frame {frame}, joint {joint}: write a joint that was not seen as "
            f"zeros, else repair or remove the clip"
        )
    return array


def check_shape(shape: tuple[int, ...], name: str, allow_empty: bool = False) -> None:
    """Raise CrrlError if a clip is not [T, J, 3], has no frame (unless `allow_empty`) or no joint."""
    if len(shape) != 3 or shape[2] != 3:
        raise CrrlError(f"{name} has shape {list(shape)}, not [frames, joints, 3]")
    if (shape[0] == 0 and not allow_empty) or shape[1] == 0:
        raise CrrlError(f"{name} is empty (shape {list(shape)}): remove the clip")


def _unmasked(clip: object) -> object:
    """`clip` with zeros for masked joints, also in masked arrays inside lists: NumPy drops their masks."""
    if isinstance(clip, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(clip)
        return np.where(mask.any(axis=-1, keepdims=True) if mask.ndim else mask, 0, clip.data)
    if not isinstance(clip, list | tuple):
        return clip
    if any(part is np.ma.masked for part in clip):
        return [0.0] * len(clip)
    return [_unmasked(part) if isinstance(part, list | tuple | np.ma.MaskedArray) else part for part in clip]


def _numbers(clip: npt.ArrayLike) -> npt.NDArray[Any]:
    """`clip` as an array of real numbers; TypeError for text, dates and truth values, which NumPy would convert.

    None in lists passes, and becomes NaN.
    """
    array = np.asarray(clip)
    if isinstance(clip, list | tuple):  # `array` hides truth values among numbers; None and 2**64 make it objects
        types = {type(value) for value in np.array(clip, object).flat}
        if array.dtype == object and types <= {int, float, type(None)}:
            return array
        if other := types & {bool, np.bool_}:
            raise TypeError(f"it holds {other.pop().__name__} values")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"it holds {array.dtype.name} values")
    return array
