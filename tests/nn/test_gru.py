"""crrl.nn.GRU gives what torch.nn.GRU gives: values, final states and the gradient of everything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crrl import ops
from crrl.nn import GRU

Evaluate = Callable[..., list[Tensor]]
FLAGS = list(product([1, 3], [False, True], [False, True], [False, True]))
"""layers, bidirectional, bias, batch_first"""


def twins(*arguments: object, dtype: torch.dtype = torch.float64, **options: object) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights."""
    torch.manual_seed(0)
    theirs = nn.GRU(*arguments, dtype=dtype, **options)
    ours = GRU(*arguments, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    """Equal up to the order of summation in fp64."""
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional", "bias", "batch_first"), FLAGS)
@pytest.mark.usefixtures("policy")
def test_every_form_is_torchs_in_fp64(
    evaluate: Evaluate, layers: int, bidirectional: bool, bias: bool, batch_first: bool, with_h0: bool
) -> None:
    ours, theirs = twins(3, 5, layers, bias, batch_first, bidirectional=bidirectional)
    x, h0 = random(4, 6, 3), random(layers * (2 if bidirectional else 1), 4 if batch_first else 6, 5)
    state = h0 if with_h0 else None
    assert_same(evaluate(ours, x, state), evaluate(theirs, x, state))


@pytest.mark.parametrize(("batch", "frames", "features", "hidden"), [(1, 1, 1, 1), (1, 9, 7, 3), (7, 1, 2, 17)])
@pytest.mark.usefixtures("policy")
def test_odd_sizes_are_torchs_in_fp64(evaluate: Evaluate, batch: int, frames: int, features: int, hidden: int) -> None:
    ours, theirs = twins(features, hidden, 2, batch_first=True, bidirectional=True)
    x = random(batch, frames, features)
    assert_same(evaluate(ours, x), evaluate(theirs, x))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.usefixtures("policy")
def test_unbatched_input_is_torchs(evaluate: Evaluate, batch_first: bool, with_h0: bool) -> None:
    ours, theirs = twins(3, 5, 2, batch_first=batch_first, bidirectional=True)
    x, h0 = random(6, 3), random(4, 5) if with_h0 else None
    assert_same(evaluate(ours, x, h0), evaluate(theirs, x, h0))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.usefixtures("policy")
def test_strided_inputs_are_torchs(evaluate: Evaluate, batch_first: bool) -> None:
    ours, theirs = twins(3, 5, 2, batch_first=batch_first, bidirectional=True)
    x = random(6, 8, 3).detach()[:, ::2].requires_grad_()
    h0 = random(4, 5, 6 if batch_first else 4).detach().transpose(1, 2).requires_grad_()
    assert not x.is_contiguous()
    assert_same(evaluate(ours, x, h0), evaluate(theirs, x, h0))


@pytest.mark.usefixtures("policy")
def test_a_time_first_output_can_be_viewed_as_torchs_can() -> None:
    y, _ = GRU(3, 5, bidirectional=True)(torch.randn(6, 4, 3))
    assert y.is_contiguous()


@pytest.mark.usefixtures("policy")
def test_an_empty_batch_is_served(evaluate: Evaluate) -> None:
    ours, theirs = twins(3, 5, 2, batch_first=True, bidirectional=True)
    x = random(0, 6, 3)
    assert_same(evaluate(ours, x), evaluate(theirs, x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("policy")
def test_dropout_acts_between_layers_in_training_only(evaluate: Evaluate, training: bool) -> None:
    ours, theirs = twins(3, 5, 3, dropout=1.0, bidirectional=True)  # 1: everything is dropped, so nothing is random
    x = random(6, 4, 3)
    assert_same(evaluate(ours.train(training), x), evaluate(theirs.train(training), x))


def test_dropout_keeps_its_share_and_scales_it() -> None:
    ours, _ = twins(3, 5, 2, batch_first=True, dropout=0.3)
    layers = [GRU(3, 5, batch_first=True).double(), GRU(5, 5, batch_first=True).double()]
    for i, layer in enumerate(layers):
        layer.load_state_dict({k.replace(f"l{i}", "l0"): v for k, v in ours.state_dict().items() if k.endswith(str(i))})
    x = random(4, 6, 3)
    with ops.use_backends("reference"):
        torch.manual_seed(3)
        got, _ = ours(x)
        torch.manual_seed(3)
        want, _ = layers[1](F.dropout(layers[0](x)[0], 0.3))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (2, True, False), (3, True, True)])
def test_the_fastest_backend_errs_no_more_than_torch(
    evaluate: Evaluate, dtype: torch.dtype, layers: int, bidirectional: bool, bias: bool
) -> None:
    ours, theirs = twins(13, 37, layers, bias, bidirectional=bidirectional, dtype=dtype)
    exact = copy.deepcopy(theirs).double()
    x, h0 = random(11, 9, 13, dtype=dtype), random(layers * (2 if bidirectional else 1), 9, 37, dtype=dtype)
    with ops.use_backends("auto"):
        results = evaluate(ours, x, h0), evaluate(theirs, x, h0)
    want = evaluate(exact, x.detach().double().requires_grad_(), h0.detach().double().requires_grad_())
    for got, peer, true in zip(*results, want, strict=True):
        assert got.dtype == dtype
        # Twice torch's own error and a few roundings: two correct orders of summation differ by that much.
        bound = 2 * (peer.double() - true).norm() + torch.finfo(dtype).eps * true.norm()
        assert (got.double() - true).norm() <= bound


@pytest.mark.parametrize("requires", ["input", "hx", "weight_hh_l1"])
@pytest.mark.usefixtures("policy")
def test_gradients_for_one_input_alone(requires: str) -> None:
    gradients = []
    for module in twins(3, 5, 2, bidirectional=True):
        inputs = {"input": random(6, 4, 3).detach(), "hx": random(4, 4, 5).detach()}
        module.requires_grad_(False)
        leaf = (inputs if requires in inputs else dict(module.named_parameters()))[requires].requires_grad_()
        gradients += torch.autograd.grad(module(**inputs)[0].square().sum(), leaf)
    assert_same(gradients[:1], gradients[1:])


def test_without_gradients_nothing_is_recorded() -> None:
    gru = GRU(3, 5, 2)
    with torch.no_grad():
        assert gru(torch.randn(6, 4, 3))[0].grad_fn is None
    assert gru.requires_grad_(False)(torch.randn(6, 4, 3))[0].grad_fn is None


@pytest.mark.usefixtures("policy")
def test_double_backward_in_fp64() -> None:
    gru = GRU(2, 3, 2, bidirectional=True, batch_first=True).double()
    names = [name for name, _ in gru.named_parameters()]

    def run(x: Tensor, h0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = torch.func.functional_call(gru, dict(zip(names, weights, strict=True)), (x, h0))
        return result

    weights = [weight.detach().clone().requires_grad_() for weight in gru.parameters()]
    assert torch.autograd.gradgradcheck(run, (random(2, 3, 2), random(4, 2, 3), *weights), fast_mode=True)


@pytest.mark.usefixtures("policy")
def test_double_backward_in_fp32_is_the_fp64_one() -> None:
    penalties = []
    for module in twins(3, 5, 2, bidirectional=True, dtype=torch.float32):
        module.to(torch.float32 if isinstance(module, GRU) else torch.float64)
        x = random(6, 4, 3, dtype=module.weight_hh_l0.dtype)
        (slope,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), [x, *module.parameters()]))
    for got, want in zip(*penalties, strict=True):
        assert (got.double() - want).norm() <= 1e-5 * want.norm()  # roundings of 6e-8 along two backward passes
