"""Augmentations of coordinates (Section IV-D2): Gaussian noise, shear (Eq. 9), rotation (Eqs. 10-13); random turns.

Each maps x [B, T, J·3] to the same shape, with random numbers drawn for every clip on x's device and no transfer to the
CPU; only `replay` and `another_take` change lengths. Exact zeros, which are absent joints and padded frames, stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crrl.data.batches import Batch, ClipTensors, played
from crrl.data.clips import IntArray
from crrl.reference.motion import velocity

NOISE_STD = 0.05
"""N(0, 0.05) gives a standard deviation, as in the public code of the paper's [51]; a variance would make it 0.22."""
MAX_ANGLE = math.pi / 4
"""Largest rotation about each axis, radians."""

WIDER = 3.0
"""Clips are turned by this times the deviation of the directions in which they face."""
MOST_YAW = 90.0
"""Largest standard deviation of these turns, degrees."""
PROCRUSTES_ROUNDS = 10
"""Iterations of the mean pose, from which the facing of clips is measured."""

TAKE_TILT = 10.0
"""Tilt of another take: the standard deviation in degrees, as in `RandomTurn`."""
TAKE_STRETCH = 0.1
"""Stretch of another take, as in `RandomTurn`."""
TAKE_KEPT = 0.7
"""Smallest share of the frames that another take keeps."""
TAKE_PACE = 0.2
"""Standard deviation of the logarithm of its relative duration."""


def noise(x: Tensor) -> Tensor:
    """Independent N(0, 0.05) on every coordinate of the present joints."""
    joints = x.reshape(*x.shape[:2], -1, 3)
    present = (joints != 0).any(3, keepdim=True)
    return torch.where(present, joints + NOISE_STD * torch.randn_like(joints), 0).flatten(2)


def shear(x: Tensor) -> Tensor:
    """S p for each point p, with one shear matrix S for each clip."""
    return _transformed(x, shear_matrix(2 * torch.rand(len(x), 6, dtype=x.dtype, device=x.device) - 1))


def rotation(x: Tensor) -> Tensor:
    """R p for each point p, with one rotation R for each clip."""
    return _transformed(x, rotation_matrix(MAX_ANGLE * (2 * torch.rand(len(x), 3, dtype=x.dtype, device=x.device) - 1)))


def shear_matrix(factors: Tensor) -> Tensor:
    """S of Eq. 9, [B, 3, 3], from s_xy, s_xz, s_yx, s_yz, s_zx, s_zy, [B, 6]."""
    xy, xz, yx, yz, zx, zy = factors.unbind(1)
    one = torch.ones_like(xy)
    return torch.stack([one, xy, xz, yx, one, yz, zx, zy, one], dim=1).view(-1, 3, 3)


def rotation_matrix(angles: Tensor) -> Tensor:
    """R = R_x(α) R_y(β) R_z(γ) of Eqs. 10-13, [B, 3, 3], from α, β, γ in radians, [B, 3]."""
    (ca, cb, cc), (sa, sb, sc) = angles.cos().unbind(1), angles.sin().unbind(1)
    one, nil = torch.ones_like(ca), torch.zeros_like(ca)
    r_x = torch.stack([one, nil, nil, nil, ca, sa, nil, -sa, ca], dim=1).view(-1, 3, 3)
    r_y = torch.stack([cb, nil, -sb, nil, one, nil, sb, nil, cb], dim=1).view(-1, 3, 3)
    r_z = torch.stack([cc, sc, nil, -sc, cc, nil, nil, nil, one], dim=1).view(-1, 3, 3)
    return _product(_product(r_x, r_y), r_z)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices [B, 3, 3] in their own precision, under autocast too."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def _transformed(x: Tensor, matrices: Tensor) -> Tensor:
    """Each point of x [B, T, J·3] times the matrix [B, 3, 3] of its clip, in its own precision, under autocast too."""
    return (x.reshape(*x.shape[:2], -1, 1, 3) * matrices[:, None, None]).sum(4).flatten(2)


