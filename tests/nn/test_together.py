"""Two GRUs run together give what each gives alone, with the same random numbers, however they are served."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crrl.nn import GRU, StepwiseBiGRU, run_together
from crrl.ops.gru import layer, operators


def pair(kind: type[GRU] = GRU, **key: Any) -> tuple[GRU, GRU]:
    """The first of 3 channels, the other of 2; two layers of 2 × 5 with dropout."""
    torch.manual_seed(0)
    options = {"hidden_size": 5, "num_layers": 2, "dropout": 0.4, "bidirectional": True, "batch_first": True}
    return kind(3, **options), kind(2, **(options | key))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    x, v = torch.randn(4, 6, 3), torch.randn(4, 6, 2)
    return x.requires_grad_(), v.requires_grad_(), torch.tensor([6, 1, 4, 3])


def separately(gru: GRU, x: Tensor, key_gru: GRU, v: Tensor, lengths: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        key = key_gru(v, lengths=lengths)
    return [gru(x, lengths=lengths), key]


def results(function: Any, *arguments: Any) -> list[Tensor]:
    """Both outputs, and the gradients of x and the first GRU's parameters."""
    torch.manual_seed(2)
    (y, h_n), (key_y, key_h_n) = function(*arguments)
    assert not key_y.requires_grad
    assert not key_h_n.requires_grad
    gradients = torch.autograd.grad(y.sin().sum() + h_n.sum(), [arguments[1], *arguments[0].parameters()])
    return [y, h_n, key_y, key_h_n, *gradients]


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
@pytest.mark.usefixtures("policy")
def test_on_a_cpu_it_is_two_calls_to_the_bit(kind: type[GRU], ragged: bool) -> None:
    gru, key_gru = pair(kind)
    x, v, lengths = inputs()
    arguments = gru, x, key_gru, v, lengths if ragged else None
    for got, want in zip(results(run_together, *arguments), results(separately, *arguments), strict=True):
        assert torch.equal(got, want)


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path of the backend "cuda", each layer of a pair computed as two; notes the pairs."""
    launches: list[str] = []

    def two_layers(x: Tensor, v: Tensor, lengths: Any, weights: Any, key_weights: Any, reverse: bool) -> Any:
        launches.append("pair")
        with torch.no_grad():
            key = layer.gru_layer(v, lengths, key_weights, None, reverse)
        return layer.gru_layer(x, lengths, weights, None, reverse), key

    monkeypatch.setattr(operators, "gru_backend", lambda x, hidden=None: ("cuda", "a test"))
    monkeypatch.setattr(layer, "gru_layer_pair", two_layers)
    monkeypatch.setattr(layer, "fit_one_launch", lambda *_: True)
    return launches


@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
def test_layer_by_layer_it_is_the_same_with_the_same_random_numbers(kind: type[GRU], in_step: list[str]) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    gru, key_gru = pair(kind)
    x, v, lengths = inputs()
    got = results(run_together, gru, x, key_gru, v, lengths)
    assert in_step == ["pair", "pair"]
    for mine, want in zip(got, results(separately, gru, x, key_gru, v, lengths), strict=True):
        assert torch.equal(mine, want)


@pytest.mark.parametrize("other", [{"hidden_size": 4}, {"num_layers": 1, "dropout": 0}, {"bidirectional": False}])
def test_grus_of_other_sizes_are_two_calls(other: dict[str, Any], in_step: list[str]) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    gru, key_gru = pair(**other)
    x, v, lengths = inputs()
    results(run_together, gru, x, key_gru, v, lengths)
    assert in_step == []


def test_errors_are_those_of_a_call(in_step: list[str]) -> None:
    gru, key_gru = pair()
    x, v, lengths = inputs()
    with pytest.raises(ValueError, match="lengths must be"):
        run_together(gru, x, key_gru, v, lengths[:2])
    with pytest.raises((ValueError, RuntimeError), match="input"):
        run_together(gru, x[..., :2], key_gru, v, lengths)
    assert in_step == []
    run_together(gru, x, key_gru, v, lengths)
    assert in_step == ["pair", "pair"], "these would have been run together"
