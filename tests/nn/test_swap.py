"""accelerate: every torch.nn.GRU of a model becomes ours and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from crrl import ops
from crrl.nn import GRU, StepwiseBiGRU, accelerate, decelerate


class Own(nn.GRU):
    """Somebody's GRU, with a forward of its own."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, h_n = super().forward(input, hx)
        return y + 1, h_n


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"gru": nn.GRU(3, 5, 2, bidirectional=True), "head": nn.Linear(10, 3)})
        self.decoder = nn.Sequential(nn.GRU(3, 4))
        self.again = self.decoder[0]

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encoder["gru"](x)
        y, _ = self.decoder(self.encoder["head"](y))
        result: Tensor = self.again(y[..., :3])[0]
        return result


@pytest.mark.usefixtures("policy")
def test_every_gru_is_swapped_and_the_model_computes_the_same() -> None:
    torch.manual_seed(0)
    model = Model().double()
    before, x = copy.deepcopy(model), torch.randn(6, 4, 3, dtype=torch.float64)
    swaps = accelerate(model)
    assert [swap[:2] for swap in swaps] == [("encoder.gru", True), ("decoder.0", True)]
    assert type(model.encoder["gru"]) is type(model.again) is GRU
    torch.testing.assert_close(model(x), before(x), rtol=1e-9, atol=1e-11)
    model.load_state_dict(before.state_dict(), strict=True)


def test_parameters_hooks_flags_and_sharing_remain() -> None:
    model = Model().eval()
    model.encoder["gru"].train()
    calls: list[str] = []
    model.again.register_forward_hook(lambda *_: calls.append("hook"))
    gru, parameters = model.again, list(model.parameters())
    accelerate(model)
    assert model.again is model.decoder[0] is gru
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.encoder["gru"].training
    assert not model.again.training
    model(torch.randn(6, 4, 3))
    assert calls == ["hook", "hook"]


def test_an_optimizer_made_before_still_trains() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerate(model)
    before = model.encoder["gru"].weight_hh_l0.detach().clone()
    model(torch.randn(6, 4, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.encoder["gru"].weight_hh_l0, before)


def test_a_bare_gru_is_swapped_itself() -> None:
    gru: nn.Module = nn.GRU(3, 5)
    with ops.use_backends("gru_layer=reference"):
        assert accelerate(gru) == [("", True, "reference: requested")]
    assert type(gru) is GRU


class Derived(GRU):
    """Somebody's own, derived from ours."""


@pytest.mark.parametrize(
    ("swap_all", "gru", "reason"),
    [
        (accelerate, Own(3, 5), "Own is a class of its own"),
        (accelerate, GRU(3, 5), "a crrl.nn.GRU already"),
        (accelerate, StepwiseBiGRU(3, 5), "a crrl.nn.StepwiseBiGRU already"),
        (accelerate, parametrizations.weight_norm(nn.GRU(3, 5), "weight_hh_l0"), "parametrized"),
        (decelerate, StepwiseBiGRU(3, 5), "StepwiseBiGRU computes what torch.nn.GRU does not"),
        (decelerate, Derived(3, 5), "Derived computes what torch.nn.GRU does not"),
        (decelerate, parametrizations.weight_norm(GRU(3, 5), "weight_hh_l0"), "parametrized"),
    ],
)
def test_what_is_left_alone_is_reported_with_the_reason(
    swap_all: Callable[[nn.Module], list[Any]], gru: nn.GRU, reason: str
) -> None:
    kind = type(gru)
    (swap,) = swap_all(nn.Sequential(gru))
    assert swap[:2] == ("0", False)
    assert reason in swap.reason
    assert type(gru) is kind


def test_a_model_without_grus_reports_nothing() -> None:
    assert accelerate(nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3), nn.GRUCell(3, 3))) == []


def test_a_gru_swapped_first_can_be_parametrized_and_restored() -> None:
    gru = nn.GRU(3, 5)
    accelerate(gru)
    parametrizations.weight_norm(gru, "weight_hh_l0")
    assert isinstance(gru, GRU)
    nn.utils.parametrize.remove_parametrizations(gru, "weight_hh_l0")
    assert type(gru) is GRU


def test_decelerate_undoes_accelerate() -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(6, 4, 3)
    parameters, want = list(model.parameters()), model(x)
    calls: list[str] = []
    model.again.register_forward_hook(lambda *_: calls.append("hook"))
    accelerate(model)
    assert [swap[:2] for swap in decelerate(model)] == [("encoder.gru", True), ("decoder.0", True)]
    assert type(model.encoder["gru"]) is type(model.again) is nn.GRU
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert torch.equal(model(x), want)
    assert calls == ["hook", "hook"]
    assert decelerate(model) == []


def test_decelerate_takes_a_gru_that_was_built_as_ours() -> None:
    gru: nn.Module = GRU(3, 5, 2, bidirectional=True)
    x = torch.randn(6, 4, 3)
    want, _ = gru(x)
    assert [swap[:2] for swap in decelerate(gru)] == [("", True)]
    assert type(gru) is nn.GRU
    torch.testing.assert_close(gru(x)[0], want)
