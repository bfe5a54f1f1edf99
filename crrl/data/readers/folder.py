"""Clips of the user's own: a folder of .npy/.npz files, and a labels.csv that lists them if they have labels."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from crrl.data.clips import Clips, FloatArray, IntArray, Split, check_clip
from crrl.data.folds import validation_folds
from crrl.data.naming import files_below, wrong_name
from crrl.data.readers.arrays import drop_scores, open_member, read_array
from crrl.errors import CrrlError
from crrl.files import explain_damage, explain_os_errors, open_input, read_bytes, shown

LABELS = "labels.csv"
FACTS = ("subject", "view", "setup")
COLUMNS = ("file", "label", "split", *FACTS)
MOST_COLUMNS = 1000

_FACT = re.compile(r"-?\d{1,9}|", re.ASCII)


def find_files(root: Path, endings: Sequence[str] = (".npy", ".npz")) -> list[Path]:
    """labels.csv and the clip files that it lists, in its order; without it all files below `root` with these endings.

    Raises:
        CrrlError: there is neither; labels.csv lists a file that does not exist or is not a regular file.
    """
    if not has_labels(root):
        files = [path for path in files_below(root, *endings) if path.name != LABELS]
        if not files:
            raise no_clips(root, f"file that ends in {' or '.join(endings)}")
        return files
    files = [root / row["file"] for row in read_labels(root)]
    for path in files:
        with explain_os_errors(path, "read"):
            there, fits = path.exists(), path.is_file()
        if not fits:
            problem = "is not a regular file: give a file" if there else "does not exist: add the file"
            raise CrrlError(f"{root / LABELS} lists {path}, which {problem} or remove its row")
    return [root / LABELS, *files]


def has_labels(root: Path) -> bool:
    """Whether there is a labels.csv, or a broken link of that name."""
    return os.path.lexists(root / LABELS)


def no_clips(root: Path, kind: str) -> CrrlError:
    """The error for a folder with neither labels.csv nor a clip of this kind; the caller raises it."""
    return CrrlError(
        f"{root} holds neither a {LABELS}, which lists clips after a first line file,label, nor any {kind}: give the "
        "folder of the clips"
    )


def apart(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """labels.csv, if it is among the files that `find_files` found, and the other files."""
    labels = int(files[0].name == LABELS)
    return files[:labels], files[labels:]


def read_labels(root: Path) -> list[dict[str, str]]:
    """The rows of labels.csv, with the column file and optionally label, split (train or test), subject, view, setup.

    Raises:
        CrrlError: the file is missing, has no rows, lacks a column or a value, lists a clip twice or one outside its
            folder.
    """
    path = root / LABELS
    rows = read_rows(path, {"file"}, COLUMNS, "file,label")
    seen: set[str] = set()
    for line, row in rows:
        if not row["file"] or row.get("label") == "":
            raise CrrlError(
                f"{path}, line {line}: file and label must both be given; where no labels are known, leave out the "
                f"column label"
            )
        if wrong := _wrong_file(row["file"], root):
            raise CrrlError(f"{path}, line {line}: {wrong}")
        file = os.path.normpath(row["file"])
        if file in seen:
            raise CrrlError(f"{path}, line {line}: {row['file']} is listed twice; remove one of its rows")
        seen.add(file)
        if "split" in row:
            row["split"] = row["split"].lower()
        if row.get("split", "train") not in ("train", "test"):
            raise CrrlError(f"{path}, line {line}: split is {shown(row['split'])!r}, not train or test")
        for fact in FACTS:
            if not _FACT.fullmatch(row.get(fact, "")):
                raise CrrlError(f"{path}, line {line}: {fact} is {shown(row[fact])!r}, not a whole number")
    return [row for _, row in rows]


def _wrong_file(file: str, root: Path) -> str:
    """Why a row does not name a file below `root`; "" if it does."""
    parts = [part for part in file.split("/") if part]
    if wrong := next(filter(None, map(wrong_name, parts)), ""):
        return f"the name of a file {wrong}: rename it"
    if os.path.isabs(file) or ".." in parts:
        return f"{file} is not below {root}: move it there, or link to it"
    return ""


def read_rows(path: Path, required: set[str], known: Sequence[str], columns: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a UTF-8 CSV file, with their line numbers; the first line names the columns.

    Column names may be in any case. Space around a field is removed, and empty rows are skipped. Unknown columns give a
    warning.

    Args:
        required: columns that the file must have. known: columns that are read; a row holds those that the file has.
        columns: an example of the first line, for messages.

    Raises:
        CrrlError: the file is missing, no CSV file or without rows; it lacks a required column, has one twice or one
            that is almost named like another; or a row has more fields than there are columns.
    """
    content = read_bytes(path, "a list of clips (CSV)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CrrlError(f"{path} is not a CSV file in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise CrrlError(
            f"{path}, line {reader.line_num}: no row of a CSV file ({error}): correct its quotes"
        ) from error
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    _check_columns(path, names, required, known, columns)
    if len(rows) < 2:
        raise CrrlError(f"{path} lists no clips: add a row for each")
    places = {name: names.index(name) for name in known if name in names}
    for line, row in rows[1:]:
        if any(field.strip() for place, field in enumerate(row) if not (place < len(names) and names[place])):
            raise CrrlError(
                f"{path}, line {line}: {len(row)} fields, but the first line names {len(list(filter(None, names)))} "
                f'columns: put a field that holds a comma into quotes ("carry, with bag")'
            )
    return [
        (line, {name: row[place].strip() if place < len(row) else "" for name, place in places.items()})
        for line, row in rows[1:]
    ]


def _check_columns(path: Path, names: list[str], required: set[str], known: Sequence[str], columns: str) -> None:
    if missing := required - set(names):
        other = next((word for mark, word in ((";", "semicolons"), ("\t", "tabs")) if mark in "".join(names)), "")
        apart = f", separated by commas, not {other}" if other else ""
        raise CrrlError(
            f"{path} has no column {' or '.join(sorted(missing))}: its first line names the columns, {columns}{apart}"
        )
    if len(names) > MOST_COLUMNS:
        raise CrrlError(f"{path} has {len(names)} columns, more than {MOST_COLUMNS}: its first line names {columns}")
    for name in known:
        if names.count(name) > 1:
            raise CrrlError(f"{path} has {names.count(name)} columns {name}: remove or rename all but one")
    others = [name for name in dict.fromkeys(names) if name and name not in known]
    for name in others:
        if near := get_close_matches(name, [column for column in known if column not in names], 1, 0.8):
            raise CrrlError(
                f"{path}: column {shown(name)!r} is almost {near[0]!r}: rename it to that, or to something less similar"
            )
    if others:
        warnings.warn(f"{path} has columns that are not read: {', '.join(map(shown, others[:9]))}", stacklevel=4)


def classes_of(path: Path, labels: Iterable[str]) -> list[str]:
    """The classes among `labels`, sorted; warns if two of them differ so little that one may be meant.

    Raises:
        CrrlError: a label is no valid name.
    """
    classes = sorted(set(labels))
    alike: dict[str, list[str]] = {}
    for name in classes:
        if wrong := wrong_name(name):
            raise CrrlError(f"{path}: the name of a class, {shown(name)!r}, {wrong}: rename it")
        alike.setdefault(_plain(name), []).append(name)
    pairs = [" and ".join(map(repr, same)) for same in alike.values() if len(same) > 1]
    if pairs:
        warnings.warn(
            f"{path}: the classes {'; '.join(pairs[:5])} differ only in case, spaces or zeros: use one spelling, if "
            f"they are one class",
            stacklevel=3,
        )
    return classes


def _plain(name: str) -> str:
    """A class's name without case, accent forms, separators and invisible characters; for a number, its value."""
    seen = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    plain = " ".join(re.split(r"[\s_-]+", seen.casefold().strip()))
    return str(float(plain)) if re.fullmatch(r"\d{1,9}(\.\d{0,9})?", plain, re.ASCII) else plain


def read_clip(path: Path) -> FloatArray:
    """One clip, float32 [T, J, 3], from .npy, or .npz with one array, whatever the ending says; never unpickles.

    Raises:
        CrrlError: the file is damaged, or holds something else.
    """
    remedy = "restore it or remove its row"
    with (
        explain_damage(path, "damaged or not a .npy/.npz array", remedy),
        open_input(path, "a .npy or .npz array", "npy", "zip", only=True) as file,
    ):
        zipped = file.read(2) == b"PK"
        file.seek(0)
        content = _only_array(path, file) if zipped else read_array(file, path.stat().st_size)
    return check_clip(content, str(path))


def _only_array(path: Path, file: IO[bytes]) -> npt.NDArray[Any]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        other = next((name for name in names if not name.endswith(".npy")), "")
        if len(names) != 1 or other:
            found = f"{shown(other)}, which is not a .npy array" if other else f"{len(names)} arrays"
            raise CrrlError(f"{path} holds {found}: one clip per file is needed")
        with open_member(path, archive, names[0]) as stream:
            return read_array(stream, archive.getinfo(names[0]).file_size)


def load(files: list[Path], contents: Iterable[object] | None = None) -> Clips:
    """Read the clips that `find_files` found, with the split "default" and folds of its training clips.

    The test clips of "default" are those marked test in the column split; without that column, every fifth clip of each
    class. The folds (`validation_folds`) leave them out. Without labels there are no classes, and without labels.csv
    all clips train. Joints (x, y, score) in pixels become (x, y, 0), absent if the score is 0, with a warning. Warns of
    clips that are flat or all zeros.

    Args:
        files: labels.csv, if there is one, then the clip files. contents: a clip [T, J, 3] for each of these files;
            None: the files are arrays.

    Raises:
        CrrlError: a clip is damaged, empty, not finite, or has another joint count than the first; no clip trains.
    """
    labels, clip_paths = apart(files)
    where = labels[0] if labels else clip_paths[0].parent
    rows = read_labels(labels[0].parent) if labels else _unlabelled_rows(clip_paths)
    class_names = classes_of(where, (row["label"] for row in rows if "label" in row))
    places = {name: place for place, name in enumerate(class_names)}
    facts: dict[str, Any] = {f"{fact}s": [int(row.get(fact) or -1) for row in rows] for fact in FACTS}
    clips = Clips.from_arrays(
        map(read_clip, clip_paths) if contents is None else contents,
        labels=[places[row["label"]] if places else -1 for row in rows],
        names=[row["file"] for row in rows],
        places=list(map(str, clip_paths)),
        class_names=class_names,
        **facts,
    )
    if contents is None:
        _warn_of_empty(where, clips, clip_paths)
        if remark := drop_scores(clips.frames):
            warnings.warn(f"{where}: {remark}", stacklevel=2)
    test = np.array([row["split"] == "test" for row in rows]) if "split" in rows[0] else _every_fifth(clips.labels)
    if test.all():
        raise CrrlError(f"{where} marks every clip as test: mark those to train on as train")
    split = Split(np.flatnonzero(~test), {"all": np.flatnonzero(test)} if test.any() else {})
    splits = {"default": split, **validation_folds(split.train, clips.labels, clips.subjects)}
    return replace(clips, splits=splits)


def _unlabelled_rows(paths: Sequence[Path]) -> list[dict[str, str]]:
    """The rows of clips without a labels.csv, each named by its path below the common folder."""
    root = Path(os.path.commonpath([path.parent for path in paths]))
    for path in paths:
        if wrong := _wrong_file(path.relative_to(root).as_posix(), root):
            raise CrrlError(f"{root}: {wrong}")
    return [{"file": path.relative_to(root).as_posix()} for path in paths]


def _warn_of_empty(path: Path, clips: Clips, files: Sequence[Path]) -> None:
    """Warn of clips of zeros alone, and of an axis with one value in all clips."""
    low, high, empty = np.full(3, np.inf), np.full(3, -np.inf), []
    for place, file in enumerate(files):
        clip = clips.clip(place)
        if not clip.any():
            empty.append(file)
            continue
        seen = clip[clip.any(axis=2)]
        low, high = np.minimum(low, seen.min(axis=0)), np.maximum(high, seen.max(axis=0))
    if empty:
        warnings.warn(
            f"{path}: {len(empty)} of {len(clips)} clips are all zeros, which stand for joints that were not seen, "
            f"the first is {empty[0]}: remove them",
            stacklevel=3,
        )
    if flat := [
        f"{axis} is {value + 0.0:g}" for axis, value, other in zip("xyz", low, high, strict=True) if value == other
    ]:
        warnings.warn(
            f"{path}: all clips are flat, {' and '.join(flat)} in each joint of each: right for poses in an image "
            f"(2D), else give all three coordinates",
            stacklevel=3,
        )


def _every_fifth(labels: IntArray) -> np.ndarray:
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test
