"""The command `python -m crrl.view`: draw a clip, or a sheet of a data set, to check before training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import tyro

from crrl.bars import counted
from crrl.data import Clips
from crrl.data.clips import FloatArray
from crrl.data.preprocessing import absent_joints
from crrl.data.readers.clip_files import find_clip_files, read_body
from crrl.data.skeletons import Skeleton, skeleton_of, up_of
from crrl.data.sources import load_raw
from crrl.errors import CrrlError, run_command
from crrl.files import refuse_place
from crrl.reporting.drawings import draw_clip, draw_sheet
from crrl.reporting.motion import AXES, upright
from crrl.reporting.page import need, write_clips

FORMS = (".gif", ".png", ".html")
MOST_CLASSES = 60
"""The largest number of classes on a sheet."""


@dataclass(frozen=True)
class ViewOptions:
    """Draw one clip, or a few of each class of a data set or folder, and describe their axes and missing joints.

    A GIF moves, a PNG stands still, an HTML page moves and can be turned. Missing joints, which are zeros, are drawn as
    red crosses where they were seen last.
    """

    clip: Annotated[Path | None, tyro.conf.Positional] = None
    """A clip, as for crrl predict; or a folder of clips, without labels, for a sheet with a row for each folder."""
    dataset: str | None = None
    """Instead of a clip: a data set or format of crrl prepare, or prepared."""
    data: Path | None = None
    """Folder of the data set's files, else $CRRL_DATA."""
    out: Path = Path("view.gif")
    """The picture to write: .gif, .png or .html."""
    each: int = 4
    """Clips of each class, or folder, on a sheet."""

    def __post_init__(self) -> None:
        if (self.clip is None) == (self.dataset is None):
            raise CrrlError("give either a clip or --dataset NAME, with --data FOLDER")
        if self.data and not self.dataset:
            raise CrrlError("--data needs --dataset")
        if self.out.suffix not in FORMS:
            raise CrrlError(f"--out {self.out}: the name must end in {', '.join(FORMS)}")
        if self.each < 1:
            raise CrrlError(f"--each is {self.each}: at least 1 is needed")


def describe(frames: FloatArray, lengths: Sequence[int], skeleton: Skeleton) -> list[str]:
    """Lines that describe clips: lengths, joints, axes and missing joints.

    Args:
        frames: [ΣT, J, 3], of all clips. lengths: the number of frames of each clip.
    """
    absent = absent_joints(frames)
    shown = frames[~absent].reshape(-1, 3)
    drawn = "" if skeleton.bones else ", drawn as points"
    count = f"{len(lengths)} clips, " if len(lengths) > 1 else ""
    long = f"{min(lengths)} to {max(lengths)}" if len(lengths) > 1 else str(lengths[0])
    return [
        f"{count}{long} frames, {frames.shape[1]} joints: {skeleton.name}{drawn}",
        f"axes: {_ranges(shown)}; up: {_up(skeleton, frames)}",
        f"missing joints: {_missing(absent)}",
    ]


def _ranges(shown: FloatArray) -> str:
    if not len(shown):
        return "nothing is shown"
    ends = zip(AXES, shown.min(axis=0), shown.max(axis=0), strict=True)
    return ", ".join(f"{axis} {low:.4g} to {high:.4g}" for axis, low, high in ends)


def _up(skeleton: Skeleton, frames: FloatArray) -> str:
    up = up_of(skeleton, frames)
    if up is None:
        return "not known, +y is drawn upwards"
    return f"{'-' if up[1] < 0 else '+'}{AXES[up[0]]}, from hips to head"


def _missing(absent: npt.NDArray[np.bool_]) -> str:
    """How many joints are missing over all frames, and which are never seen."""
    count, never = int(absent.sum()), np.flatnonzero(absent.all(axis=0))
    if not count:
        return "none"
    frames = int(absent.any(axis=1).sum())
    always = f"; never seen: {', '.join(map(str, never))}" if len(never) else ""
    return (
        f"{count:,} of {absent.size:,} ({100 * count / absent.size:.2g} %), in {frames:,} of {len(absent):,} frames"
        f"{always}"
    )


