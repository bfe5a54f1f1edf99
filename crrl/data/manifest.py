"""What a prepared folder says of itself: manifest.json for programs, report.txt for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips, IntArray
from crrl.data.prepared import FORMAT, digest


def manifest_of(
    folder: Path,
    dataset: str,
    code: str,
    clips: Clips,
    dropped: Mapping[str, str],
    left_out: Mapping[str, int],
    official: dict[str, dict[str, int]] | None,
) -> dict[str, Any]:
    """Everything worth knowing about the files in `folder`, which all but this are there.

    Args:
        code: a hash of the code that read the data set, for people who compare folders: no program reads it.
        dropped: clips, with the reason.
        left_out: what was left out of the other clips, by reason.
        official: clips on each side of each split, as the field counts them; None: nobody does.
    """
    labels = np.bincount(clips.labels[clips.labels >= 0], minlength=len(clips.class_names)).tolist()
    return {
        "format": FORMAT,
        "dataset": dataset,
        "code": code,
        "clips": len(clips),
        "frames": len(clips.frames),
        "joints": clips.num_joints,
        "longest": int(clips.lengths.max()),
        "splits": _sides(clips),
        "official": official,
        "classes": dict(zip(clips.class_names, labels, strict=True)),
        **{name: _counts(getattr(clips, name)) for name in ("subjects", "views", "setups")},
        "dropped": dict(dropped),
        "left_out": dict(left_out),
        "files": {path.name: digest(path) for path in sorted(folder.iterdir())},
    }


def _sides(clips: Clips) -> dict[str, dict[str, int]]:
    return {
        name: {"train": len(split.train), **{side: len(index) for side, index in split.test.items()}}
        for name, split in clips.splits.items()
    }


def _counts(values: IntArray) -> dict[str, int]:
    numbers, counts = np.unique(values, return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def summary_of(manifest: dict[str, Any]) -> str:
    """The manifest in a few lines."""
    return "\n".join(_lines(manifest))


def _lines(manifest: dict[str, Any]) -> Iterator[str]:
    classes, clips = manifest["classes"], manifest["clips"]
    used = sum(count > 0 for count in classes.values())
    labelled = f"of {used} of {len(classes)} classes" if classes else "without labels"
    yield f"{manifest['dataset']}: {clips} clips {labelled}"
    yield f"{manifest['frames']} frames of {manifest['joints']} joints, at most {manifest['longest']} a clip"
    for name, sides in manifest["splits"].items():
        expected = (manifest["official"] or {}).get(name, sides)
        differs = "" if expected == sides else f" (differs from the official {_listed(expected)})"
        yield f"{name}: {_listed(sides)}{differs}"
    for reason, count in manifest["left_out"].items():
        yield f"left out of clips: {count} {reason}"
    for reason, count in Counter(_kind(reason) for reason in manifest["dropped"].values()).most_common():
        yield f"dropped clips: {count} {reason}"


def _listed(sides: Mapping[str, int]) -> str:
    return ", ".join(f"{side} {count}" for side, count in sides.items())


def _kind(reason: str) -> str:
    """The reason without what is particular to one clip."""
    return reason.partition(", line")[0]


def dropped_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """Every clip that was dropped, with its reason."""
    yield from (f"dropped {name}: {reason}" for name, reason in sorted(manifest["dropped"].items()))
