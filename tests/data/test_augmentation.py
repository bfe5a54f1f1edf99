"""The augmentations against Eqs. 9-13: matrices by hand, ranges, statistics, and what stays zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given
from hypothesis import strategies as st

from crrl.data.augmentation import (
    another_take,
    noise,
    replay,
    rotation,
    rotation_matrix,
    shear,
    shear_matrix,
)

Augment = Callable[[Tensor], Tensor]
ALL = pytest.mark.parametrize("augment", [noise, shear, rotation])
angle = st.floats(-math.pi, math.pi, allow_subnormal=False)


def basis(clips: int, frames: int = 1) -> Tensor:
    """Clips whose three joints are the unit vectors: a matrix's columns are what it makes of them."""
    return torch.eye(3, dtype=torch.float64).flatten().expand(clips, frames, 9)


def matrices(augment: Augment, clips: int, frames: int = 1) -> Tensor:
    """The matrix [B, T, 3, 3] that each frame is transformed by."""
    return augment(basis(clips, frames)).view(clips, frames, 3, 3).transpose(2, 3)


def test_the_shear_matrix_is_eq_9() -> None:
    xy, xz, yx, yz, zx, zy = 0.1, -0.2, 0.3, -0.4, 0.5, -0.6
    expected = torch.tensor([[1, xy, xz], [yx, 1, yz], [zx, zy, 1]])
    torch.testing.assert_close(shear_matrix(torch.tensor([[xy, xz, yx, yz, zx, zy]]))[0], expected)


@given(angle, angle, angle)
def test_the_rotation_matrix_is_eqs_10_to_13(a: float, b: float, c: float) -> None:
    sin, cos = math.sin, math.cos
    r_x = torch.tensor([[1, 0, 0], [0, cos(a), sin(a)], [0, -sin(a), cos(a)]], dtype=torch.float64)
    r_y = torch.tensor([[cos(b), 0, -sin(b)], [0, 1, 0], [sin(b), 0, cos(b)]], dtype=torch.float64)
    r_z = torch.tensor([[cos(c), sin(c), 0], [-sin(c), cos(c), 0], [0, 0, 1]], dtype=torch.float64)
    (r,) = rotation_matrix(torch.tensor([[a, b, c]], dtype=torch.float64))
    torch.testing.assert_close(r, r_x @ r_y @ r_z)
    torch.testing.assert_close(r @ r.t(), torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(r) == pytest.approx(1)


def test_shear_factors_fill_minus_1_to_1() -> None:
    torch.manual_seed(0)
    s = matrices(shear, 4000)[:, 0]
    assert (s.diagonal(dim1=1, dim2=2) == 1).all()
    factors = s[:, ~torch.eye(3, dtype=torch.bool)]
    assert -1 <= factors.min() < -0.99
    assert 0.99 < factors.max() <= 1
    torch.testing.assert_close(factors.mean(0), torch.zeros(6, dtype=torch.float64), atol=0.05, rtol=0)
    torch.testing.assert_close(factors.T.corrcoef(), torch.eye(6, dtype=torch.float64), atol=0.08, rtol=0)


def test_rotation_angles_fill_minus_to_plus_a_quarter_of_pi() -> None:
    torch.manual_seed(0)
    r = matrices(rotation, 4000)[:, 0]
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=torch.float64).expand_as(r))
    # R = R_x R_y R_z has first row (cosβ cosγ, cosβ sinγ, -sinβ) and last column (-sinβ, sinα cosβ, cosα cosβ).
    angles = torch.stack(
        [torch.atan2(r[:, 1, 2], r[:, 2, 2]), -r[:, 0, 2].asin(), torch.atan2(r[:, 0, 1], r[:, 0, 0])], dim=1
    )
    assert (angles.abs() <= math.pi / 4).all()
    assert (angles.abs().amax(0) > 0.99 * math.pi / 4).all()
    torch.testing.assert_close(angles.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.04, rtol=0)


@pytest.mark.parametrize("augment", [shear, rotation])
def test_a_clip_is_transformed_as_a_whole_and_each_clip_otherwise(augment: Augment) -> None:
    found = matrices(augment, 3, frames=5)
    assert (found == found[:, :1]).all()
    assert not torch.allclose(found[0], found[1])


