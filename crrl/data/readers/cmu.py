"""CMU motion capture (mocap.cs.cmu.edu): ASF/AMC files, 31 joints, 120 frames a second, 4-fold cross validation.

The paper's list of 2,235 sequences in 45 classes was never published: a labels.csv says which trials to take, and what
they show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from crrl.data.chunks import Files, Shown, read_in_order
from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.naming import by_stem, files_below
from crrl.data.readers import asf
from crrl.data.readers.folder import LABELS, classes_of, read_rows
from crrl.data.readers.kinematics import warn_of_rates
from crrl.data.readers.text import tell
from crrl.errors import CrrlError

JOINTS = (
    "root",
    *("lhipjoint", "lfemur", "ltibia", "lfoot", "ltoes"),
    *("rhipjoint", "rfemur", "rtibia", "rfoot", "rtoes"),
    *("lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head"),
    *("lclavicle", "lhumerus", "lradius", "lwrist", "lhand", "lfingers", "lthumb"),
    *("rclavicle", "rhumerus", "rradius", "rwrist", "rhand", "rfingers", "rthumb"),
)
"""The joints in order: that of the hierarchy in CMU's files, depth first. A joint is the far end of the bone it names:
"lfemur" is the left knee, "lclavicle" the left shoulder."""
COLUMNS = ("file", "subject", "trial", "label")
FOLDS = 4
INCH = 0.0254
"""Metres. CMU's documentation: an ASF file's lengths divided by its `length` (0.45) are inches."""

_NAME = re.compile(r"(\d{1,3})_(\d{1,3})\.amc", re.ASCII)


def find_files(root: Path) -> list[Path]:
    """labels.csv in `root` or `root/cmu`, and the .amc and .asf files, anywhere below it, of the trials it lists.

    Raises:
        CrrlError: there is no labels.csv, or it lists a trial whose files are not there, or there twice.
    """
    folder = next((place for place in (root, root / "cmu") if (place / LABELS).is_file()), None)
    if folder is None:
        raise CrrlError(
            f"{root / LABELS} is missing: it says which CMU trials to take and what each shows, a row for each, in "
            f"the columns subject,trial,label (2,1,walk) or file,label (02_01.amc,walk)"
        )
    trials = read_trials(folder / LABELS)
    motions = by_stem(files_below(folder, ".amc"), {Path(name).stem for _, name, _ in trials})
    files = []
    for line, name, _ in trials:
        motion = motions.get(Path(name).stem)
        if motion is None:
            raise CrrlError(f"{folder / LABELS}, line {line}: {name} is nowhere in {folder}: add it or remove the row")
        skeleton = skeleton_path(motion)
        if not skeleton.is_file():
            raise CrrlError(f"{skeleton} is missing, the skeleton of {motion}: put it there")
        files += [motion, skeleton]
    return [folder / LABELS, *dict.fromkeys(files)]


def read_trials(path: Path) -> list[tuple[int, str, str]]:
    """The rows of labels.csv: line number, name of the .amc file, label. A trial is named by file or by its numbers.

    Raises:
        CrrlError: the file is damaged, a row names no trial or no label, or a trial comes twice.
    """
    trials: dict[str, tuple[int, str, str]] = {}
    for line, row in read_rows(path, {"label"}, COLUMNS, "subject,trial,label or file,label"):
        name = Path(row["file"]).name if "file" in row else _name(row.get("subject", ""), row.get("trial", ""))
        if not _NAME.fullmatch(name) or not row["label"]:
            raise CrrlError(
                f"{path}, line {line}: a trial (columns subject and trial, or file: 02_01.amc) and its label are needed"
            )
        if name in trials:
            raise CrrlError(f"{path}, line {line}: {name} is listed twice; remove one of its rows")
        trials[name] = (line, name, row["label"])
    return list(trials.values())


def load(files: list[Path]) -> Clips:
    """Read the trials that `find_files` found: metres, Y up, joints as in JOINTS.

    The splits "fold-1" to "fold-4" test on a quarter of the sequences each and train on the others: the sequences,
    sorted by class and then by name, are dealt out in turn, so that every class is spread evenly.

    Raises:
        CrrlError: a file is damaged, a skeleton has not the 31 joints, there are fewer than four sequences, or a class
            has but one.
    """
    labels_path, *paths = files
    trials = read_trials(labels_path)
    motions = {path.name: path for path in paths}
    class_names = classes_of(labels_path, (label for _, _, label in trials))
    places = {name: place for place, name in enumerate(class_names)}
    _read_skeleton.cache_clear()
    for path in paths:
        if path.suffix == ".asf":
            _read_skeleton(path)  # a damaged one is told before any trial is read
    names = [name for _, name, _ in trials]
    pairs = [(motions[name], skeleton_path(motions[name])) for name in names]
    said: list[tuple[Path, str]] = []
    rates: list[tuple[Path, float]] = []
    with closing(read_in_order(_read_clip, pairs, "read cmu")) as shown:
        clips = Clips.from_arrays(
            _frames(pairs, shown, said, rates),
            labels=[places[label] for _, _, label in trials],
            names=[str(motions[name]) for name in names],
            class_names=class_names,
            subjects=[int(name.partition("_")[0]) for name in names],
        )
    tell(said)
    warn_of_rates(rates)
    clips = replace(clips, names=tuple(Path(name).stem for name in names))
    counts = np.bincount(clips.labels)
    if len(clips) < FOLDS or counts.min() < 2:
        rare = f"class {class_names[int(counts.argmin())]!r} has one sequence" if counts.min() < 2 else "too few"
        raise CrrlError(f"{labels_path}: {FOLDS} folds need {FOLDS} sequences, two of each class ({rare}): list more")
    return replace(clips, splits=_folds(clips))


def _name(subject: str, trial: str) -> str:
    return f"{subject.strip().zfill(2)}_{trial.strip().zfill(2)}.amc" if subject and trial else ""


def skeleton_path(motion: Path) -> Path:
    """The skeleton of a motion: of its own name, else of its subject's, as 02.asf is of 02_01.amc."""
    own = motion.with_suffix(".asf")
    return own if own.exists() else motion.with_name(f"{motion.stem.partition('_')[0]}.asf")


