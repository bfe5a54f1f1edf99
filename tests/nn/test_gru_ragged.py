"""crrl.nn.GRU on ragged rows: lengths and PackedSequence give what torch.nn.GRU gives for the packed rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from crrl import ops
from crrl.nn import GRU

Evaluate = Callable[..., list[Tensor]]
UNSORTED = torch.tensor([4, 9, 1, 6])
SORTED = torch.tensor([9, 6, 4, 1])
SHAPES = [(1, False), (2, True), (3, True)]
"""layers, bidirectional"""


def twins(layers: int, bidirectional: bool, batch_first: bool = True) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights, fp64."""
    torch.manual_seed(0)
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    theirs, ours = (kind(3, 5, dtype=torch.float64, **options) for kind in (nn.GRU, GRU))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(layers: int, bidirectional: bool, batch_first: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 9, 3, dtype=torch.float64, generator=generator)
    h0 = torch.randn(layers * (2 if bidirectional else 1), 4, 5, dtype=torch.float64, generator=generator)
    return (x if batch_first else x.transpose(0, 1)).requires_grad_(), h0.requires_grad_()


class Packing(nn.Module):
    """torch.nn.GRU on padded rows by way of a PackedSequence."""

    def __init__(self, gru: nn.GRU):
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor, hx: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
        first = self.gru.batch_first
        y, h_n = self.gru(pack_padded_sequence(x, lengths, first, enforce_sorted=False), hx)
        return pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])[0], h_n


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
@pytest.mark.usefixtures("policy")
def test_padded_rows_give_what_packing_gives(
    evaluate: Evaluate, layers: int, bidirectional: bool, batch_first: bool, with_h0: bool
) -> None:
    ours, theirs = twins(layers, bidirectional, batch_first)
    x, h0 = inputs(layers, bidirectional, batch_first)
    state = h0 if with_h0 else None
    assert_same(evaluate(ours, x, state, UNSORTED), evaluate(Packing(theirs), x, state, UNSORTED))


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"), [(SORTED, True), (SORTED, False), (UNSORTED, False), (torch.ones(4).long(), False)]
)
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
@pytest.mark.usefixtures("policy")
def test_a_packed_sequence_gives_torchs_with_the_very_same_indices(
    evaluate: Evaluate, layers: int, bidirectional: bool, lengths: Tensor, enforce_sorted: bool, with_h0: bool
) -> None:
    ours, theirs = twins(layers, bidirectional)
    x, h0 = inputs(layers, bidirectional)
    packed = pack_padded_sequence(x.detach(), lengths, batch_first=True, enforce_sorted=enforce_sorted)
    packed.data.requires_grad_()
    state = h0 if with_h0 else None
    assert_same(evaluate(ours, packed, state), evaluate(theirs, packed, state))
    y, _ = ours(packed, state)
    assert isinstance(y, PackedSequence)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(y, name) is getattr(packed, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True])
def test_ragged_rows_on_the_fastest_backend_err_no_more_than_torch(
    evaluate: Evaluate, dtype: torch.dtype, packed: bool
) -> None:
    ours, theirs = twins(2, True)
    x, h0 = inputs(2, True)
    rounded = [leaf.detach().to(dtype).requires_grad_() for leaf in (x, h0)]
    exact = evaluate(Packing(theirs), *(leaf.detach().double().requires_grad_() for leaf in rounded), UNSORTED)
    with ops.use_backends("auto"):
        got = evaluate(Packing(ours.to(dtype)) if packed else ours.to(dtype), *rounded, UNSORTED)
    peer = evaluate(Packing(theirs.to(dtype)), *rounded, UNSORTED)
    for mine, its, true in zip(got, peer, exact, strict=True):
        assert mine.dtype == dtype
        # Both round the weights and then each step; they may differ by as much as torch errs, and a few roundings.
        bound = 2 * (its.double() - true).norm() + torch.finfo(dtype).eps * true.norm()
        assert (mine.double() - true).norm() <= bound


@pytest.mark.usefixtures("policy")
def test_full_lengths_are_no_lengths(evaluate: Evaluate) -> None:
    ours, _ = twins(2, True)
    x, h0 = inputs(2, True)
    assert_same(evaluate(ours, x, h0, torch.full((4,), 9)), evaluate(ours, x, h0))


@pytest.mark.usefixtures("policy")
def test_garbage_in_padded_frames_reaches_nothing(evaluate: Evaluate) -> None:
    ours, _ = twins(2, True)
    x, h0 = inputs(2, True)
    poisoned = x.detach().clone()
    for row, length in zip(poisoned, UNSORTED.tolist(), strict=True):
        row[length:] = torch.nan
    want = evaluate(ours, x, h0, UNSORTED)
    for got, clean in zip(evaluate(ours, poisoned.requires_grad_(), h0, UNSORTED), want, strict=True):
        torch.testing.assert_close(got, clean)
    for row, length in zip(want[0], UNSORTED.tolist(), strict=True):
        assert not row[length:].any()


def test_lengths_need_a_padded_batch() -> None:
    packed = pack_padded_sequence(torch.randn(4, 9, 3), SORTED, batch_first=True)
    for input in (packed, torch.randn(4, 3)):
        with pytest.raises(ValueError, match="padded batch"):
            GRU(3, 5, batch_first=True)(input, lengths=SORTED)


def test_each_layer_gives_the_output_of_the_layers_up_to_it() -> None:
    ours, theirs = twins(2, bidirectional=True)
    x, _ = inputs(2, bidirectional=True)
    lower = nn.GRU(3, 5, bidirectional=True, batch_first=True, dtype=torch.float64)
    lower.load_state_dict({name: weight for name, weight in theirs.state_dict().items() if "_l0" in name})
    outputs = ours.each_layer(x, UNSORTED)
    for got, gru in zip(outputs, (lower, theirs), strict=True):
        torch.testing.assert_close(got, Packing(gru)(x, None, UNSORTED)[0], rtol=1e-9, atol=1e-11)