def view_clip(path: Path, out: Path) -> list[str]:
    """Draw the clip in a file or in a folder of frames; returns the lines of `describe`."""
    clip, tree = read_body(path)
    skeleton = skeleton_of(clip, tree)
    lines = describe(clip, [len(clip)], skeleton)
    turned, labels = upright(clip, up_of(skeleton, clip))
    if out.suffix == ".html":
        write_clips(out, path.name, lines, labels, skeleton, [("", [(path.name, turned)])])
    else:
        draw_clip(out, turned, labels, skeleton, path.name, "\n".join(lines))
    return lines


def read_folder(root: Path, files: Sequence[Path]) -> Clips:
    """The clips below a folder, without a list of labels: the clips in one folder are a class.

    If some clips show two people, clips of one person get a second body of zeros.

    Raises:
        CrrlError: a clip is damaged, or its joint count differs from the first clip's.
    """
    bodies = [read_body(path) for path in counted(files, len(files), "view", "clip", delay=1)]
    most = max(clip.shape[1] for clip, _ in bodies)
    names = [path.relative_to(root).as_posix() for path in files]
    folders = [str(Path(name).parent) for name in names]
    classes = sorted(set(folders))
    clips = Clips.from_arrays(
        (np.pad(clip, ((0, 0), (0, most // 2), (0, 0))) if 2 * clip.shape[1] == most else clip for clip, _ in bodies),
        labels=[classes.index(folder) for folder in folders],
        names=names,
        class_names=classes,
    )
    trees = {tree for _, tree in bodies}
    return replace(clips, tree=trees.pop() if len(trees) == 1 else None)


def view_set(clips: Clips, title: str, kinds: tuple[str, str], each: int, out: Path) -> list[str]:
    """Draw a sheet of clips; returns the lines of `describe`, completed.

    Args:
        kinds: the word for one class, and for several.
    """
    skeleton = skeleton_of(clips.frames, clips.tree)
    lines = describe(clips.frames, clips.lengths.tolist(), skeleton)
    lines[0] = f"{len(clips.class_names)} {kinds[len(clips.class_names) > 1]}, {lines[0]}"
    if len(clips.class_names) > MOST_CLASSES:
        lines.append(f"shown: the first {MOST_CLASSES} {kinds[1]}")
    up = up_of(skeleton, clips.frames)
    _, labels = upright(clips.frames[:1], up)
    rows = [
        (name, [(clips.names[index], upright(clips.clip(index), up)[0]) for index in _few(clips, label, each)])
        for label, name in enumerate(clips.class_names[:MOST_CLASSES])
    ]
    rows = [row for row in rows if row[1]]
    if out.suffix == ".html":
        write_clips(out, title, lines, labels, skeleton, rows)
    else:
        bare = [(name, [frames for _, frames in shown]) for name, shown in rows]
        draw_sheet(out, bare, labels, skeleton, title, "\n".join(lines))
    return lines


def _few(clips: Clips, label: int, each: int) -> list[int]:
    """At most `each` clips of a class, evenly spaced over its clips."""
    own = np.flatnonzero(clips.labels == label)
    return [int(index) for index in own[np.linspace(0, len(own) - 1, min(each, len(own))).astype(int)]]


def _view(options: ViewOptions) -> list[str]:
    """Draw what the options ask for; returns the lines that describe it."""
    if options.dataset is not None:
        clips = load_raw(options.dataset, options.data)
        if not clips.class_names:
            clips = replace(clips, labels=np.zeros_like(clips.labels), class_names=("without labels",))
        return view_set(clips, options.dataset, ("class", "classes"), options.each, options.out)
    assert options.clip is not None
    files = find_clip_files([options.clip])
    if files == [options.clip]:
        return view_clip(options.clip, options.out)
    clips = read_folder(options.clip, files)
    return view_set(clips, options.clip.resolve().name, ("folder", "folders"), options.each, options.out)


def main(arguments: list[str] | None = None) -> int:
    """Draw, and print the description."""
    options = tyro.cli(ViewOptions, prog="python -m crrl.view", args=arguments)
    refuse_place(options.out)
    if options.out.suffix == ".html":
        need("report", "jinja2")
    else:
        need("reproduce", "matplotlib", "PIL")
    print("\n".join(_view(options)))
    print(f"view: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