@dataclass(frozen=True)
class RandomTurn:
    """Stretches and turns each clip of a batch at random; with all settings 0 it changes nothing.

    The view transform relies on one frame, which each camera measures differently; this makes up for it.

    Attributes:
        yaw: standard deviation of the angle about the vertical axis Y, degrees.
        tilt: standard deviation of the angles about Z and then X, degrees.
        stretch: standard deviation of the logarithm of each axis's scale, applied before the turns.
    """

    yaw: float = 0.0
    tilt: float = 0.0
    stretch: float = 0.0

    def __bool__(self) -> bool:
        return self.yaw > 0 or self.tilt > 0 or self.stretch > 0

    def __call__(self, clips: Tensor) -> Tensor:
        """clips [B, T, J·3], coordinates or velocities; each clip is stretched and turned as a whole."""
        if not self:
            return clips
        joints = clips.reshape(*clips.shape[:2], -1, 3)
        if self.stretch:
            joints = joints * torch.exp(self.stretch * torch.randn(len(clips), 1, 1, 3, device=clips.device))
        x, y, z = joints.unbind(3)
        z, x = _turned(z, x, self.yaw)
        x, y = _turned(x, y, self.tilt)
        y, z = _turned(y, z, self.tilt)
        return torch.stack([x, y, z], dim=3).flatten(2)


def _turned(a: Tensor, b: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Coordinates a, b [B, T, J], turned in their plane by a random angle for each clip."""
    angle = math.radians(deviation) * torch.randn(len(a), 1, 1, device=a.device)
    cos, sin = angle.cos(), angle.sin()
    return cos * a - sin * b, sin * a + cos * b


def replay(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Cut each clip to a random piece and play it at a random pace, linearly interpolated between frames.

    Args:
        lengths: int64 [B], valid frames, at least 1.

    Returns:
        [B, T, J·3], 0 in padded frames, and their lengths, int64 [B], at most T.
    """

    def draw(of: Callable[..., Tensor]) -> Tensor:
        return of(len(x), device=x.device)

    kept = torch.ceil(lengths * (TAKE_KEPT + (1 - TAKE_KEPT) * draw(torch.rand))).long().minimum(lengths)
    start = ((lengths - kept + 1) * draw(torch.rand)).long()
    after = torch.round(kept * torch.exp(TAKE_PACE * draw(torch.randn))).long().clamp(1, x.shape[1])
    frame = torch.arange(x.shape[1], device=x.device)
    position = (frame * ((kept - 1) / (after - 1).clamp(min=1))[:, None]).minimum(kept[:, None] - 1)
    return torch.where((frame < after[:, None])[:, :, None], played(x, start, kept, position), 0), after


def replayed(batch: Batch) -> Batch:
    """`replay` of a batch; if it has velocities, they are computed anew (Eq. 2)."""
    x, lengths = replay(batch.x, batch.lengths)
    return Batch(x, None if batch.v is None else velocity(x, lengths), lengths, batch.index)


def take_turn(yaw: float) -> RandomTurn:
    """The turn and stretch of another take; yaw: standard deviation of the angle about the vertical, degrees."""
    return RandomTurn(yaw, TAKE_TILT, TAKE_STRETCH)


def another_take(x: Tensor, lengths: Tensor, yaw: float) -> tuple[Tensor, Tensor]:
    """Clips as another camera, body, cut and pace might have recorded them: `take_turn`, then `replay`."""
    return replay(take_turn(yaw)(x), lengths)


def choose_yaw(setting: float | Literal["auto"], tensors: ClipTensors, train: IntArray) -> float:
    """The standard deviation, degrees, of turns about the vertical: the setting, or for "auto" from the training clips.

    An unseen camera may view people from angles that no training clip shows, but turns remove the information in
    directions. Hence "auto" turns WIDER times as far as the training clips face apart, at most MOST_YAW.

    Args:
        setting: degrees, or auto. train: int64 [N], the training clips.
    """
    if setting != "auto":
        return setting
    first = tensors.frames[tensors.offsets[torch.from_numpy(train).to(tensors.offsets.device)]]
    return min(WIDER * facing_deviation(first.view(len(first), -1, 3)), MOST_YAW)


def facing_deviation(poses: Tensor) -> float:
    """The standard deviation, degrees, of the angles about Y that align poses with each other.

    Procrustes analysis in the horizontal plane: each pose is turned onto the mean pose, which is then computed anew,
    PROCRUSTES_ROUNDS times. Joints that are exactly zero are absent and do not count.

    Args:
        poses: [N, J, 3], one for each clip, such as its first frame; at least 1.
    """
    present = (poses != 0).any(2)
    centre = poses.sum(1, keepdim=True) / present.sum(1).clamp(min=1)[:, None, None]
    x, _, z = ((poses - centre) * present[:, :, None]).double().unbind(2)
    flat = torch.complex(x, z)
    flat = flat / flat.abs().square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    mean = flat.mean(0)
    for _ in range(PROCRUSTES_ROUNDS):
        turns = torch.sgn((flat.conj() * mean).sum(1))
        mean = (flat * turns[:, None]).mean(0)
    angles = torch.angle(turns * turns.mean().conj())
    return math.degrees(float(angles.std(correction=0)))
