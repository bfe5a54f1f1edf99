"""StepwiseBiGRU against the loop it replaces: a bidirectional torch.nn.GRU called frame by frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crrl import ops
from crrl.nn import GRU, StepwiseBiGRU

Evaluate = Callable[..., list[Tensor]]
LENGTHS = torch.tensor([4, 7, 1, 6])


class Loop(nn.Module):
    """What the field runs: one call for each frame, the state carried on; a row stops at its last frame."""

    def __init__(self, gru: nn.GRU):
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor, h: Tensor | None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        frames = x.transpose(0, 1) if self.gru.batch_first else x
        states = 2 * self.gru.num_layers
        h = x.new_zeros(states, frames.shape[1], self.gru.hidden_size) if h is None else h
        outputs = []
        for t, frame in enumerate(frames):
            y, h_next = self.gru(frame[:, None] if self.gru.batch_first else frame[None], h)
            y = y.squeeze(1 if self.gru.batch_first else 0)
            if lengths is not None:
                here = (t < lengths)[:, None]
                y, h_next = torch.where(here, y, 0), torch.where(here, h_next, h)
            outputs.append(y)
            h = h_next
        return torch.stack(outputs, 1 if self.gru.batch_first else 0), h


def twins(layers: int, bias: bool, batch_first: bool, dtype: torch.dtype = torch.float64) -> tuple[StepwiseBiGRU, Loop]:
    torch.manual_seed(0)
    gru = nn.GRU(3, 5, layers, bias, batch_first, bidirectional=True, dtype=dtype)
    ours = StepwiseBiGRU(3, 5, layers, bias, batch_first, dtype=dtype)
    ours.load_state_dict(gru.state_dict(), strict=True)
    return ours, Loop(gru)


def inputs(layers: int, batch_first: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, h0 = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((4, 7, 3), (2 * layers, 4, 5)))
    return (x if batch_first else x.transpose(0, 1)).to(dtype).requires_grad_(), h0.to(dtype).requires_grad_()


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for ours, loop in zip(got, want, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize(
    ("layers", "bias", "batch_first"), [(1, True, True), (2, False, True), (3, True, False), (2, True, False)]
)
@pytest.mark.usefixtures("policy")
def test_one_call_is_the_loop_over_frames(
    evaluate: Evaluate, layers: int, bias: bool, batch_first: bool, with_h0: bool, lengths: Tensor | None
) -> None:
    ours, loop = twins(layers, bias, batch_first)
    x, h0 = inputs(layers, batch_first)
    state = h0 if with_h0 else None
    assert_same(evaluate(ours, x, state, lengths), evaluate(loop, x, state, lengths))


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.usefixtures("policy")
def test_fp32_is_the_loop_up_to_rounding(evaluate: Evaluate, lengths: Tensor | None) -> None:
    ours, _ = twins(3, True, True, torch.float32)
    x, h0 = inputs(3, True, torch.float32)
    _, loop = twins(3, True, True, torch.float32)
    exact = evaluate(
        loop.double(), x.detach().double().requires_grad_(), h0.detach().double().requires_grad_(), lengths
    )
    for got, want in zip(evaluate(ours, x, h0, lengths), exact, strict=True):
        assert (got.double() - want).norm() <= 2e-6 * want.norm()  # roundings of 6e-8, a few dozen of them in a row


@pytest.mark.usefixtures("policy")
def test_one_frame_at_a_time_it_still_is_the_loop() -> None:
    ours, loop = twins(2, True, True)
    x, h0 = inputs(2, True)
    for got, want in zip(Loop(ours)(x, h0), loop(x, h0), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("policy")
def test_it_is_not_the_bidirectional_gru_on_a_whole_clip() -> None:
    ours, loop = twins(2, True, True)
    x, _ = inputs(2, True)
    assert (ours(x)[0] - loop.gru(x)[0]).abs().max() > 0.1


@pytest.mark.usefixtures("policy")
def test_a_frame_never_sees_a_later_one() -> None:
    ours, _ = twins(2, True, True)
    x, _ = inputs(2, True)
    changed = x.detach().clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(ours(x)[0][:, :4], ours(changed)[0][:, :4])


@pytest.mark.usefixtures("policy")
def test_in_one_direction_it_is_the_plain_gru(evaluate: Evaluate) -> None:
    torch.manual_seed(0)
    plain = nn.GRU(3, 5, 2, batch_first=True, dtype=torch.float64)
    ours = StepwiseBiGRU(3, 5, 2, batch_first=True, bidirectional=False, dtype=torch.float64)
    ours.load_state_dict(plain.state_dict())
    x, _ = inputs(2, True)
    assert_same(evaluate(ours, x), evaluate(plain, x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("policy")
def test_dropout_acts_between_layers_in_training_only(evaluate: Evaluate, training: bool) -> None:
    ours, loop = twins(3, True, True)
    for gru in (ours, loop.gru):
        gru.dropout = 1.0  # everything is dropped, so nothing is random
        gru.train(training)
    x, h0 = inputs(3, True)
    assert_same(evaluate(ours, x, h0), evaluate(loop, x, h0))


@pytest.mark.usefixtures("policy")
def test_packed_and_unbatched_rows_are_the_padded_ones() -> None:
    ours, _ = twins(2, True, True)
    x, h0 = inputs(2, True)
    y, h_n = ours(x, h0, LENGTHS)
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y_packed, h_packed = ours(packed, h0)
    torch.testing.assert_close(nn.utils.rnn.pad_packed_sequence(y_packed, batch_first=True)[0], y)
    torch.testing.assert_close(h_packed, h_n)
    y_row, h_row = ours(x[0, :4], h0[:, 0])
    torch.testing.assert_close(y_row, y[0, :4])
    torch.testing.assert_close(h_row, h_n[:, 0])


def test_the_loop_itself_may_run_on_ours() -> None:
    theirs, ours = twins(2, True, True)[1], GRU(3, 5, 2, batch_first=True, bidirectional=True, dtype=torch.float64)
    ours.load_state_dict(theirs.gru.state_dict())
    x, h0 = inputs(2, True)
    with ops.use_backends("reference"):
        for got, want in zip(Loop(ours)(x, h0), theirs(x, h0), strict=True):
            torch.testing.assert_close(got, want)
