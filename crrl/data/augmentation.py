"""Augmentations of coordinates (Section IV-D2): Gaussian noise, shear (Eq. 9), rotation (Eqs. 10-13); random turns.

Each takes x [B, T, J·3] and gives the same shape, drawn anew for every clip on x's device, without reading from it;
`replay` and `another_take` alone change lengths. What is exactly zero stays zero: absent joints
and bodies, and padded frames.
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
"""Of N(0, 0.05), whose second figure is read as in the public code of the paper's [51]; as a variance it gave 0.22."""
MAX_ANGLE = math.pi / 4
"""Largest rotation about each axis, radians."""

WIDER = 3.0
"""How much farther clips are turned than they face apart."""
MOST_YAW = 90.0
"""And how far at most, degrees."""
PROCRUSTES_ROUNDS = 10
"""How often the mean pose is made anew, by which the facing of clips is measured."""

TAKE_TILT = 10.0
"""How another take is tilted: a standard deviation in degrees, as of `RandomTurn`."""
TAKE_STRETCH = 0.1
"""And how it is stretched."""
TAKE_KEPT = 0.7
"""Smallest part of the frames that is kept."""
TAKE_PACE = 0.2
"""Standard deviation of the logarithm of how much longer it lasts."""


def noise(x: Tensor) -> Tensor:
    """Independent N(0, 0.05) on every coordinate of the joints that are there."""
    joints = x.reshape(*x.shape[:2], -1, 3)
    present = (joints != 0).any(3, keepdim=True)
    return torch.where(present, joints + NOISE_STD * torch.randn_like(joints), 0).flatten(2)


def shear(x: Tensor) -> Tensor:
    """The clip's points p as S p, one S for all its frames."""
    return _transformed(x, shear_matrix(2 * torch.rand(len(x), 6, dtype=x.dtype, device=x.device) - 1))


def rotation(x: Tensor) -> Tensor:
    """The clip's points p as R p, one R for all its frames."""
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
    """Matrices [B, 3, 3] multiplied in their own precision, under autocast too."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def _transformed(x: Tensor, matrices: Tensor) -> Tensor:
    """Each point of x [B, T, J·3] by its clip's matrix [B, 3, 3], in their own precision, under autocast too."""
    return (x.reshape(*x.shape[:2], -1, 1, 3) * matrices[:, None, None]).sum(4).flatten(2)


@dataclass(frozen=True)
class RandomTurn:
    """Stretches and turns each clip of a batch, by factors and angles of its own; all 0: leaves them as they are.

    The view transform goes by one frame, which every camera measures differently: this makes up for it.

    Attributes:
        yaw: standard deviation of the angle about the vertical axis Y, degrees.
        tilt: standard deviation of the angles about Z and then X, degrees.
        stretch: standard deviation of the logarithm of what each axis is stretched by, before the turns.
    """

    yaw: float = 0.0
    tilt: float = 0.0
    stretch: float = 0.0

    def __bool__(self) -> bool:
        return self.yaw > 0 or self.tilt > 0 or self.stretch > 0

    def __call__(self, clips: Tensor) -> Tensor:
        """clips [B, T, J·3], coordinates or velocities, each stretched and turned as a whole."""
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
    """Coordinates a, b [B, T, J] of clips, each turned in their plane by an angle of its own."""
    angle = math.radians(deviation) * torch.randn(len(a), 1, 1, device=a.device)
    cos, sin = angle.cos(), angle.sin()
    return cos * a - sin * b, sin * a + cos * b


def replay(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Clips, each cut to a piece that is played at another pace, between its frames by linear interpolation.

    Args:
        lengths: int64 [B], valid frames, at least 1.

    Returns:
        [B, T, J·3], 0 at padded frames, and their int64 [B]: what would be longer than T frames is played faster.
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
    """`replay` of a batch's clips, and where it has velocities those (Eq. 2) of what is played."""
    x, lengths = replay(batch.x, batch.lengths)
    return Batch(x, None if batch.v is None else velocity(x, lengths), lengths, batch.index)


def take_turn(yaw: float) -> RandomTurn:
    """How another take is turned and stretched; yaw: standard deviation of the angle about the vertical, degrees."""
    return RandomTurn(yaw, TAKE_TILT, TAKE_STRETCH)


def another_take(x: Tensor, lengths: Tensor, yaw: float) -> tuple[Tensor, Tensor]:
    """Clips as another camera, body, cut and pace might have given them: `take_turn`, then `replay`."""
    return replay(take_turn(yaw)(x), lengths)


def choose_yaw(setting: float | Literal["auto"], tensors: ClipTensors, train: IntArray) -> float:
    """The standard deviation, degrees, by which clips are turned about the vertical: the setting, or as they face.

    A camera that nobody has trained with may see people from farther aside than all of the training clips show, and
    turns cost what is told apart by its direction alone: hence WIDER times as far as the training clips face apart.

    Args:
        setting: degrees, or auto. train: int64 [N], the training clips.
    """
    if setting != "auto":
        return setting
    first = tensors.frames[tensors.offsets[torch.from_numpy(train).to(tensors.offsets.device)]]
    return min(WIDER * facing_deviation(first.view(len(first), -1, 3)), MOST_YAW)


def facing_deviation(poses: Tensor) -> float:
    """How far clips face apart: the standard deviation, degrees, of the angles about Y that bring poses together.

    Each pose is turned onto the mean of all, and the mean made anew from the turned poses, until it stands still
    (Procrustes analysis in the horizontal plane). Joints that are exactly zero are absent and do not count.

    Args:
        poses: [N, J, 3], one of each clip, such as its first frame; at least 1.
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
