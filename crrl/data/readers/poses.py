"""Shared by the readers of pose estimators' files: follow people over frames, fill missing joints, turn the axes.

An estimator gives, for each frame alone, the joints of people and a score of each joint. They become one or two bodies:

- A joint is missing if its score is below LOWEST_SCORE, or if it lies at the origin, where estimators put joints that
  they did not see. Its coordinates are ignored.
- People are followed from frame to frame by the nearest pose (`_follow`). A person who is lost for more than
  LONGEST_GAP frames counts as a new one, and may take the same place (`_places`). The place that is filled longest is
  the first body; the second is kept if it is filled at least half as long.
- A joint that is missing for at most LONGEST_GAP frames between two sightings is interpolated linearly. Otherwise, and
  before its first and after its last sighting, it is absent (zeros).
- Images have y pointing down; here it points up: (x, y, z) becomes (x, -y, -z), a half turn about x. 2D joints have
  z = 0; a score is never used as a coordinate.
- Frames after the last that shows a person are left out. All others are kept, so that times stay right.

There is no view transform for these skeletons (`Presets.view_joints` is None). COCO and MediaPipe lack the spine that
it needs. BODY_25 has all four joints (8 1 5 2), but in an image the transform would only turn the plane, remove how a
body leans, and mirror a person who is seen from behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl.data.chunks import Files, Shown, read_in_order
from crrl.data.clips import BoolArray, Clips, FloatArray
from crrl.data.readers import folder, text
from crrl.data.readers.arrays import RATIO, UNPACKED, described, join_bodies
from crrl.errors import CrrlError
from crrl.files import shown

Matrix = npt.NDArray[np.float64]

LOWEST_SCORE = 0.3
"""Joints with a lower score are missing. MMPose and rtmlib do not draw them; OpenPose and MediaPipe score alike."""
LONGEST_GAP = 30
"""Frames over which a joint is interpolated and a lost person is found again: about a second of video."""
NEAR = 0.5
"""Largest mean distance of a person's joints from where they were last seen, as a share of the body's size."""
MOST_PEOPLE = 10
"""People followed in a frame: those with the highest scores."""
SHORT, SECOND = 0.1, 0.5
"""A person seen for less than SHORT of the longest time is ignored; a second body is kept from SECOND of it on."""
BODIES = 2
AGAIN = "restore the file, or estimate the poses again"


@dataclass(frozen=True)
class Frame:
    """What an estimator saw in one frame.

    Attributes:
        points: float64 [N, J, 4], x, y, z and score of each joint of N people, in the file's axes.
        places: float64 [N, J, 3], the positions by which people are followed; None: those in `points`.
    """

    points: Matrix
    places: Matrix | None = None

    def seen(self) -> BoolArray:
        """Which joints are not missing, bool [N, J]."""
        return np.logical_and(self.points[..., 3] >= LOWEST_SCORE, self.points[..., :3].any(axis=2))


@dataclass
class _Track:
    """One person, followed over frames.

    Attributes:
        last: the last known place of each joint, [J, 3]. known: the joints seen so far, bool [J].
        sightings: the frames, rising, and this person's number in each.
    """

    last: Matrix
    known: BoolArray
    sightings: list[tuple[int, int]] = field(default_factory=list)

    def add(self, frame: int, person: int, places: Matrix, seen: BoolArray) -> None:
        self.sightings.append((frame, person))
        self.last[seen] = places[seen]
        self.known |= seen

    @property
    def span(self) -> tuple[int, int]:
        """Its first frame, and the one after its last."""
        return self.sightings[0][0], self.sightings[-1][0] + 1


def frame_in_image(people: Sequence[Matrix], joints: int) -> Frame:
    """A frame from x, y and score of the joints of each person, [joints, 3] or flat; z is 0."""
    points = np.zeros((len(people), joints, 4))
    points[..., [0, 1, 3]] = np.reshape(people, (len(people), joints, 3))
    return Frame(points)


def clip_of(frames: Sequence[Frame], bodies: int | None = None) -> FloatArray:
    """The clip of some frames, float32 [T, bodies·J, 3]; T is 0 if they show nobody.

    Args:
        frames: at least one, all with the same joints. bodies: how many to put side by side; None: 1 or 2, as found.
    """
    joints = frames[0].points.shape[1]
    places = _places(_follow(frames))
    count = bodies or max(1, len(places))
    length = max((track.span[1] for tracks in places[:count] for track in tracks), default=0)
    points, present = np.zeros((length, count, joints, 3)), np.zeros((length, count, joints), bool)
    for body, tracks in enumerate(places[:count]):
        for track in tracks:
            first, end = track.span
            points[first:end, body], present[first:end, body] = _filled(frames, track)
    return join_bodies(points * (1, -1, -1) + 0.0, present)  # + 0.0: no zero has a sign


def _follow(frames: Iterable[Frame]) -> list[_Track]:
    """Everybody who is seen in any frame, in the order of first sightings."""
    tracks: list[_Track] = []
    live: list[_Track] = []
    for number, frame in enumerate(frames):
        live = [track for track in live if number - track.sightings[-1][0] <= LONGEST_GAP + 1]
        places = frame.points[..., :3] if frame.places is None else frame.places
        seen = frame.seen()
        people = _surest(frame.points[..., 3], seen)
        matched = _match(live, places[people], seen[people])
        for each, person in enumerate(people.tolist()):
            if each not in matched:
                matched[each] = len(live)
                live.append(_Track(np.zeros(places.shape[1:]), np.zeros(places.shape[1], bool)))
                tracks.append(live[-1])
            live[matched[each]].add(number, person, places[person], seen[person])
    return tracks


def _surest(scores: Matrix, seen: BoolArray) -> npt.NDArray[np.int64]:
    """The people with a visible joint, at most the MOST_PEOPLE with the highest scores, in the file's order."""
    sure = np.where(seen, scores, 0).sum(axis=1)
    return np.sort(np.argsort(-sure, kind="stable")[: min(MOST_PEOPLE, int((sure > 0).sum()))])


