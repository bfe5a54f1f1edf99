"""Random turns: rigid, of the clip as a whole, about the axes and by the angles asked for; what each step reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crrl.data import Batch, Clips, ClipTensors
from crrl.data.augmentation import RandomTurn, replay
from crrl.features import encode, encode_takes
from crrl.methods import CML, METHODS, SER
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.reference.losses import distillation_loss
from crrl.reference.motion import temporal_average, velocity
from crrl.training.phases import Phase, Teacher
from crrl.training.ranks import Ranks


def clips(rows: int = 6) -> Tensor:
    """[rows, 4, 5·3] coordinates, the last frame padding."""
    x = torch.randn(rows, 4, 15, generator=torch.Generator().manual_seed(0))
    x[:, -1] = 0
    return x


def joints(x: Tensor) -> Tensor:
    """[B, T, J, 3]."""
    return x.unflatten(2, (-1, 3))


def test_no_turn_leaves_the_clips_as_they_are() -> None:
    x = clips()
    assert RandomTurn()(x) is x


def test_a_turn_is_rigid_and_the_same_in_all_frames_of_a_clip() -> None:
    torch.manual_seed(1)
    x = clips()
    turned = RandomTurn(yaw=45, tilt=10)(x)
    for before, after in zip(x, turned, strict=True):
        a, b = before.view(-1, 3), after.view(-1, 3)
        torch.testing.assert_close(b @ b.T, a @ a.T)
        rotation = torch.linalg.lstsq(a, b).solution
        torch.testing.assert_close(torch.linalg.det(rotation), torch.tensor(1.0))
    assert not turned[:, -1].any()


def test_each_clip_has_an_angle_of_its_own() -> None:
    torch.manual_seed(2)
    turned = RandomTurn(yaw=30)(clips(1).repeat(3, 1, 1))
    assert not torch.allclose(turned[0], turned[1])
    assert not torch.allclose(turned[1], turned[2])


def test_yaw_is_about_the_vertical() -> None:
    torch.manual_seed(3)
    x = clips()
    torch.testing.assert_close(joints(RandomTurn(yaw=60)(x))[..., 1], joints(x)[..., 1])


@pytest.mark.parametrize(("turn", "seen", "axes"), [(RandomTurn(yaw=20), 0, (0, 2)), (RandomTurn(tilt=20), 2, (2, 1))])
def test_angles_have_the_standard_deviation_asked_for(turn: RandomTurn, seen: int, axes: tuple[int, int]) -> None:
    torch.manual_seed(4)
    x = torch.zeros(4000, 1, 3)
    x[:, :, seen] = 1
    turned = turn(x)[:, 0]
    angles = torch.atan2(turned[:, axes[1]], turned[:, axes[0]]) * 180 / torch.pi
    assert angles.std().item() == pytest.approx(20, rel=0.05)
    assert angles.mean().item() == pytest.approx(0, abs=1)


def test_a_stretch_is_of_each_axis_and_the_same_in_all_frames_of_a_clip() -> None:
    torch.manual_seed(5)
    x = torch.ones(4000, 2, 6)
    stretched = joints(RandomTurn(stretch=0.1)(x))
    assert torch.equal(stretched, stretched[:, :1, :1].expand_as(stretched))
    factors = stretched[:, 0, 0].log()
    torch.testing.assert_close(factors.std(0), torch.full((3,), 0.1), rtol=0.05, atol=0)
    torch.testing.assert_close(factors.T.corrcoef(), torch.eye(3), atol=0.06, rtol=0)


def test_it_computes_in_float32_under_autocast() -> None:
    torch.manual_seed(5)
    expected = RandomTurn(yaw=45, tilt=10)(clips())
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        turned = RandomTurn(yaw=45, tilt=10)(clips())
    assert torch.equal(turned, expected)


def learner() -> ContrastiveMotionLearner:
    torch.manual_seed(6)
    return ContrastiveMotionLearner(Encoder(15, 6, dropout=0), 10, 0.1, 0.99, 0.9)


def batch() -> Batch:
    x, lengths = clips(), torch.tensor([3, 1, 2, 3, 3, 2])
    return Batch(x, velocity(x, lengths), lengths, torch.arange(6))


def test_step_1_turns_coordinates_and_velocities_apart() -> None:
    one, turn = batch(), RandomTurn(yaw=45)
    assert one.v is not None
    phase, expected = Phase(CML, InformationFuser(learner=learner()), Ranks(), turn=turn), learner()
    torch.manual_seed(7)
    loss, _ = phase.loss(one, Ranks().share(6))
    torch.manual_seed(7)
    x, v = turn(one.x), turn(one.v)
    torch.testing.assert_close(loss, expected(x, v, one.lengths)[0])
    assert not torch.allclose(v, velocity(x, one.lengths))


def test_the_key_encoder_reads_velocities_by_their_scale() -> None:
    one = batch()
    assert one.v is not None
    loss, _ = Phase(CML, InformationFuser(learner=learner()), Ranks(), velocity_scale=30.0).loss(one, Ranks().share(6))
    torch.testing.assert_close(loss, learner()(one.x, 30 * one.v, one.lengths)[0])
    assert not torch.allclose(loss, learner()(one.x, one.v, one.lengths)[0])


def test_step_2_turns_what_the_encoder_reads_alone() -> None:
    one, turn = batch(), RandomTurn(yaw=45)
    torch.manual_seed(8)
    reconstructor = SequenceReconstructor(Encoder(15, 6, dropout=0), Decoder(12, 15, 5, dropout=0))
    torch.manual_seed(9)
    loss, _ = Phase(SER, InformationFuser(reconstructor), Ranks(), turn=turn).loss(one, Ranks().share(6))
    torch.manual_seed(9)
    h = reconstructor.encoder(turn(one.x), one.lengths)
    torch.testing.assert_close(loss, reconstructor.loss_r(one.x, h, one.lengths))


def tensors() -> ClipTensors:
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, (length, 5, 3)).astype(np.float32) for length in (9, 4, 1, 7, 6)]
    clips = Clips.from_arrays(arrays, labels=[0] * 5, names=list("abcde"), class_names=["any"])
    return ClipTensors(clips, torch.device("cpu"))


def test_a_teacher_gives_the_mean_over_a_clip_and_other_takes_of_it() -> None:
    torch.manual_seed(10)
    encoder, known, train = Encoder(15, 6).eval(), tensors(), np.array([0, 1, 3, 4])
    teacher = Teacher(encoder, known, train, dropout=False, takes=3)
    index = torch.from_numpy(train)
    takes = [encode(encoder.pooled, known, index), *encode_takes(encoder.pooled, known, index, 3)]
    given = teacher.features(known.batch(torch.tensor([3, 0])))
    torch.testing.assert_close(given, torch.stack(takes).mean(0)[[2, 0]])
    assert not torch.allclose(given, takes[0][[2, 0]])


def test_with_takes_a_cut_clip_at_another_pace_is_turned_and_recited() -> None:
    torch.manual_seed(11)
    student, turn = METHODS["crrl"][1], RandomTurn(yaw=45, stretch=0.1)
    fuser = InformationFuser(SequenceReconstructor(Encoder(15, 6, dropout=0), Decoder(12, 15, 5, dropout=0)), 2.0)
    assert fuser.reconstructor is not None
    assert fuser.mlp is not None
    one = tensors().batch(torch.arange(5))
    teacher = Teacher(Encoder(15, 6), tensors(), np.arange(5), dropout=False, takes=2)
    torch.manual_seed(12)
    loss, parts = Phase(student, fuser, Ranks(), teacher, turn, takes=True).loss(one, Ranks().share(5))
    torch.manual_seed(12)
    x, lengths = replay(one.x, one.lengths, one.x.shape[1])
    h = fuser.encoder(turn(x), lengths)
    l_r = fuser.reconstructor.loss_r(x, h, lengths)
    l_d = distillation_loss(teacher.features(one), fuser.mlp(temporal_average(h, lengths)))
    torch.testing.assert_close(parts, {"loss_r": l_r.detach(), "loss_d": l_d.detach()})
    torch.testing.assert_close(loss, l_r + 2 * l_d)


def test_with_takes_the_keys_are_of_a_cut_and_pace_of_their_own() -> None:
    one, turn, expected = tensors().batch(torch.arange(5)), RandomTurn(yaw=45), learner()
    phase = Phase(CML, InformationFuser(learner=learner()), Ranks(), turn=turn, velocity_scale=10.0, takes=True)
    assert not phase.with_velocity, "it computes those of the takes"
    torch.manual_seed(14)
    loss, _ = phase.loss(one, Ranks().share(5))
    torch.manual_seed(14)
    frames = one.x.shape[1]
    x, lengths = replay(one.x, one.lengths, frames)
    seen = turn(x)
    other, view_lengths = replay(one.x, one.lengths, frames)
    assert not torch.equal(lengths, view_lengths)
    h, keys = expected.encode(seen, 10 * turn(velocity(other, view_lengths)), lengths, view_lengths)
    torch.testing.assert_close(loss, expected.loss(temporal_average(h, lengths), keys))