@cache  # emptied by `load`: a subject's trials share their skeleton
def _read_skeleton(path: Path) -> asf.Skeleton:
    skeleton = asf.read_skeleton(path)
    different = sorted(set(JOINTS).symmetric_difference(skeleton.names))
    if different:
        raise CrrlError(f"{path} is no skeleton of CMU's 31 joints, it differs in {', '.join(different)[:200]}")
    return skeleton


def read_clip(path: Path) -> FloatArray:
    """One trial, float32 [T, 31, 3] in metres, of its .amc file, beside which its .asf file lies.

    Raises:
        CrrlError: a file is missing or damaged, or the skeleton has not the 31 joints.
    """
    [((_, remarks), frames)] = _read_clip((path, skeleton_path(path)))
    tell((path, remark) for remark in remarks)
    return frames


def _read_clip(pair: Files) -> Shown:
    """One trial, float32 [T, 31, 3] in metres, of its .amc file and its .asf file, after its frames a second and
    remarks."""
    path, body_path = pair
    skeleton = _read_skeleton(body_path)
    motion, rate, remarks = asf.read_recording(path, skeleton)
    frames = asf.positions(skeleton, motion)[:, [skeleton.names.index(name) for name in JOINTS]]
    return [([rate, remarks], frames * np.float32(INCH / skeleton.unit))]


def _frames(
    pairs: Iterable[Files], shown: Iterable[Shown], said: list[tuple[Path, str]], rates: list[tuple[Path, float]]
) -> Iterator[FloatArray]:
    """The trials alone; `said` gets the remarks on them, `rates` the frames a second of those that say them."""
    for (path, _), [((rate, remarks), frames)] in zip(pairs, shown, strict=True):
        said += [(path, remark) for remark in remarks]
        rates += [(path, rate)] if rate else []
        yield frames


def _folds(clips: Clips) -> dict[str, Split]:
    order = sorted(range(len(clips)), key=lambda i: (clips.labels[i], clips.names[i]))
    fold = np.empty(len(clips), np.int64)
    fold[order] = np.arange(len(clips)) % FOLDS

    def split(number: int) -> Split:
        test: IntArray = np.flatnonzero(fold == number)
        return Split(np.flatnonzero(fold != number), {"all": test})

    return {f"fold-{number + 1}": split(number) for number in range(FOLDS)}
