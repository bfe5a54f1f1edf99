"""NTU RGB+D 60 and 120: names, labels and splits of their .skeleton files, and the bodies that make a clip.

A file is called SsssCcccPpppRrrrAaaa.skeleton: setup, camera, performer (subject), replication, action. A clip has two
bodies, the one that moves most first, as the owners of the data set propose. Bodies that are noise of the sensor are
left out as in the preparation published with SGN and CTR-GCN. Unlike there, a body stays in the frames that show it:
one that is lost and found again is absent in between.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crrl.data.clips import Clips, FloatArray, IntArray, Split
from crrl.data.naming import by_stem, files_below
from crrl.data.readers.skeleton import NUM_JOINTS, Body, parse
from crrl.data.readers.text import line_error, read_lines
from crrl.errors import CrrlError
from crrl.files import kind_of

SHORT_FRAMES = 11
"""A body with at most this many frames is noise, if there is a longer one."""
WIDE, WIDE_SHARE = 0.8, 0.69754
"""A body that is wider than 0.8 of its height in this share of its frames is noise, if there is another."""

_ACTIONS = """
    drink water; eat meal; brush teeth; brush hair; drop; pick up; throw; sit down; stand up; clap; read; write;
    tear up paper; put on jacket; take off jacket; put on a shoe; take off a shoe; put on glasses; take off glasses;
    put on a hat; take off a hat; cheer up; wave a hand; kick something; reach into pocket; hop on one foot; jump
    up; phone call; play with phone; type on a keyboard; point to something; take a selfie; check time; rub hands;
    nod; shake head; wipe face; salute; put palms together; cross hands in front; sneeze; stagger; fall; touch head;
    touch chest; touch back; touch neck; vomit; fan self; punch person; kick person; push person; pat back of
    person; point at person; hug person; give to person; touch pocket of person; shake hands; walk towards each
    other; walk apart; put on headphone; take off headphone; shoot at the basket; bounce ball; swing tennis bat;
    juggle table tennis balls; hush; flick hair; thumb up; thumb down; ok sign; victory sign; staple book; count
    money; cut nails; cut paper; snap fingers; open bottle; sniff; squat down; toss a coin; fold paper; ball up
    paper; play magic cube; cream on face; cream on hand; put on bag; take off bag; put into a bag; take out of a
    bag; open a box; move heavy objects; shake fist; throw up hat; hands up; cross arms; circle arms; swing arms;
    run on the spot; kick backward; cross toe touch; side kick; yawn; stretch; blow nose; hit person with something;
    wield knife at person; knock over person; grab stuff of person; shoot at person; step on foot; high-five; cheers
    and drink; carry together; take photo of person; follow person; whisper to person; exchange things; support
    somebody; rock paper scissors
"""
ACTIONS = tuple(" ".join(action.split()) for action in _ACTIONS.split(";"))
"""The classes A001 to A120 in short."""

_TRAIN_60 = {1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38}
_TRAIN_120 = {45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103}

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_IN = re.compile(_NAME.pattern.replace("(", "").replace(")", ""), re.ASCII)
"""A clip's name anywhere in a text: a folder's name may hold another clip's if a line break was lost."""
_NEAR = re.compile(r"\bS\d|S\d+C|C\d+P|P\d+R|R\d+A", re.ASCII | re.IGNORECASE)
"""Words that are, or contain a part of, a clip's name."""
_MOST = (32, 3, 106, 2, 120)
"""The largest setup, camera, subject, replication and action of any edition."""


@dataclass(frozen=True)
class Edition:
    """NTU RGB+D 60 or 120.

    Attributes:
        name: its official name. setups, subjects, actions: how many it has. train_subjects: those of cross-subject.
        official: clips on each side of each split, without the official list of missing skeletons.
    """

    name: str
    setups: int
    subjects: int
    actions: int
    train_subjects: frozenset[int]
    official: dict[str, dict[str, int]]

    def find_files(self, root: Path) -> list[Path]:
        """The .skeleton files of this edition below `root`, sorted by name; NTU RGB+D 60 skips those only 120 has.

        Raises:
            CrrlError: there are none, one has an impossible name, or two have the same name.
        """
        found = by_stem(filter(self._has, files_below(root, ".skeleton")))
        if not found:
            raise CrrlError(f"no .skeleton files of {self.name} in {root}: give the folder they were unpacked into")
        return [found[name] for name in sorted(found)]

    def _has(self, path: Path) -> bool:
        setup, _, subject, _, action = _numbers(path)
        return setup <= self.setups and subject <= self.subjects and action <= self.actions

    def join(self, frames: FloatArray, offsets: IntArray, names: Sequence[str]) -> Clips:
        """Clips from frames float32 [ΣT, 50, 3], offsets int64 [N + 1] and N names, which give all other facts."""
        setups, cameras, subjects, _, actions = np.array([_numbers(Path(name)) for name in names], np.int64).T.copy()
        training = {
            "cross-subject": np.isin(subjects, sorted(self.train_subjects)),
            "cross-view": cameras != 1,
            "cross-setup": setups % 2 == 0,
        }
        return Clips(
            frames=frames,
            offsets=offsets,
            labels=actions - 1,
            subjects=subjects,
            views=cameras,
            setups=setups,
            names=tuple(names),
            class_names=ACTIONS[: self.actions],
            splits={name: Split.of(training[name]) for name in self.official},
        )


