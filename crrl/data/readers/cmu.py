"""CMU motion capture (mocap.cs.cmu.edu): ASF/AMC files, 31 joints, 120 frames a second, 4-fold cross validation.

The paper's list of 2,235 sequences in 45 classes was never published: a labels.csv lists the trials and their classes.
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
from crrl.data.clips import Clips, FloatArray, Split
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
"""The joints, in the depth-first order of the hierarchy in CMU's files. A joint is the far end of the bone it is named
after: "lfemur" is the left knee, "lclavicle" the left shoulder.
"""
COLUMNS = ("file", "subject", "trial", "label")
FOLDS = 4
INCH = 0.0254
"""Metres. By CMU's documentation, the lengths of an ASF file divided by its `length` (0.45) are inches."""

_NAME = re.compile(r"(\d{1,3})_(\d{1,3})\.amc", re.ASCII)


def find_files(root: Path) -> list[Path]:
    """labels.csv in `root` or `root/cmu`, and the .amc and .asf files below it of the trials that it lists.

    Raises:
        CrrlError: there is no labels.csv, or a file of a trial is missing or found twice.
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
    """The rows of labels.csv: line number, name of the .amc file, label. A trial is named by its file or its numbers.

    Raises:
        CrrlError: the file is damaged, a row names no trial or no label, or a trial occurs twice.
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

    The splits "fold-1" to "fold-4" each test on a quarter of the sequences and train on the others. The sequences,
    sorted by class and then by name, are dealt out in turn, so that every class is spread evenly.

    Raises:
        CrrlError: a file is damaged, a skeleton has not the 31 joints, there are fewer than four sequences, or a class
            has only one.
    """
    labels_path, *paths = files
    trials = read_trials(labels_path)
    motions = {path.name: path for path in paths}
    class_names = classes_of(labels_path, (label for _, _, label in trials))
    places = {name: place for place, name in enumerate(class_names)}
    _read_skeleton.cache_clear()
    for path in paths:
        if path.suffix == ".asf":
            _read_skeleton(path)  # so that a damaged skeleton is reported before any trial is read
    pairs = [(motions[name], skeleton_path(motions[name])) for _, name, _ in trials]
    facts: list[tuple[float, list[str]]] = []
    with closing(read_in_order(_read_clip, pairs, "read cmu")) as shown:
        clips = Clips.from_arrays(
            _frames(shown, facts),
            labels=[places[label] for _, _, label in trials],
            names=[Path(name).stem for _, name, _ in trials],
            places=[str(path) for path, _ in pairs],
            class_names=class_names,
            subjects=[int(name.partition("_")[0]) for _, name, _ in trials],
        )
    tell((path, remark) for (path, _), (_, remarks) in zip(pairs, facts, strict=True) for remark in remarks)
    warn_of_rates([(path, rate) for (path, _), (rate, _) in zip(pairs, facts, strict=True) if rate])
    counts = np.bincount(clips.labels)
    if len(clips) < FOLDS or counts.min() < 2:
        rare = f"class {class_names[int(counts.argmin())]!r} has one sequence" if counts.min() < 2 else "too few"
        raise CrrlError(f"{labels_path}: {FOLDS} folds need {FOLDS} sequences, two of each class ({rare}): list more")
    fold = np.empty(len(clips), np.int64)
    fold[np.lexsort((np.array(clips.names), clips.labels))] = np.arange(len(clips)) % FOLDS
    return replace(clips, splits={f"fold-{number + 1}": Split.of(fold != number) for number in range(FOLDS)})


def _frames(shown: Iterable[Shown], facts: list[tuple[float, list[str]]]) -> Iterator[FloatArray]:
    """The frames of the trials; `facts` gets the frames a second and the remarks of each."""
    for [(about, frames)] in shown:
        facts.append(about)
        yield frames


def _name(subject: str, trial: str) -> str:
    return f"{subject.strip().zfill(2)}_{trial.strip().zfill(2)}.amc" if subject and trial else ""


def skeleton_path(motion: Path) -> Path:
    """The skeleton of a motion: the .asf file of its own name, else of its subject, as 02.asf for 02_01.amc."""
    own = motion.with_suffix(".asf")
    return own if own.exists() else motion.with_name(f"{motion.stem.partition('_')[0]}.asf")


@cache  # the trials of a subject share their skeleton; `load` empties this
def _read_skeleton(path: Path) -> asf.Hierarchy:
    skeleton = asf.read_skeleton(path)
    different = sorted(set(JOINTS).symmetric_difference(skeleton.names))
    if different:
        raise CrrlError(f"{path} is not a skeleton of CMU's 31 joints, it differs in {', '.join(different)[:200]}")
    return skeleton


def read_clip(path: Path) -> FloatArray:
    """One trial, float32 [T, 31, 3] in metres, from its .amc file and the .asf file beside it.

    Raises:
        CrrlError: a file is missing or damaged, or the skeleton has not the 31 joints.
    """
    [((_, remarks), frames)] = _read_clip((path, skeleton_path(path)))
    tell((path, remark) for remark in remarks)
    return frames


def _read_clip(pair: Files) -> Shown:
    """One trial, float32 [T, 31, 3] in metres, from its .amc and .asf file, after its frames a second and remarks."""
    path, body_path = pair
    skeleton = _read_skeleton(body_path)
    motion, rate, remarks = asf.read_recording(path, skeleton)
    frames = asf.positions(skeleton, motion)[:, [skeleton.names.index(name) for name in JOINTS]]
    return [([rate, remarks], frames * np.float32(INCH / skeleton.unit))]
