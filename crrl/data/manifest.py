"""The description of a prepared folder: manifest.json for programs, report.txt for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crrl.data.clips import Clips
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
    """The manifest of `folder`, which holds all its files but this one.

    Args:
        code: a hash of the code that read the data set, for people who compare folders: no program reads it.
        dropped: the reason for each clip that was dropped, by its name.
        left_out: how much was left out of the other clips, by reason.
        official: the published clip counts of each side of each split; None: there are none.
    """
    labels = np.bincount(clips.labels[clips.labels >= 0], minlength=len(clips.class_names)).tolist()
    facts = {name: Counter(getattr(clips, name).tolist()) for name in ("subjects", "views", "setups")}
    return {
        "format": FORMAT,
        "dataset": dataset,
        "code": code,
        "clips": len(clips),
        "frames": len(clips.frames),
        "joints": clips.num_joints,
        "longest": int(clips.lengths.max()),
        "splits": {
            name: {"train": len(split.train), **{side: len(index) for side, index in split.test.items()}}
            for name, split in clips.splits.items()
        },
        "official": official,
        "classes": dict(zip(clips.class_names, labels, strict=True)),
        **{name: {str(number): counts[number] for number in sorted(counts)} for name, counts in facts.items()},
        "dropped": dict(dropped),
        "left_out": dict(left_out),
        "files": {path.name: digest(path) for path in sorted(folder.iterdir())},
    }


def summary_of(manifest: dict[str, Any]) -> Iterator[str]:
    """The manifest in a few lines."""
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
    kinds = (reason.partition(", line")[0] for reason in manifest["dropped"].values())  # without one clip's details
    for reason, count in Counter(kinds).most_common():
        yield f"dropped clips: {count} {reason}"


def _listed(sides: Mapping[str, int]) -> str:
    return ", ".join(f"{side} {count}" for side, count in sides.items())