NTU60 = Edition(
    "NTU RGB+D 60", 17, 40, 60, frozenset(_TRAIN_60),
    {"cross-subject": {"train": 40_091, "all": 16_487}, "cross-view": {"train": 37_646, "all": 18_932}},
)  # fmt: skip
NTU120 = Edition(
    "NTU RGB+D 120", 32, 106, 120, frozenset(_TRAIN_60 | _TRAIN_120),
    {"cross-subject": {"train": 63_026, "all": 50_919}, "cross-setup": {"train": 54_468, "all": 59_477}},
)  # fmt: skip


def _numbers(path: Path) -> tuple[int, ...]:
    """Setup, camera, subject, replication and action in a file's name."""
    numbers = _numbers_in(path.stem)
    if not numbers:
        raise CrrlError(f"{path} is not named like a clip of NTU RGB+D, SsssCcccPpppRrrrAaaa: rename or remove it")
    return numbers


def _numbers_in(name: str) -> tuple[int, ...]:
    """The five numbers in a clip's name; () if it is no such name."""
    found = _NAME.fullmatch(name)
    numbers = tuple(map(int, found.groups())) if found else ()
    return numbers if all(1 <= number <= most for number, most in zip(numbers, _MOST, strict=False)) else ()


def missing_names(path: Path) -> list[str]:
    """The clips named by a list of missing skeletons, as the owners publish it; prose and numbers are skipped.

    A clip may be named with or without its folder and ending (data/S001C002P005R002A008.skeleton), in any case, in
    quotes, and several on a line, separated by space, commas or semicolons.

    Raises:
        CrrlError: the file cannot be read, names no clip, or has a word that is almost a name.
    """
    names = []
    for line in read_lines(path, "a list of names of clips", "json"):
        for word in filter(_NEAR.search, re.split(r"[\s,;|]+", line.text)):
            *folders, name = re.split(r"[\\/]", word.strip("\"'`()[]{}<>*.").upper())
            name = name.removesuffix(".SKELETON")
            if not _numbers_in(name) or any(other != name for other in _IN.findall("/".join(folders))):
                raise line_error(
                    path, line, f"{word[:40]!r} is not the name of a clip, but similar to one", "restore the list"
                )
            names.append(name)
    if not names:
        raise CrrlError(f"{path} names no clip: --missing takes the owners' lists of samples with missing skeletons")
    return names


def read(content: bytes) -> tuple[FloatArray, Counter[str]]:
    """A .skeleton file's clip, float32 [T, 50, 3] in metres, and how much was left out of it, by reason.

    The first 25 joints are the main body's. An absent body is zeros, and frames without a body are left out; T is 0 if
    there is none.

    Raises:
        ValueError: "line N: what is wrong there".
    """
    if kind := kind_of(content):
        raise ValueError(f"line 1: this is {kind.words}, not a .skeleton file; {kind.remedy}")
    skeleton = parse(content.removeprefix(codecs.BOM_UTF8))
    bodies, left_out = denoise(skeleton.bodies)
    times = np.unique(np.concatenate([np.empty(0, np.int64), *(body.frames for body in bodies)]))
    seen = [replace(body, frames=np.searchsorted(times, body.frames)) for body in bodies]  # numbered without gaps
    clip, unused = arrange(seen, len(times))
    shown = clip.any(axis=(1, 2))
    left_out["frames without a body"] = skeleton.frames - int(shown.sum())
    left_out["bodies beyond two"] = unused
    return clip[shown], +left_out


def denoise(bodies: Sequence[Body]) -> tuple[list[Body], Counter[str]]:
    """The bodies that are not noise, the one that moves most first, and how many were left out, by reason.

    A single body is never noise, and the last one left is kept.
    """
    if len(bodies) < 2:
        return list(bodies), Counter()
    long = [body for body in bodies if len(body.frames) > SHORT_FRAMES] or bodies
    kept: list[tuple[float, Body]] = []
    for place, body in enumerate(long):
        width, height = (np.ptp(body.joints[:, :, axis], axis=1) for axis in (0, 1))
        wide = width > WIDE * height
        if wide.mean() >= WIDE_SHARE and (kept or place < len(long) - 1):
            continue
        calm = body.joints if wide.all() else body.joints[~wide]
        kept.append((min(motion(body.joints), motion(calm)), body))
    kept.sort(key=lambda item: -item[0])
    left_out = Counter({"bodies too short": len(bodies) - len(long), "bodies too wide": len(long) - len(kept)})
    return [body for _, body in kept], left_out


def motion(joints: FloatArray) -> float:
    """The motion energy of a body [T, 25, 3]: the variances of x, y and z over all frames and joints, added."""
    return float(joints.reshape(-1, 3).var(axis=0, dtype=np.float64).sum())


def arrange(bodies: Sequence[Body], frames: int) -> tuple[FloatArray, int]:
    """Two bodies in all frames, float32 [frames, 50, 3], and the number of bodies that found no place.

    The sensor renumbers a person whom it lost. A body therefore goes to the first of the two places that is free during
    its time (an overlap of one frame, which it overwrites, is allowed), and is left out if there is none.
    """
    clip = np.zeros((frames, 2, NUM_JOINTS, 3), np.float32)
    times: list[tuple[int, int] | None] = [None, None]
    unused = 0
    for body in bodies:
        first, last = int(body.frames[0]), int(body.frames[-1])
        for place, time in enumerate(times):
            if time is None or min(time[1], last) - max(time[0], first) <= 0:
                clip[body.frames, place] = body.joints
                times[place] = (first, last) if time is None else (min(time[0], first), max(time[1], last))
                break
        else:
            unused += 1
    return clip.reshape(frames, 2 * NUM_JOINTS, 3), unused
