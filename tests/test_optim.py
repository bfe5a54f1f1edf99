"""The flat optimizers against torch.optim's: weights, states both ways, clipping, what follows, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from crrl import ops
from crrl.optim import FlatAdam, FlatOptimizer, FlatSGD, flatten

PAIRS: dict[str, tuple[Callable[..., FlatOptimizer], Callable[..., torch.optim.Optimizer], dict[str, object]]] = {
    "sgd": (FlatSGD, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (FlatSGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}),
    "nesterov": (FlatSGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": (FlatAdam, torch.optim.Adam, {"lr": 0.01}),
    "decay": (FlatAdam, torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
}


@pytest.fixture(params=["auto", "reference"], autouse=True)
def policy(request: pytest.FixtureRequest) -> Iterator[None]:
    with ops.use_backends(request.param):
        yield


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, max_norm: float | None = None) -> nn.Module:
    for step in steps:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return model


def assert_same(got: nn.Module, want: nn.Module) -> None:
    for (name, one), other in zip(got.named_parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_is_torchs(name: str) -> None:
    flat, plain, settings = PAIRS[name]
    ours, theirs = network(), network()
    train(ours, flat(ours.parameters(), **settings), range(20))
    assert_same(ours, train(theirs, plain(theirs.parameters(), **settings), range(20)))


@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_gradients_are_clipped_as_by_torch(max_norm: float) -> None:
    ours, theirs = network(), network()
    train(ours, FlatSGD(ours.parameters(), lr=0.1, max_norm=max_norm), range(5))
    assert_same(ours, train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), range(5), max_norm))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_state_goes_both_ways(name: str, ours_first: bool) -> None:
    flat, plain, settings = PAIRS[name]
    first, second = (flat, plain) if ours_first else (plain, flat)
    model, whole = network(), network()
    begun = first(model.parameters(), **settings)
    train(model, begun, range(8))
    other = copy.deepcopy(model)
    resumed = second(other.parameters(), **settings)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    train(other, resumed, range(8, 16))
    assert_same(other, train(whole, plain(whole.parameters(), **settings), range(16)))


def test_clipping_survives_a_state_of_torchs() -> None:
    optimizer = FlatAdam(network().parameters(), max_norm=2.0)
    optimizer.load_state_dict(torch.optim.Adam(network().parameters()).state_dict())
    assert optimizer.settings()["max_norm"] == 2.0


def test_a_loaded_state_is_not_shared_with_its_source() -> None:
    model = network()
    optimizer = FlatAdam(model.parameters())
    train(model, optimizer, range(2))
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    other = FlatAdam(network().parameters())
    other.load_state_dict(state)
    train(model, other, range(0))
    other.steps = 99
    assert float(state["state"][0]["step"]) == float(before["state"][0]["step"]) == 2
    assert torch.equal(state["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_schedulers_of_torch_drive_it() -> None:
    ours, theirs = network(), network()
    for model, kind in ((ours, FlatAdam), (theirs, torch.optim.Adam)):
        optimizer = kind(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=12)
        for step in range(12):
            train(model, optimizer, range(step, step + 1))
            schedule.step()
    assert_same(ours, theirs)


def test_what_follows_obeys_eq_5_with_its_own_momenta() -> None:
    encoder, head = nn.Linear(5, 4), nn.Linear(4, 4)
    key_encoder, key_head = copy.deepcopy(encoder), nn.Linear(4, 4)
    start = [parameter.detach().clone() for parameter in (*key_encoder.parameters(), *key_head.parameters())]
    follow = [(key_encoder.parameters(), 0.75), (key_head.parameters(), 1.0)]
    optimizer = FlatSGD([*encoder.parameters(), *head.parameters()], lr=0.1, follow=follow)
    train(nn.Sequential(encoder, head), optimizer, range(1))
    for key, query, before in zip(key_encoder.parameters(), encoder.parameters(), start[:2], strict=True):
        torch.testing.assert_close(key, 0.75 * before + 0.25 * query)
    for key, before in zip(key_head.parameters(), start[2:], strict=True):
        assert torch.equal(key, before)


@pytest.mark.parametrize(("flat", "settings"), [(FlatSGD, {"momentum": 0.9}), (FlatAdam, {"max_norm": 0.5})])
def test_the_first_parameters_alone_may_be_followed(
    flat: Callable[..., FlatOptimizer], settings: dict[str, object]
) -> None:
    """As in a phase that has a decoder beside its momentum encoder."""
    model, alone = network(), network()
    keys = [copy.deepcopy(parameter) for parameter in model[0].parameters()]
    start = [key.detach().clone() for key in keys]
    follow = [(keys[:1], 0.75), (keys[1:], 0.5)]
    train(model, flat(model.parameters(), lr=0.1, follow=follow, **settings), range(1))
    train(alone, flat(alone.parameters(), lr=0.1, **settings), range(1))
    for got, want in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(got, want)  # being followed changes nothing
    for key, before, query, m in zip(keys, start, model[0].parameters(), (0.75, 0.5), strict=True):
        torch.testing.assert_close(key, m * before + (1 - m) * query)


def test_parameters_are_views_of_one_buffer_and_stay_so() -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    flat = flatten(model.parameters())
    assert torch.equal(flat, torch.cat([value.reshape(-1) for value in before]))
    flat.add_(1)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value + 1)
    assert flatten(model.parameters()).data_ptr() == flat.data_ptr()
    model.load_state_dict(network().state_dict())
    assert flatten(model.parameters()).data_ptr() == flat.data_ptr()


def test_parameters_out_of_order_get_a_buffer_of_their_own() -> None:
    model = network()
    flat = flatten(model.parameters())
    turned = flatten(list(model.parameters())[::-1])
    assert turned.data_ptr() != flat.data_ptr()
    assert torch.equal(turned[:3], model[2].bias)


@pytest.mark.parametrize(
    ("parameters", "settings", "message"),
    [
        ([torch.zeros(2, dtype=torch.float64)], {}, "float32"),
        ([torch.zeros(2), torch.zeros(2, device="meta")], {}, "one device"),
        ([torch.zeros(2)], {"nesterov": True}, "momentum"),
        ([torch.zeros(2)], {"follow": [([torch.zeros(3)], 0.9)]}, "shapes"),
        ([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)]}], {}, "one parameter group"),
    ],
)
def test_it_refuses_what_it_cannot_do(parameters: list[Tensor], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlatSGD(parameters, **settings)  # type: ignore[arg-type]


def test_a_missing_gradient_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a gradient"):
        FlatSGD(network().parameters()).step()


def test_parameters_that_have_moved_are_an_error() -> None:
    model = network()
    optimizer = FlatSGD(model.parameters())
    model.double().float()
    with pytest.raises(ValueError, match="left the optimizer's buffer"):
        train(model, optimizer, range(1))


def test_a_state_of_other_parameters_is_refused() -> None:
    other = nn.Linear(5, 9)
    state = FlatAdam([*other.parameters(), torch.zeros(1), torch.zeros(1)]).state_dict()
    with pytest.raises(ValueError, match="other parameters"):
        FlatAdam(network().parameters()).load_state_dict(state)


def test_a_copy_of_a_module_is_saved_as_if_it_had_never_been_flattened(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 2))
    torch.save(model[1].state_dict(), tmp_path / "only.pt")
    optimizer = FlatAdam(model.parameters(), lr=1e-3)
    model(torch.randn(4, 100)).sum().backward()
    optimizer.step()
    torch.save(copy.deepcopy(model[1]).state_dict(), tmp_path / "part.pt")
    assert (tmp_path / "part.pt").stat().st_size == (tmp_path / "only.pt").stat().st_size
    save_model(copy.deepcopy(model), tmp_path / "model.safetensors")
    other = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 2))
    load_model(other, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    model(torch.randn(4, 100)).sum().backward()
    optimizer.step()  # the model itself is where it was
