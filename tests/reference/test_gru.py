"""The reference GRU layer is torch.nn.GRU on a packed sequence, value and gradient, and passes gradcheck."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl.reference.gru import Weights, gru_layer

LENGTHS = torch.tensor([3, 7, 1, 6, 2])


def layer_weights(gru: nn.GRU) -> list[Weights]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    suffixes = ["", "_reverse"] if gru.bidirectional else [""]
    return [tuple(getattr(gru, name + suffix, None) for name in names) for suffix in suffixes]  # type: ignore[misc]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_torch_gru_on_a_packed_sequence(bidirectional: bool, bias: bool) -> None:
    torch.manual_seed(0)
    gru = nn.GRU(4, 5, bias=bias, bidirectional=bidirectional, batch_first=True).double()
    directions = 2 if bidirectional else 1
    x = torch.randn(5, 7, 4, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(directions, 5, 5, dtype=torch.float64, requires_grad=True)
    packed, h_packed = gru(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False), h0)
    y_packed, _ = pad_packed_sequence(packed, batch_first=True, total_length=7)
    y, h_n = gru_layer(x, LENGTHS, layer_weights(gru), h0)
    torch.testing.assert_close(y, y_packed)
    torch.testing.assert_close(h_n, h_packed)
    inputs = [x, h0, *gru.parameters()]
    seeds = torch.randn_like(y), torch.randn_like(h_n)
    expected = torch.autograd.grad((y_packed * seeds[0]).sum() + (h_packed * seeds[1]).sum(), inputs)
    for got, want in zip(
        torch.autograd.grad((y * seeds[0]).sum() + (h_n * seeds[1]).sum(), inputs), expected, strict=True
    ):
        torch.testing.assert_close(got, want)


def test_padded_frames_are_zero_and_do_not_matter() -> None:
    torch.manual_seed(0)
    gru = nn.GRU(4, 5, bidirectional=True, batch_first=True)
    x = torch.randn(5, 7, 4)
    other = x.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        other[row, length:] = 1e6
    y, h_n = gru_layer(x, LENGTHS, layer_weights(gru))
    y_other, h_other = gru_layer(other, LENGTHS, layer_weights(gru))
    assert torch.equal(y, y_other)
    assert torch.equal(h_n, h_other)
    for row, length in enumerate(LENGTHS.tolist()):
        assert not y[row, length:].any()


def test_gradcheck() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    gru = nn.GRU(2, 3, bidirectional=True, batch_first=True).double()
    flat = [tensor.detach().requires_grad_() for tensor in gru.parameters()]

    def run(x: torch.Tensor, *w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gru_layer(x, torch.tensor([4, 1, 3]), [w[:4], w[4:]])  # type: ignore[list-item]

    assert torch.autograd.gradcheck(run, (x, *flat))
    assert torch.autograd.gradgradcheck(run, (x, *flat))