def _match(live: list[_Track], places: Matrix, seen: BoolArray) -> dict[int, int]:
    """Match N people, [N, J, 3] and bool [N, J], to tracks, nearest first, each once: {person: track}."""
    if not live or not len(places):
        return {}
    last, known = np.stack([track.last for track in live])[:, None], np.stack([track.known for track in live])[:, None]
    both = known & seen
    distance = np.where(both, np.linalg.norm(places - last, axis=3), 0).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    size = np.maximum(_size(last, known), _size(places, seen))
    cost = np.where(both.any(axis=2) & (distance <= NEAR * size), distance, np.inf)
    matched: dict[int, int] = {}
    for place in np.argsort(cost, axis=None, kind="stable")[: int(np.isfinite(cost).sum())].tolist():
        track, person = divmod(place, len(places))
        if person not in matched and track not in matched.values():
            matched[person] = track
    return matched


def _size(points: Matrix, seen: BoolArray) -> Matrix:
    """The diagonals of the bounding boxes of the visible joints among [..., J, 3]."""
    each = seen[..., None]
    sides = np.where(each, points, -np.inf).max(axis=-2) - np.where(each, points, np.inf).min(axis=-2)
    return np.asarray(np.linalg.norm(np.where(seen.any(axis=-1, keepdims=True), sides, 0), axis=-1))


def _places(tracks: Sequence[_Track]) -> list[list[_Track]]:
    """The people who make up each of at most BODIES bodies, never two at a time; the body seen longest comes first."""

    def sightings(of: Sequence[_Track]) -> int:
        return sum(len(track.sightings) for track in of)

    longest = sorted(tracks, key=lambda track: -len(track.sightings))
    places: list[list[_Track]] = [[] for _ in range(BODIES)]
    taken = np.zeros((BODIES, max((track.span[1] for track in tracks), default=0)), bool)
    for track in longest:
        first, end = track.span
        free = np.flatnonzero(~taken[:, first:end].any(axis=1))
        if len(free) and len(track.sightings) >= SHORT * len(longest[0].sightings):
            places[free[0]].append(track)
            taken[free[0], first:end] = True
    places.sort(key=sightings, reverse=True)
    return [place for place in places if place and sightings(place) >= SECOND * sightings(places[0])]


def _filled(frames: Sequence[Frame], track: _Track) -> tuple[Matrix, BoolArray]:
    """A person's joints from first to last sighting, [T, J, 3], and which are seen or interpolated, bool [T, J]."""
    first, end = track.span
    times = np.array([frame for frame, _ in track.sightings]) - first
    given = np.stack([frames[frame].points[person, :, :3] for frame, person in track.sightings])
    seen = np.stack([frames[frame].seen()[person] for frame, person in track.sightings])
    points, present = np.zeros((end - first, *given.shape[1:])), np.zeros((end - first, given.shape[1]), bool)
    every = np.arange(end - first)
    for joint in np.flatnonzero(seen.any(axis=0)):
        at, values = times[seen[:, joint]], given[seen[:, joint], joint]
        after = np.searchsorted(at, every)
        before = np.searchsorted(at, every, side="right") - 1
        inside = (before >= 0) & (after < len(at))
        gap = at[np.minimum(after, len(at) - 1)] - at[before]
        present[:, joint] = inside & (gap <= LONGEST_GAP + 1)
        filled = np.stack([np.interp(every, at, values[:, axis]) for axis in range(3)], axis=1)
        points[:, joint] = np.where(present[:, joint, None], filled, 0)
    return points, present


def clip_in(path: Path, frames: Sequence[Frame], size: int, bodies: int | None = None) -> FloatArray:
    """`clip_of` the frames of a file or folder of `size` bytes.

    Raises:
        CrrlError: no frame shows a person, or the clip is far larger than its file.
    """
    if not any(frame.seen().any() for frame in frames):
        raise CrrlError(
            f"no person in {path}: none of its {len(frames)} frames shows a joint with a score of {LOWEST_SCORE} or "
            f"more; remove it, or estimate its poses again"
        )
    check_length(path, len(frames), frames[0].points.shape[1], size)
    return clip_of(frames, bodies)


