"""The models against Section III: sizes, padding, keys, hints, teacher."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl import ops
from crrl.models import (
    ContrastiveMotionLearner,
    Decoder,
    Encoder,
    InformationFuser,
    MLPHead,
    SequenceReconstructor,
    Views,
)
from crrl.optim import FlatSGD
from crrl.reference.contrast import info_nce
from crrl.reference.losses import distillation_loss, reconstruction_error
from crrl.reference.motion import reverse, temporal_average, velocity

LENGTHS = torch.tensor([6, 1, 4])


def clips() -> Tensor:
    """[3, 6, 9] random coordinates; padded frames hold garbage that nothing may read."""
    x = torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for row, length in enumerate(LENGTHS.tolist()):
        x[row, length:] = 1e6
    return x


def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(9, hidden_size=8)


def test_input_gain_scales_what_reads_the_inputs_alone() -> None:
    torch.manual_seed(1)
    gained = dict(Encoder(9, hidden_size=8, input_gain=3.0).named_parameters())
    for name, value in encoder().named_parameters():
        torch.testing.assert_close(gained[name], 3 * value if "weight_ih_l0" in name else value)


def learner(momentum_encoder: float = 0.9, momentum_mlp: float = 1.0, queue_size: int = 5) -> ContrastiveMotionLearner:
    torch.manual_seed(2)
    return ContrastiveMotionLearner(encoder(), queue_size, 0.1, momentum_encoder, momentum_mlp)


def reconstructor(decoder_hidden: int | None = None) -> SequenceReconstructor:
    torch.manual_seed(3)
    return SequenceReconstructor(encoder(), Decoder(16, 9, decoder_hidden))


def parts() -> tuple[ContrastiveMotionLearner, SequenceReconstructor]:
    """Two parts on one encoder."""
    made = learner()
    torch.manual_seed(3)
    return made, SequenceReconstructor(made.query_encoder, Decoder(16, 9, 7))


def contrasted(model: ContrastiveMotionLearner, x: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
    """L_c, and the keys."""
    h, keys = model.encode(x, view, LENGTHS)
    return model.loss(temporal_average(h, LENGTHS), keys), keys


def recited(model: SequenceReconstructor, x: Tensor, lengths: Tensor = LENGTHS) -> Tensor:
    """L_r."""
    return model.loss_r(x, model.encoder(x, lengths), lengths)


def moved(model: ContrastiveMotionLearner, by: float, *weights: Tensor) -> None:
    """A step of the optimizer that adds so much to these weights of the query side, and to no others."""
    parameters = [*model.query_encoder.parameters(), *model.query_mlp.parameters()]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, -by if any(parameter is each for each in weights) else 0.0)
    FlatSGD(parameters, lr=1.0, follow=model.follow).step()


def test_query_encoder_and_head_have_the_papers_2_3_million_parameters() -> None:
    assert sum(p.numel() for p in Encoder(150).parameters()) == 1_809_408
    assert sum(p.numel() for p in MLPHead(512).parameters()) == 525_312


def test_a_padded_batch_is_encoded_as_packing_would() -> None:
    model, x = encoder().eval(), clips()
    packed, _ = model.gru(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False))
    h, _ = pad_packed_sequence(packed, batch_first=True)
    torch.testing.assert_close(model(x, LENGTHS), h)
    expected = torch.stack([h[row, :length].mean(0) for row, length in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(model.pooled(x, LENGTHS), expected)


def test_each_clip_alone_has_the_same_features() -> None:
    model, x = encoder().eval(), clips()
    together = model.pooled(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model.pooled(x[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


class TestContrastiveMotionLearner:
    def test_the_key_encoder_starts_as_a_copy_and_follows_eq_5(self) -> None:
        model = learner(momentum_encoder=0.75)
        before = copy.deepcopy(model.key_encoder.state_dict())
        for key, query in zip(model.key_encoder.parameters(), model.query_encoder.parameters(), strict=True):
            assert torch.equal(key, query)
        moved(model, 1.0, *model.query_encoder.parameters())
        for name, key in model.key_encoder.state_dict().items():
            torch.testing.assert_close(key, before[name] + 0.25)

    def test_at_momentum_1_the_key_mlp_is_random_and_frozen(self) -> None:
        model = learner(momentum_mlp=1.0)
        before = copy.deepcopy(model.key_mlp.state_dict())
        assert not torch.equal(before["0.weight"], model.query_mlp.state_dict()["0.weight"])
        optimizer = FlatSGD([p for p in model.parameters() if p.requires_grad], lr=1.0, follow=model.follow)
        for _ in range(3):
            loss, keys = contrasted(model, clips(), velocity(clips(), LENGTHS))
            loss.backward()
            optimizer.step()
            model.enqueue(keys)
        for name, value in model.key_mlp.state_dict().items():
            assert torch.equal(value, before[name])

    def test_below_momentum_1_the_key_mlp_starts_as_a_copy_and_follows(self) -> None:
        model = learner(momentum_mlp=0.5)
        start = copy.deepcopy(model.key_mlp.state_dict())
        for name, value in model.query_mlp.state_dict().items():
            assert torch.equal(value, start[name])
        moved(model, 2.0, model.query_mlp[0].weight)
        torch.testing.assert_close(model.key_mlp.state_dict()["0.weight"], start["0.weight"] + 1)

    def test_the_loss_is_eq_6_on_queries_of_coordinates_and_keys_of_velocities(self) -> None:
        model, x = learner().eval(), clips()
        v = velocity(x, LENGTHS)
        loss, keys = contrasted(model, x, v)
        k = F.normalize(model.key_mlp(model.key_encoder.pooled(v, LENGTHS)), dim=1)
        q = model.query_mlp(model.query_encoder.pooled(x, LENGTHS))
        torch.testing.assert_close(keys, k)
        torch.testing.assert_close(loss, info_nce(q, k, model.queue, 0.1))

    def test_gradients_reach_the_query_side_alone(self) -> None:
        model = learner()
        contrasted(model, clips(), velocity(clips(), LENGTHS))[0].backward()
        assert all(p.grad is not None and p.grad.any() for p in model.query_encoder.parameters())
        assert all(p.grad is None for p in (*model.key_encoder.parameters(), *model.key_mlp.parameters()))

    def test_the_queue_starts_as_unit_vectors_and_takes_the_keys(self) -> None:
        model = learner(queue_size=4)
        torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(4))
        old = model.queue.clone()
        keys = F.normalize(torch.randn(3, 16), dim=1)
        model.enqueue(keys)
        model.enqueue(keys)
        assert torch.equal(model.queue, torch.stack([keys[1], keys[2], keys[2], keys[0]]))
        assert not torch.equal(model.queue, old)


class TestSequenceReconstructor:
    @pytest.mark.parametrize("decoder_hidden", [None, 7])
    def test_forward_starts_from_h_1_and_reverse_from_the_last_valid_h(self, decoder_hidden: int | None) -> None:
        model, x = reconstructor(decoder_hidden).eval(), clips()
        h = model.encoder(x, LENGTHS)
        forward, backward = model.reconstruct(h, LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            for hint, decoded in ((h[row, 0], forward), (h[row, length - 1], backward)):
                alone = model.decoder.unroll(hint[None], torch.tensor([length]), length)
                torch.testing.assert_close(decoded[row, :length], model.decoder.output(alone)[0])

    def test_the_papers_decoder_is_bounded_by_its_hidden_state(self) -> None:
        assert recited(reconstructor(), clips()).isfinite()
        model = Decoder(16, 9, None)
        assert model.output(model.unroll(100 * torch.randn(3, 16), LENGTHS, 6)).abs().max() <= 1

    def test_the_loss_is_eq_1(self) -> None:
        model, x = reconstructor(7).eval(), clips()
        forward, backward = model.reconstruct(model.encoder(x, LENGTHS), LENGTHS)
        expected = reconstruction_error(x, forward, LENGTHS) + reconstruction_error(
            reverse(x, LENGTHS), backward, LENGTHS
        )
        torch.testing.assert_close(recited(model, x), expected)

    def test_one_direction_alone_has_that_half_of_the_loss(self) -> None:
        both, x = reconstructor(7).eval(), clips()
        forward, backward = (
            SequenceReconstructor(both.encoder, both.decoder, [direction]) for direction in ("forward", "reverse")
        )
        h = both.encoder(x, LENGTHS)
        decoded = both.reconstruct(h, LENGTHS)
        assert torch.equal(forward.loss_r(x, h, LENGTHS), reconstruction_error(x, decoded[0], LENGTHS))
        assert torch.equal(
            backward.loss_r(x, h, LENGTHS), reconstruction_error(reverse(x, LENGTHS), decoded[1], LENGTHS)
        )
        torch.testing.assert_close(recited(forward, x) + recited(backward, x), recited(both, x))
        assert (forward.reconstruct(h, LENGTHS)[1], backward.reconstruct(h, LENGTHS)[0]) == (None, None)

    @pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
    @pytest.mark.parametrize("policy", ["auto", "gru_layer=torch"])
    def test_the_compiled_decoder_is_one_graph_and_right_for_every_size(self, policy: str) -> None:
        model, x, lengths = reconstructor(7).eval(), clips().repeat(2, 1, 1), LENGTHS.repeat(2)
        compiled = copy.deepcopy(model)
        compiled.compiled = True
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for rows in (5, 4):
            with ops.use_backends(policy):
                results = [recited(part, x[:rows].clone(), lengths[:rows].clone()) for part in (model, compiled)]
            gradients = [
                torch.autograd.grad(loss, list(part.parameters()))
                for loss, part in zip(results, (model, compiled), strict=True)
            ]
            torch.testing.assert_close(results[0], results[1])
            torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1


def views(x: Tensor, **others: Tensor) -> Views:
    return Views(read=x, recited=x, lengths=LENGTHS, **others)


class TestInformationFuser:
    def test_the_loss_is_eq_8(self) -> None:
        torch.manual_seed(4)
        model, x, teacher = InformationFuser(reconstructor(), 0.3).eval(), clips(), torch.randn(3, 16)
        loss, parts, _ = model(views(x), teacher)
        assert model.mlp is not None
        student = model.mlp(model.reconstructor.encoder.pooled(x, LENGTHS))
        torch.testing.assert_close(parts["loss_r"], recited(model.reconstructor, x))
        torch.testing.assert_close(parts["loss_d"], distillation_loss(teacher, student))
        torch.testing.assert_close(loss, parts["loss_r"] + 0.3 * parts["loss_d"])

    def test_the_teacher_gets_no_gradient(self) -> None:
        teacher = torch.randn(3, 16, requires_grad=True)
        InformationFuser(reconstructor(), 1.0)(views(clips()), teacher)[0].backward()
        assert teacher.grad is None

    def test_without_distillation_it_is_ser(self) -> None:
        model = InformationFuser(reconstructor(), 0.0).eval()
        assert model.mlp is None
        loss, parts, _ = model(views(clips()))
        assert list(parts) == ["loss_r"]
        torch.testing.assert_close(loss, recited(model.reconstructor, clips()))

    def test_jointly_trained_the_encoder_gets_both_gradients(self) -> None:
        learner, reconstructor = parts()
        joint = InformationFuser(reconstructor, learner=learner).eval()
        x, view = clips(), velocity(clips(), LENGTHS)
        loss, losses, keys = joint(views(x, contrasted=view))
        (loss_c, expected), loss_r = contrasted(learner, x, view), recited(reconstructor, x)
        assert torch.equal(keys, expected)
        assert joint.losses == tuple(losses) == ("loss_c", "loss_r")
        torch.testing.assert_close([loss, *losses.values()], [loss_c + loss_r, loss_c.detach(), loss_r.detach()])
        together, *apart = (
            torch.autograd.grad(part, list(joint.encoder.parameters())) for part in (loss, loss_c, loss_r)
        )
        for got, one, other in zip(together, *apart, strict=True):
            assert one.any()
            assert other.any()
            torch.testing.assert_close(got, one + other)

    def test_all_that_the_optimizer_moves_is_shared_or_once(self) -> None:
        learner, reconstructor = parts()
        joint = InformationFuser(reconstructor, learner=learner)
        trained = [p for p in joint.parameters() if p.requires_grad]
        first = [*learner.query_encoder.parameters(), *learner.query_mlp.parameters()]
        assert all(one is other for one, other in zip(trained, first, strict=False))
        assert len(trained) == len(first) + len(list(reconstructor.decoder.parameters()))

    def test_the_distillation_into_the_learner_is_eq_7_the_other_way_round(self) -> None:
        learner, _ = parts()
        torch.manual_seed(4)
        model, x = InformationFuser(learner=learner, distill_weight=0.3).eval(), clips()
        teacher, view = torch.randn(3, 16, requires_grad=True), velocity(x, LENGTHS)
        loss, losses, _ = model(views(x, contrasted=view), teacher)
        assert model.mlp is not None
        expected = distillation_loss(teacher, model.mlp(learner.query_encoder.pooled(x, LENGTHS)))
        torch.testing.assert_close(losses["loss_d"], expected)
        torch.testing.assert_close(losses["loss_c"], contrasted(learner, x, view)[0])
        torch.testing.assert_close(loss, losses["loss_c"] + 0.3 * expected)
        loss.backward()
        assert teacher.grad is None

    def test_velocities_are_generated_from_the_hidden_states_of_coordinates(self) -> None:
        reconstructor = parts()[1]
        generator = SequenceReconstructor(reconstructor.encoder, Decoder(16, 9, 7))
        both, x = InformationFuser(reconstructor, generator=generator).eval(), clips()
        v = velocity(x, LENGTHS)
        loss, losses, _ = both(views(x, velocity=v))
        forward, backward = generator.reconstruct(generator.encoder(x, LENGTHS), LENGTHS)
        errors = reconstruction_error(v, forward, LENGTHS), reconstruction_error(reverse(v, LENGTHS), backward, LENGTHS)
        torch.testing.assert_close(losses["loss_v"], sum(errors))
        torch.testing.assert_close(loss, recited(reconstructor, x) + sum(errors))
        torch.testing.assert_close(InformationFuser(generator=generator).eval()(views(x, velocity=v))[0], sum(errors))

    def test_keys_enter_the_queue_when_told_to(self) -> None:
        learner, _ = parts()
        model, view, queue = InformationFuser(learner=learner), velocity(clips(), LENGTHS), learner.queue.clone()
        before, *_ = model.eval()(views(clips(), contrasted=view))
        assert torch.equal(learner.queue, queue)
        after, _, keys = model(views(clips(), contrasted=view), enqueue=True)
        assert torch.equal(learner.queue[:3], keys)
        torch.testing.assert_close(before, after)

    def test_it_recites_the_clip_whatever_the_encoder_has_seen(self) -> None:
        model, x, seen = InformationFuser(reconstructor(7)).eval(), clips(), clips().flip(2)
        assert model.reconstructor is not None
        expected = model.reconstructor.loss_r(x, model.encoder(seen, LENGTHS), LENGTHS)
        torch.testing.assert_close(model(Views(seen, x, LENGTHS))[0], expected)

    def test_parts_of_different_encoders_or_none_are_refused(self) -> None:
        with pytest.raises(ValueError, match="share one encoder"):
            InformationFuser(reconstructor(), learner=learner())
        with pytest.raises(ValueError, match="no part"):
            InformationFuser()
