"""Random turns: rigid, of the clip as a whole, about the axes and by the angles asked for; what each step reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.data import Batch, Clips, ClipTensors
from crrl.data.augmentation import RandomTurn, choose_yaw, facing_deviation, replayed, take_turn
from crrl.features import encode, encode_takes
from crrl.methods import CML, SER
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor, Views
from crrl.reference.motion import velocity
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


def contrasted(x: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """What the learner's loss is where it sees x and v."""
    return InformationFuser(learner=learner())(Views(x, x, lengths, contrasted=v))[0]


def batch() -> Batch:
    x, lengths = clips(), torch.tensor([3, 1, 2, 3, 3, 2])
    return Batch(x, velocity(x, lengths), lengths, torch.arange(6))


def test_step_1_turns_coordinates_and_velocities_apart() -> None:
    one, turn = batch(), RandomTurn(yaw=45)
    assert one.v is not None
    phase = Phase(CML, InformationFuser(learner=learner()), Ranks(), yaw=45)
    torch.manual_seed(7)
    loss, _ = phase.loss(one, Ranks().share(6))
    torch.manual_seed(7)
    x, v = turn(one.x), turn(one.v)
    torch.testing.assert_close(loss, contrasted(x, v, one.lengths))
    assert not torch.allclose(v, velocity(x, one.lengths))


def test_the_key_encoder_reads_velocities_by_their_scale() -> None:
    one = batch()
    assert one.v is not None
    loss, _ = Phase(CML, InformationFuser(learner=learner()), Ranks(), velocity_scale=30.0).loss(one, Ranks().share(6))
    torch.testing.assert_close(loss, contrasted(one.x, 30 * one.v, one.lengths))
    assert not torch.allclose(loss, contrasted(one.x, one.v, one.lengths))


def test_step_2_turns_what_the_encoder_reads_alone() -> None:
    one, turn = batch(), RandomTurn(yaw=45)
    torch.manual_seed(8)
    reconstructor = SequenceReconstructor(Encoder(15, 6, dropout=0), Decoder(12, 15, 5, dropout=0))
    torch.manual_seed(9)
    loss, _ = Phase(SER, InformationFuser(reconstructor), Ranks(), yaw=45).loss(one, Ranks().share(6))
    torch.manual_seed(9)
    h = reconstructor.encoder(turn(one.x), one.lengths)
    torch.testing.assert_close(loss, reconstructor.loss_r(one.x, h, one.lengths))


def test_encoders_of_step_1_read_takes_of_their_own() -> None:
    one = batch()
    phase = Phase(CML, InformationFuser(learner=learner()), Ranks(), yaw=30, velocity_scale=2, takes=True)
    expected = learner()
    torch.manual_seed(7)
    loss, _ = phase.loss(one, Ranks().share(6))
    torch.manual_seed(7)
    query = replayed(one)
    seen, key = take_turn(30)(query.x), replayed(one)
    assert key.v is not None
    view = 2 * take_turn(30)(key.v)
    keys = F.normalize(expected.key_mlp(expected.key_encoder.pooled(view, key.lengths)), dim=1)
    features = expected.query_encoder.pooled(seen, query.lengths)
    torch.testing.assert_close(loss, expected.loss(features, keys))
    assert not torch.equal(key.lengths, query.lengths)


def test_a_student_of_several_takes_reads_one_recites_it_and_is_held_against_their_mean() -> None:
    one, known = batch(), tensors(6)
    torch.manual_seed(12)
    reconstructor = SequenceReconstructor(Encoder(15, 6, dropout=0), Decoder(12, 15, 5, dropout=0))
    module, teacher = InformationFuser(reconstructor, 10.0), Encoder(15, 6, dropout=0)
    taught = Teacher(teacher, known, np.arange(6), takes=3, yaw=30)
    clips = torch.arange(6)
    takes = [encode(teacher.pooled, known, clips), *encode_takes(teacher.pooled, known, clips, 3, 30)]
    torch.testing.assert_close(taught.features(one), torch.stack(takes).mean(0))
    torch.manual_seed(13)
    phase = Phase(replace(SER, teacher=True), module, Ranks(), taught, yaw=30, takes=True)
    loss, _ = phase.loss(one, Ranks().share(6))
    torch.manual_seed(13)
    shown = replayed(one)
    assert shown.v is not None
    torch.testing.assert_close(shown.v, velocity(shown.x, shown.lengths))
    expected, *_ = module(Views(take_turn(30)(shown.x), shown.x, shown.lengths), taught.features(one))
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(shown.lengths, one.lengths)


def tensors(clips: int = 5) -> ClipTensors:
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, (length, 5, 3)).astype(np.float32) for length in (9, 4, 1, 7, 6, 5)[:clips]]
    made = Clips.from_arrays(arrays, labels=[0] * clips, names=list("abcdef")[:clips], class_names=["any"])
    return ClipTensors(made, torch.device("cpu"))


def test_facing_is_measured_in_degrees_about_the_vertical_wherever_clips_stand_and_however_large_they_are() -> None:
    generator = torch.Generator().manual_seed(10)
    pose = torch.randn(15, 3, generator=generator) * torch.tensor([0.3, 0.8, 0.1])
    angles = torch.randn(2000, generator=generator) * torch.pi / 6
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    x, y, z = (pose + 0.02 * torch.randn(2000, 15, 3, generator=generator)).unbind(2)
    poses = torch.stack([cos * x + sin * z, y, cos * z - sin * x], 2)
    poses = poses * (1 + torch.rand(2000, 1, 1, generator=generator)) + torch.randn(2000, 1, 3, generator=generator)
    assert facing_deviation(poses) == pytest.approx(30, rel=0.05)
    poses[:, 11] = 0  # a joint that is never seen
    assert facing_deviation(poses) == pytest.approx(30, rel=0.05)


def test_poses_that_face_alike_or_show_nobody_do_not_differ() -> None:
    pose = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(11))
    assert facing_deviation(pose.repeat(5, 1, 1)) == pytest.approx(0, abs=1e-3)
    assert facing_deviation(pose) == pytest.approx(0, abs=1e-3)
    assert facing_deviation(torch.zeros(4, 9, 3)) == 0


def test_auto_turns_three_times_as_far_as_the_training_clips_face_apart_and_a_number_as_far_as_it_says() -> None:
    known, train = tensors(), np.array([0, 1, 3])
    assert choose_yaw(12.5, known, train) == 12.5
    first = known.frames[known.offsets[torch.from_numpy(train)]].view(3, 5, 3)
    assert choose_yaw("auto", known, train) == min(3 * facing_deviation(first), 90)
    assert choose_yaw("auto", known, train[:1]) == pytest.approx(0, abs=1e-3)
