"""PKU-MMD I and II: long recordings of two Kinect v2 bodies as text, cut into a clip for each labelled action.

The files are those of the data set's README: skeleton files with a frame of 2 × 25 joints x y z a line (metres; an
absent body is zeros); label files with lines "action,start,end,confidence"; split files that list training and
validation videos.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crrl.data.chunks import Files, Shown, read_in_order
from crrl.data.clips import Clips, FloatArray, IntArray, Split, join
from crrl.data.naming import by_stem, files_below
from crrl.data.readers.arrays import join_bodies
from crrl.data.readers.text import Line, line_error, numbers, read_lines, remarks_on, tell
from crrl.errors import CrrlError

ACTIONS = tuple(
    """bow|brushing hair|brushing teeth|check time (from watch)|cheer up|clapping|cross hands in front (say stop)
    |drink water|drop|eat meal/snack|falling|giving something to other person|hand waving|handshaking
    |hopping (one foot jumping)|hugging other person|jump up|kicking other person|kicking something
    |make a phone call/answer phone|pat on back of other person|pickup|playing with phone/tablet
    |point finger at the other person|pointing to something with finger|punching/slapping other person
    |pushing other person|put on a hat/cap|put something inside pocket|reading|rub two hands together|salute
    |sitting down|standing up|take off a hat/cap|take off glasses|take off jacket|take out something from pocket
    |taking a selfie|tear up paper|throw|touch back (backache)|touch chest (stomachache/heart pain)
    |touch head (headache)|touch neck (neckache)|typing on a keyboard|use a fan (with hand or paper)/feeling warm
    |wear jacket|wear on glasses|wipe face|writing""".replace("\n    ", "").split("|")
)
"""Actions 1 to 51 in the order of the data set's Actions.xlsx; edition II has 41 of them."""
BODIES, NUM_JOINTS = 2, 25
VIEWS = "LMR"
"""Left, middle and right camera: views 1, 2 and 3."""
OVERLAP = 10
"""The actions of a video may have at most this many times its frames: they follow each other, with some errors."""

_VIDEO = re.compile(r"(\d{4}|A\d\dN\d\d)-([LMR])", re.ASCII)
_SPLITS = {name: re.compile(rf"cross[-_]{name[6:]}(_v2)?\.txt") for name in ("cross-subject", "cross-view")}
_LABEL = re.compile(r"(\d{1,2}) *, *(\d{1,6}) *, *(\d{1,6}) *, *(\d{1,3})", re.ASCII)


class Action(NamedTuple):
    """A line of a label file: a clip of frames `start` to `end` - 1, counted from 0."""

    video: str
    line: int
    action: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """The clip's name: video and line of the label file."""
        return f"{self.video}:{self.line}"


def find_files(root: Path) -> list[Path]:
    """The split files below `root`, then the label file and the skeleton file of each video that they name.

    A video's files are NAME.txt in folders whose names contain "label" or "skeleton", or NAME.label and NAME.skeleton.

    Raises:
        CrrlError: there is no split file, or those of both editions; a file of a video is missing or found twice.
    """
    texts = sorted(files_below(root, ".txt", ".label", ".skeleton"))
    split_files = [path for path in texts if _split_name(path)]
    kinds = [_split_name(path) for path in split_files]
    if not split_files or len(set(kinds)) != len(kinds):
        found = "both editions', I and II" if split_files else "none"
        raise CrrlError(
            f"{root} should hold the split files of one edition of PKU-MMD, cross-subject.txt and cross-view.txt, and "
            f"found {found}: point --data at the folder of one edition"
        )
    videos = sorted({video for path in split_files for side in read_split(path) for video in side})
    by_kind = {
        kind: by_stem((path for path in texts if _is(path, kind, root)), videos) for kind in ("label", "skeleton")
    }
    of_videos = [path for path in texts if _is(path, "label", root) or _is(path, "skeleton", root)]
    for kind, paths in by_kind.items():
        for video in videos:
            if video not in paths:
                raise CrrlError(
                    f"{root} has no {kind} file of {video}, which the split files name: unpack it, in a folder named "
                    f"{kind}, or remove the name"
                )
    if unread := [path for path in of_videos if _VIDEO.match(path.stem.upper()) and path.stem not in videos]:
        more = f" and {len(unread) - 1} more files are" if len(unread) > 1 else " is"
        warnings.warn(f"{unread[0]}{more} of a video that no split file names: not read", stacklevel=2)
    return [*split_files, *(by_kind[kind][video] for video in videos for kind in ("label", "skeleton"))]


def read_split(path: Path) -> tuple[set[str], set[str]]:
    """The training and the validation videos of a split file: names separated by commas, under two headings.

    Raises:
        CrrlError: a heading is missing, a name is invalid, or a video is in both sets.
    """
    sides: list[set[str]] = []
    for line in read_lines(path, "a split file"):
        if re.fullmatch(r"(train|valid)\w* videos:", line.text.lower()):  # "Validataion videos:" in the official files
            if line.text.lower().startswith("train") != (not sides) or len(sides) == 2:
                raise line_error(path, line, "the headings are not Training videos:, then Validation videos:")
            sides.append(set())
            continue
        for name in re.split(r"[,\s]+", line.text.strip(" ,")):
            if not sides or not _VIDEO.fullmatch(name):
                raise line_error(path, line, f"{name[:40]!r} is not a video under a heading")
            if any(name in side for side in sides[:-1]):
                raise line_error(path, line, f"{name} is a training video and a validation video")
            sides[-1].add(name)
    if len(sides) != 2 or not all(sides):
        raise CrrlError(f"{path} names no videos under Training videos: and Validation videos:; restore it")
    return sides[0], sides[1]


