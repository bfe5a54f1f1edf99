"""Preprocessing (Section IV-B): downsampling, view transform and normalisation, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crrl.data.clips import BoolArray, FloatArray, IntArray
from crrl.errors import CrrlError

CHUNK_FRAMES = 1 << 17
MOST_FRAMES = 1 << 31

FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing steps, applied to every clip."""

    max_frames: int = 60
    """Longest clip, in frames: longer ones keep this many, evenly spaced over the whole clip (the paper: NTU 60, CMU
    100, NW-UCLA 50)."""
    view_joints: tuple[int, int, int, int] | None = None
    """View transform from the first frame that has these joints: spine base, spine, left shoulder, right shoulder
    (joint numbers). X along right to left shoulder, Y from spine base to spine, Z = X × Y, origin at the spine base.
    None: no transform."""
    normalization: Literal["clip-axis", "clip"] = "clip-axis"
    """To [-1, 1] by the minimum and maximum of each clip and axis (clip-axis), or by one scale for a clip (clip)."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_frames <= MOST_FRAMES:
            raise CrrlError(f"max_frames is {self.max_frames}: it must be from 1 to {MOST_FRAMES}")
        if self.view_joints is not None and len(set(self.view_joints)) != 4:
            raise CrrlError(f"view_joints are {self.view_joints}: four different joints are needed")


@dataclass(frozen=True)
class Preprocessor:
    """The preprocessing steps for one data set.

    Attributes:
        steps: what to do.
        num_joints: J, the only joint count accepted.
    """

    steps: Preprocessing
    num_joints: int

    def __post_init__(self) -> None:
        if self.num_joints < 1:
            raise CrrlError(f"num_joints is {self.num_joints}: at least 1 is needed")
        if (view := self.steps.view_joints) and not 0 <= min(view) <= max(view) < self.num_joints:
            raise CrrlError(f"view_joints {view} do not fit skeletons of {self.num_joints} joints")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def apply(self, frames: FloatArray, offsets: IntArray) -> tuple[FloatArray, IntArray]:
        """Preprocess clips, frames float32 [ΣT, J, 3] and offsets int64 [N + 1]; returns the same forms.

        Joints that are exactly (0, 0, 0) are absent: they stay zero, and ranges leave them out.

        Raises:
            CrrlError: the clips have another number of joints.
        """
        if frames.shape[1] != self.num_joints:
            raise CrrlError(
                f"these clips have {frames.shape[1]} joints, but the encoder was trained on {self.num_joints}"
            )
        return np.concatenate(list(self.pieces(frames, offsets))), self.offsets(offsets)

    def offsets(self, offsets: IntArray) -> IntArray:
        """The offsets, int64 [N + 1], that clips at `offsets` have after preprocessing."""
        return _kept_offsets(offsets, self.steps.max_frames)

    def pieces(self, frames: FloatArray, offsets: IntArray) -> Iterator[FloatArray]:
        """The preprocessed frames of `apply` in pieces of whole clips, so that they are never all in memory."""
        for raw, at in _chunks(frames, offsets):
            piece, kept = downsample(raw, at, self.steps.max_frames)
            absent = absent_joints(piece)  # before the view transform, which moves the spine base to (0, 0, 0)
            if self.steps.view_joints is not None:
                piece = view_transform(piece, kept, self.steps.view_joints)
            yield _normalise(piece, kept, absent, isotropic=self.steps.normalization == "clip")


def _chunks(frames: FloatArray, offsets: IntArray) -> Iterator[tuple[FloatArray, IntArray]]:
    """Groups of whole clips with about CHUNK_FRAMES frames: intermediate results take several times their memory."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + CHUNK_FRAMES, side="right")) - 1
        last = max(last, first + 1)
        yield frames[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first]
        first = last


def absent_joints(frames: FloatArray) -> BoolArray:
    """bool [F, J]: joints that are exactly (0, 0, 0), the mark of a missing joint or body."""
    return np.logical_not(frames.any(axis=2))