def warn_of_parts(frames: FloatArray) -> None:
    """Warn if keypoints [F, J, 3], which should be in pixels, are shares of an image's width and height."""
    if len(frames) and np.abs(frames).max() <= 1:
        warnings.warn(
            "keypoints are parts of the image's width and height, at most 1, not pixels: unless it is square, shapes "
            "are stretched and unlike those in pixels",
            stacklevel=3,
        )


def at_their_times(path: Path, seen: Mapping[int, Frame], size: int, step: int = 1) -> list[Frame]:
    """Frames by number, every `step`th from the first to the last; one that is missing shows nobody."""
    first, last = min(seen), max(seen)
    nobody = Frame(seen[first].points[:0])
    check_length(path, (last - first) // step + 1, nobody.points.shape[1], size)
    return [seen.get(number, nobody) for number in range(first, last + 1, step)]


def check_length(path: Path, frames: int, joints: int, size: int) -> None:
    """Raise if a clip of so many frames is far larger than its file of `size` bytes: almost no frame shows a body."""
    needed = frames * BODIES * joints * 3 * 4
    if needed > max(UNPACKED, RATIO * size):
        raise CrrlError(
            f"{path} has {frames:,} frames from the first to the last, of which almost none shows anybody: are they "
            f"of one video? Cut it, and give each part a file of its own"
        )


def load(
    files: list[Path], read: Callable[..., FloatArray], what: str, clips: Mapping[Path, Files] | None = None
) -> Clips:
    """The clips of the files that a reader's `find_files` found, with classes and splits as `folder` has them.

    Two bodies lie side by side, [ΣT, 2·J, 3], if any clip shows two; else the clips are [ΣT, J, 3].

    Args:
        read: `read(*files, bodies=BODIES)` gives a clip, float32 [T, BODIES·J, 3]. what: the name of the progress bar.
        clips: the files of each clip, by the path that stands for it; None: each file is a clip.
    """
    labels, paths = folder.apart(files)
    items = clips or {path: (path,) for path in paths}
    with closing(read_in_order(partial(_read, read), list(items.values()), what)) as each:
        found = folder.load([*labels, *items], (frames for [(_, frames)] in each))
    joints = found.num_joints // BODIES
    if found.frames[:, joints:].any():
        return found
    return replace(found, frames=np.ascontiguousarray(found.frames[:, :joints]))


def _read(read: Callable[..., FloatArray], files: Files) -> Shown:
    return [(None, read(*files, bodies=BODIES))]


def table(value: object, rows: int, columns: int, where: str) -> Matrix:
    """A list of `rows` lists of `columns` finite numbers, float64 [rows, columns]; else a CrrlError names `where`."""
    if not isinstance(value, list) or len(value) != rows or any(_length(row) != columns for row in value):
        raise not_as_expected(where, f"{rows} joints of {columns} numbers", value)
    return row_of([each for row in value for each in row], rows * columns, where).reshape(rows, columns)


def row_of(value: object, count: int, where: str) -> Matrix:
    """A list of `count` finite numbers, float64 [count]; else a CrrlError names `where`."""
    if not isinstance(value, list) or len(value) != count:
        raise not_as_expected(where, f"{count} numbers", value)
    for each in value:
        if type(each) not in (int, float) or not abs(each) <= text.LARGEST:
            raise CrrlError(f"{where}: {_form(each)} is not a finite number: {AGAIN}")
    return np.array(value, np.float64)


def fields(value: object, where: str, expected: str) -> dict[str, Any]:
    """A JSON object; else a CrrlError names `where` and what is `expected`."""
    if not isinstance(value, dict):
        raise not_as_expected(where, expected, value)
    return value


def items(value: object, where: str, expected: str) -> list[Any]:
    """A JSON list; else a CrrlError names `where` and what is `expected`."""
    if not isinstance(value, list):
        raise not_as_expected(where, expected, value)
    return value


def not_as_expected(where: str, expected: str, value: object) -> CrrlError:
    """The error that `value` was found where something else is `expected`; the caller raises it."""
    return CrrlError(f"{where}: expected {expected}, found {_form(value)}: {AGAIN}")


def _form(value: object) -> str:
    """A JSON value in words, with its lengths."""
    if isinstance(value, dict):
        return f"an object of {', '.join(shown(key) for key in list(value)[:5]) or 'nothing'}"
    if not isinstance(value, list):
        return described(value)
    inner = {_length(each) for each in value}
    return f"a list of {len(value)}" + (f", each of {inner.pop()}" if len(inner) == 1 and inner != {-1} else "")


def _length(value: object) -> int:
    """The length of a list; -1 for anything else."""
    return len(value) if isinstance(value, list) else -1