def test_noise_has_mean_0_and_standard_deviation_0_05_on_every_coordinate() -> None:
    torch.manual_seed(0)
    x = torch.rand(20, 30, 12) + 0.1
    added = noise(x) - x
    assert added.mean().item() == pytest.approx(0, abs=3 * 0.05 / math.sqrt(x.numel()))
    assert added.std().item() == pytest.approx(0.05, rel=0.02)
    assert (added != 0).float().mean() > 0.99


@ALL
def test_padding_and_absent_joints_stay_zero_and_the_rest_changes(augment: Augment) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 7, 9) + 0.1
    x[1, 3:], x[:, :, 3:6] = 0, 0
    x[0, 2, 0] = 0  # a coordinate, not a joint
    result = augment(x).view(4, 7, 3, 3)
    present = (x.view(4, 7, 3, 3) != 0).any(3)
    assert (result[~present] == 0).all()
    assert (result[present] != x.view(4, 7, 3, 3)[present]).any(1).all()


@ALL
def test_it_keeps_its_precision_under_autocast_and_looks_at_no_number(augment: Augment) -> None:
    x, results = torch.rand(3, 4, 6), []
    for narrow in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            results.append(augment(x))
    assert torch.equal(*results)
    assert augment(x.to("meta")).shape == x.shape


def test_another_take_is_a_stretched_and_turned_piece_at_another_pace() -> None:
    torch.manual_seed(0)
    clips, frames = 300, 80
    time = torch.arange(frames, dtype=torch.float64)[:, None] * torch.ones(3, dtype=torch.float64)
    x = torch.cat([basis(clips, frames), time.expand(clips, frames, 3)], dim=2)  # a fourth joint tells the time
    lengths = torch.randint(10, frames // 2 + 1, (clips,))
    take, after = another_take(x, lengths, 90)
    assert take.shape == x.shape
    clocks = []
    for clip, length, count in zip(take, lengths.tolist(), after.tolist(), strict=True):
        assert not clip[count:].any()
        matrix = clip[:count, :9].view(count, 3, 3).transpose(1, 2)
        torch.testing.assert_close(matrix, matrix[:1].expand_as(matrix))
        squares = matrix[0].t() @ matrix[0]  # of a turn after a stretch: the squares of the latter on the diagonal
        assert (squares - squares.diagonal().diag()).abs().max() < 1e-6
        clock = torch.linalg.lstsq(matrix[0], clip[:count, 9:].t()).solution.mean(0)
        torch.testing.assert_close(clock.diff(), clock.diff()[:1].expand(count - 1), atol=1e-5, rtol=0)
        assert clock[0] >= -1e-5
        assert clock[-1] <= length - 1 + 1e-5
        kept = round(float(clock[-1] - clock[0])) + 1
        assert kept >= 0.7 * length
        clocks.append((float(clock[0]), kept / length, count / kept, *squares.diagonal().sqrt().log().tolist()))
    starts, kept, pace, *stretches = torch.tensor(clocks).t()
    assert starts.max() > 5
    assert 0.8 < kept.mean() < 0.9
    assert pace.log().std() == pytest.approx(0.2, rel=0.15)
    for stretch in stretches:
        assert stretch.std() == pytest.approx(0.1, rel=0.15)


def test_a_piece_that_would_be_longer_than_the_batch_is_played_faster_and_no_number_is_read() -> None:
    torch.manual_seed(1)
    x = torch.arange(1.0, 11)[None, :, None].repeat(200, 1, 3)
    take, after = replay(x, torch.full((200,), 10))
    assert take.shape == x.shape
    assert after.max() == 10
    assert after.min() < 7
    ends = take[torch.arange(200), after - 1, 0]
    torch.testing.assert_close(ends, ends.round())  # each ends with a frame of the clip
    take, after = replay(x.to("meta"), torch.full((200,), 10, device="meta"))
    assert take.shape == x.shape


def test_another_take_keeps_zeros_single_frames_and_precision() -> None:
    x = torch.rand(5, 6, 9) + 0.1
    x[:, :, 3:6] = 0
    lengths = torch.tensor([6, 1, 3, 2, 1])
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    with torch.autocast("cpu", torch.bfloat16):
        take, after = another_take(x, lengths, 90)
    assert take.dtype == torch.float32
    assert (after[lengths == 1] <= 2).all()
    assert not take[:, :, 3:6].any()
    assert take.isfinite().all()
    for clip, count in zip(take, after, strict=True):
        assert clip[:count, :3].any(1).all()
