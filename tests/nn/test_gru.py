"""crrl.nn.GRU: torch.nn.GRU by itself, and packed semantics for padded rows with lengths, under every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl import ops
from crrl.nn import GRU

LENGTHS = torch.tensor([4, 9, 1, 6])
POLICIES = ["reference", "gru_layer=torch"]


def pair(layers: int, bidirectional: bool, dropout: float = 0.0) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights, fp64."""
    torch.manual_seed(0)
    theirs = nn.GRU(3, 5, layers, batch_first=True, bidirectional=bidirectional, dropout=dropout).double()
    ours = GRU(3, 5, layers, batch_first=True, bidirectional=bidirectional, dropout=dropout).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def packed(gru: nn.GRU, x: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    y, h_n = gru(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False), h0)
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], h_n


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True), (3, True)])
def test_padded_rows_give_what_packing_gives(policy: str, layers: int, bidirectional: bool) -> None:
    ours, theirs = pair(layers, bidirectional)
    x = torch.randn(4, 9, 3, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(layers * (2 if bidirectional else 1), 4, 5, dtype=torch.float64, requires_grad=True)
    with ops.use_backends(policy):
        results = ours(x, h0, LENGTHS), packed(theirs, x, h0)
    gradients = []
    for module, (y, h_n) in zip((ours, theirs), results, strict=True):
        loss = y.square().sum() + h_n.sin().sum()
        gradients.append(torch.autograd.grad(loss, [x, h0, *module.parameters()]))
    for got, want in zip([*results[0], *gradients[0]], [*results[1], *gradients[1]], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_padded_rows_on_the_fastest_backend_in_fp32() -> None:
    ours, theirs = pair(2, True)
    ours, theirs = ours.float(), theirs.float()
    x = torch.randn(4, 9, 3)
    with ops.use_backends("auto"):
        results = ours(x, lengths=LENGTHS)
    for got, want in zip(results, packed(theirs, x, None), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_without_lengths_it_is_torch_gru() -> None:
    ours, theirs = pair(2, True)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    for got, want in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(got, want)


def test_dropout_acts_between_layers_in_training_only() -> None:
    ours, _ = pair(2, True, dropout=0.5)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    first = GRU(3, 5, 1, batch_first=True, bidirectional=True).double()
    first.load_state_dict({name: value for name, value in ours.state_dict().items() if "_l0" in name})
    ours.eval()
    assert torch.equal(ours(x, lengths=LENGTHS)[0], ours(x, lengths=LENGTHS)[0])
    ours.train()
    assert not torch.equal(ours(x, lengths=LENGTHS)[0], ours(x, lengths=LENGTHS)[0])
    assert torch.equal(ours(x, lengths=LENGTHS)[1][:2], first(x, lengths=LENGTHS)[1])


@pytest.mark.parametrize("lengths", [torch.tensor([3, 2]), torch.tensor(3)])
def test_lengths_must_fit_the_batch(lengths: Tensor) -> None:
    with pytest.raises(ValueError, match="lengths"):
        GRU(3, 5, batch_first=True)(torch.randn(4, 9, 3), lengths=lengths)


def test_lengths_need_batch_first() -> None:
    with pytest.raises(ValueError, match="batch_first"):
        GRU(3, 5)(torch.randn(4, 4, 3), lengths=LENGTHS)