def load(files: list[Path]) -> Clips:
    """Read the videos that `find_files` found: two bodies, [ΣT, 50, 3], with the splits whose files are there.

    Classes are the actions that occur. An action without a visible body is left out, with a warning, as in public
    preparations of the data set; `Clips.dropped` names it.

    Raises:
        CrrlError: a file is damaged, an action is unknown or goes beyond the end of its video.
    """
    sides = {name: read_split(path) for path in files if (name := _split_name(path))}
    paths = [path for path in files if not _split_name(path)]
    pairs = list(zip(paths[::2], paths[1::2], strict=True))
    found: list[tuple[Action, bool]] = []
    remarks: dict[tuple[Path, str], None] = {}
    with closing(read_in_order(_read_video, pairs, "read pku-mmd")) as videos:
        frames, offsets = join(_clips(pairs, videos, found, remarks))
    tell(remarks)
    kept, empty = ([action for action, shown in found if shown is side] for side in (True, False))
    if empty:
        said = f"{len(empty)} actions of PKU-MMD have no frame that shows a body and are left out"
        warnings.warn(f"{said}, the first {empty[0].name}", stacklevel=2)
    actions = sorted({action.action for action in kept})
    return Clips(
        frames=frames,
        offsets=offsets,
        labels=np.array([actions.index(action.action) for action in kept], np.int64),
        subjects=np.full(len(kept), -1, np.int64),
        views=np.array([VIEWS.index(action.video[-1]) + 1 for action in kept], np.int64),
        setups=np.full(len(kept), -1, np.int64),
        names=tuple(action.name for action in kept),
        class_names=tuple(ACTIONS[action - 1] for action in actions),
        splits={name: Split(_among(kept, train), {"all": _among(kept, test)}) for name, (train, test) in sides.items()},
        dropped={action.name: "shows nobody" for action in empty},
    )


def _clips(
    pairs: Iterable[Files],
    videos: Iterable[Shown],
    found: list[tuple[Action, bool]],
    remarks: dict[tuple[Path, str], None],
) -> Iterator[tuple[str, FloatArray]]:
    """The clips of all videos that show a body, each after the place it was read from.

    `found` gets all actions, and whether they show a body; `remarks` gets those on the skeleton files, in order.
    """
    for (_, skeleton_path), video in zip(pairs, videos, strict=True):
        for (facts, said), frames in video:
            action = Action(*facts)
            remarks |= {(skeleton_path, remark): None for remark in said}
            found.append((action, len(frames) > 0))
            if len(frames) > 0:
                yield f"{skeleton_path}, frames {action.start} to {action.end}", frames


def _read_video(paths: Files) -> Shown:
    """The actions in a video's label file and skeleton file: float32 [T, 50, 3], T 0 without a body.

    Each comes after the fields of `Action` and the remarks on the skeleton file. Frames of no action are read as well,
    because actions refer to frames by number.
    """
    label_path, skeleton_path = paths
    actions = read_labels(label_path)
    lines = _frames(skeleton_path)
    late = next((action for action in actions if action.end > len(lines)), None)
    if late:
        problem = f"the action ends at frame {late.end}, but {skeleton_path} has {len(lines)}"
        raise line_error(label_path, late.line, problem, "one of them is cut short; restore it")
    total = sum(action.end - action.start for action in actions)
    if total > OVERLAP * len(lines):
        raise CrrlError(
            f"{label_path}: its {len(actions)} actions have {total} frames together, {skeleton_path} only "
            f"{len(lines)}: actions follow each other; restore one of them"
        )
    bodies = numbers(skeleton_path, lines, 3 * BODIES * NUM_JOINTS).reshape(-1, BODIES, NUM_JOINTS, 3)
    shown = [bodies[action.start : action.end] for action in actions]
    return [
        ([[*action], remarks_on(lines)], join_bodies(some if some.any() else some[:0]))
        for action, some in zip(actions, shown, strict=True)
    ]


def read_labels(path: Path) -> list[Action]:
    """The actions of a label file, in order.

    Raises:
        CrrlError: a line is not action,start,end,confidence, the action is not 1 to 51, or it has no frame.
    """
    actions = []
    for line in read_lines(path, "a label file"):
        match = _LABEL.fullmatch(line.text)
        if not match or not 1 <= int(match[1]) <= len(ACTIONS):
            raise line_error(path, line, f"{line.text[:60]!r} is not action (1 to {len(ACTIONS)}),start,end,confidence")
        action = Action(path.stem, line.number, *(int(match[place]) for place in (1, 2, 3)))
        if action.start >= action.end:
            times = f"the action starts at frame {action.start} and ends before frame {action.end}, so that it has none"
            raise line_error(path, line, times, "restore or remove the line")
        actions.append(action)
    return actions


def _frames(path: Path) -> list[Line]:
    lines = read_lines(path, "a skeleton file of PKU-MMD")
    gap = next((place for place, line in enumerate(lines, 1) if line.number != place), None)
    if gap is not None:
        raise line_error(path, gap, "a blank line, where a frame should be")
    return lines


def _among(actions: list[Action], videos: set[str]) -> IntArray:
    """The indices of the actions in some videos, int64 [N]."""
    return np.flatnonzero([action.video in videos for action in actions])


def _split_name(path: Path) -> str | None:
    return next((name for name, pattern in _SPLITS.items() if pattern.fullmatch(path.name.lower())), None)


def _is(path: Path, kind: str, root: Path) -> bool:
    """Whether this is a file of the kind "label" or "skeleton" by its ending or its folder."""
    folders = path.relative_to(root).parts[:-1]
    ending = path.suffix.lower()
    return ending == f".{kind}" or (ending == ".txt" and any(kind in part.lower() for part in folders))
