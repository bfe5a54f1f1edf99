"""A user's own clips: a folder of .npy/.npz files and a labels.csv that lists them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, FloatArray, IntArray, Split, check_clip
from crrl.data.folds import validation_folds
from crrl.errors import CrrlError
from crrl.files import explain_damage, explain_os_errors

LABELS = "labels.csv"
FACTS = ("subject", "view", "setup")


def find_files(root: Path) -> list[Path]:
    """labels.csv and the clip files it lists, in its order.

    Raises:
        CrrlError: labels.csv is missing or lists a file that is not there.
    """
    files = [root / row["file"] for row in read_labels(root)]
    for path in files:
        if not path.is_file():
            raise CrrlError(f"{root / LABELS} lists {path}, which is not there: add the file or remove its row")
    return [root / LABELS, *files]


def read_labels(root: Path) -> list[dict[str, str]]:
    """The rows of labels.csv: columns file and label, and optionally split (train or test), subject, view, setup.

    Raises:
        CrrlError: the file is missing, has no rows, lacks a column or a value, or lists a clip twice.
    """
    path = root / LABELS
    rows = read_rows(path, {"file", "label"}, "file,label")
    seen: set[str] = set()
    for line, row in rows:
        if not row["file"] or not row["label"]:
            raise CrrlError(f"{path}, line {line}: file and label must both be given")
        if row["file"] in seen:
            raise CrrlError(f"{path}, line {line}: {row['file']} is listed twice; remove one of its rows")
        seen.add(row["file"])
        if row.get("split", "train") not in ("train", "test"):
            raise CrrlError(f"{path}, line {line}: split is {row['split']!r}, not train or test")
        for fact in FACTS:
            if not re.fullmatch(r"-?\d{1,9}|", row.get(fact, "")):
                raise CrrlError(f"{path}, line {line}: {fact} is {row[fact]!r}, not a whole number")
    return [row for _, row in rows]


def read_rows(path: Path, required: set[str], columns: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file in UTF-8 whose first line names the columns, with their line numbers.

    Args:
        required: columns that every such file has. columns: the first line to have, as it is told to who lacks one.

    Raises:
        CrrlError: the file is missing, is no such file, has no rows or lacks a required column.
    """
    with explain_os_errors(path, "read"), open(path, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file, restval="")
            names = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise CrrlError(f"{path} is not a CSV file in UTF-8: {error}") from error
    missing = required - set(names)
    if missing:
        apart = ", apart by commas, not semicolons" if any(";" in name for name in names) else ""
        raise CrrlError(
            f"{path} has no column {' or '.join(sorted(missing))}: its first line names the columns, {columns}{apart}"
        )
    if not rows:
        raise CrrlError(f"{path} lists no clips: add a row for each")
    return rows


def read_clip(path: Path) -> FloatArray:
    """One clip, float32 [T, J, 3], from .npy, or .npz with a single array; never unpickles.

    Raises:
        CrrlError: the file is damaged, or not such an array.
    """
    with explain_damage(path, "damaged or no .npy/.npz array", "restore it or remove its row"):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                if len(content.files) != 1:
                    raise CrrlError(f"{path} holds {len(content.files)} arrays: one clip per file is needed")
                content = content[content.files[0]]
    return check_clip(content, str(path))


def load(files: list[Path], contents: Iterable[object] | None = None) -> Clips:
    """Read the clips that `find_files` found, with the split "default" and folds of its training clips alone.

    The test clips of "default" are those marked test in the column split; without that column, every fifth clip of each
    class. They are on neither side of the folds (`validation_folds`).

    Args:
        files: labels.csv, then the clip files. contents: a clip, [T, J, 3], of each of these; None: they hold arrays.

    Raises:
        CrrlError: a clip is damaged, empty, not finite, or has another joint count than the first.
    """
    labels_path, *clip_paths = files
    rows = read_labels(labels_path.parent)
    class_names = sorted({row["label"] for row in rows})
    facts: dict[str, Any] = {f"{fact}s": [int(row.get(fact) or -1) for row in rows] for fact in FACTS}
    clips = Clips.from_arrays(
        map(read_clip, clip_paths) if contents is None else contents,
        labels=[class_names.index(row["label"]) for row in rows],
        names=[str(path) for path in clip_paths],
        class_names=class_names,
        **facts,
    )
    test = np.array([row["split"] == "test" for row in rows]) if "split" in rows[0] else _every_fifth(clips.labels)
    if test.all() or not test.any():
        raise CrrlError(
            f"{labels_path} needs clips for training and for testing: mark some of each in its column split"
        )
    split = Split(np.flatnonzero(~test), {"all": np.flatnonzero(test)})
    splits = {"default": split, **validation_folds(split.train, clips.labels, clips.subjects)}
    return replace(clips, names=tuple(row["file"] for row in rows), splits=splits)


def _every_fifth(labels: IntArray) -> np.ndarray:
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test