def clip_of_frame(offsets: IntArray) -> IntArray:
    """int64 [ΣT]: the clip each frame belongs to."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def downsample(frames: FloatArray, offsets: IntArray, max_frames: int) -> tuple[FloatArray, IntArray]:
    """Keep at most `max_frames` frames of each clip, evenly spaced from its first to its last."""
    new_offsets = _kept_offsets(offsets, max_frames)
    lengths, kept = np.diff(offsets), np.diff(new_offsets)
    clip = clip_of_frame(new_offsets)
    t = np.arange(new_offsets[-1]) - new_offsets[clip]
    gaps = np.maximum(kept[clip] - 1, 1)
    source = (2 * t * (lengths[clip] - 1) + gaps) // (2 * gaps)
    return frames[offsets[clip] + source], new_offsets


def _kept_offsets(offsets: IntArray, max_frames: int) -> IntArray:
    """The offsets, int64 [N + 1], of clips that keep at most `max_frames` frames each."""
    return np.concatenate([[0], np.cumsum(np.minimum(np.diff(offsets), max_frames))])


def view_transform(frames: FloatArray, offsets: IntArray, joints: tuple[int, int, int, int]) -> FloatArray:
    """Turn each clip into the body's axes in its first usable frame (Section IV-B); see Preprocessing.view_joints.

    X follows the shoulders exactly, and Y is made perpendicular to it. A clip without a usable frame is unchanged.
    """
    axes, usable = _body_axes(frames, joints)
    first = np.minimum.reduceat(np.where(usable, np.arange(len(frames)), len(frames)), offsets[:-1])
    found = first < len(frames)
    rotation = np.broadcast_to(np.eye(3), (len(first), 3, 3)).copy()
    origin = np.zeros((len(first), 1, 3))
    rotation[found] = axes[first[found]]
    origin[found] = frames[first[found], joints[0]][:, None]
    clip = clip_of_frame(offsets)
    turned = np.einsum("fjc,fkc->fjk", frames - origin[clip], rotation[clip])
    return np.where(absent_joints(frames)[:, :, None], 0, turned).astype(np.float32)


def _body_axes(frames: FloatArray, joints: tuple[int, int, int, int]) -> tuple[FloatMatrix, BoolArray]:
    base, spine, left, right = (frames[:, joint].astype(np.float64) for joint in joints)
    x, up = left - right, spine - base
    z = np.cross(x, up)
    x_norm, z_norm = (np.linalg.norm(axis, axis=1, keepdims=True) for axis in (x, z))
    present = ~absent_joints(frames[:, list(joints)]).any(axis=1)
    usable = present & (z_norm[:, 0] > 1e-6 * x_norm[:, 0]) & (x_norm[:, 0] > 1e-6)
    x, z = x / np.where(x_norm > 0, x_norm, 1), z / np.where(z_norm > 0, z_norm, 1)
    return np.stack([x, np.cross(z, x), z], axis=1), usable


def _normalise(frames: FloatArray, offsets: IntArray, absent: BoolArray, isotropic: bool) -> FloatArray:
    low = np.where(absent[:, :, None], np.inf, frames).min(axis=1).astype(np.float64)
    high = np.where(absent[:, :, None], -np.inf, frames).max(axis=1).astype(np.float64)
    low, high = np.minimum.reduceat(low, offsets[:-1]), np.maximum.reduceat(high, offsets[:-1])
    low, high = np.where(low > high, 0, (low, high))  # a clip without present joints
    centre, half = (low + high) / 2, (high - low) / 2
    if isotropic:
        half = np.broadcast_to(half.max(axis=1, keepdims=True), half.shape)
    half = np.where(half > 0, half, 1)
    clip = clip_of_frame(offsets)
    scaled = (frames - centre[clip][:, None]) / half[clip][:, None]
    return np.where(absent[:, :, None], 0, scaled).astype(np.float32)
