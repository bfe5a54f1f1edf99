"""crrl::gru_layer as PyTorch sees it: opcheck, compile, export, autocast, second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crrl.ops.gru import layer
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
needs_bf16 = pytest.mark.skipif(native.gru_isa(bf16=True) is None, reason="this processor has no bfloat16")

LENGTHS = torch.tensor([5, 2, 7])


def tensors(
    batch_first: bool = True, directions: int = 2, bias: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """x, h0 and the flat weights of a layer of 4 channels and 6 units on 3 rows of 7 frames, all with gradient."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()

    one = [(18, 4), (18, 6), (18,), (18,)][: 4 if bias else 2]
    weights = [random(*shape) for _ in range(directions) for shape in one]
    return random(*((3, 7, 4) if batch_first else (7, 3, 4))), random(directions, 3, 6), weights


def as_weights(flat: list[Tensor]) -> list[Weights]:
    return [tuple(flat[i : i + 4]) for i in range(0, len(flat), 4)]  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("directions", "bias", "state", "lengths"), [(2, True, True, LENGTHS), (1, False, False, None)]
)
def test_opcheck(
    dtype: torch.dtype, batch_first: bool, directions: int, bias: bool, state: bool, lengths: Tensor | None
) -> None:
    x, h0, weights = tensors(batch_first, directions, bias, dtype)
    arguments = (x, lengths, h0 if state else None, weights, 7, batch_first, True, True)
    torch.library.opcheck(torch.ops.crrl.gru_layer.default, arguments, atol=1e-2, rtol=1e-2)


def test_opcheck_of_a_repeated_input() -> None:
    x, _, weights = tensors()
    arguments = (x[:, :1].detach().requires_grad_(), None, None, weights, 7, True, True, True)
    torch.library.opcheck(torch.ops.crrl.gru_layer.default, arguments)


@pytest.mark.parametrize("given", [7, 1], ids=["frames", "repeated"])
def test_opcheck_of_the_backward(given: int) -> None:
    x, h0, weights = tensors()
    x, h0, weights = x.detach()[:, :given], h0.detach(), [weight.detach() for weight in weights]
    y, h_n, reserve = torch.ops.crrl.gru_layer(x, LENGTHS, h0, weights, 7, True, True, True)
    arguments = (torch.randn_like(y), torch.randn_like(h_n), x, LENGTHS, h0, weights, reserve, 7, True, True, True)
    torch.library.opcheck(torch.ops.crrl.gru_layer_backward.default, arguments)


def as_function(x: Tensor, h0: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    return layer.gru_layer(x, LENGTHS, as_weights(weights), h0)


def results(function: Any, x: Tensor, h0: Tensor, weights: list[Tensor]) -> list[Tensor]:
    y, h_n = function(x, h0, weights)
    return [y.detach(), h_n.detach(), *torch.autograd.grad(y.square().sum() + h_n.sin().sum(), [x, h0, *weights])]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_traces_it_without_a_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(as_function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for got, want in zip(results(compiled, *tensors()), results(as_function, *tensors()), strict=True):
        torch.testing.assert_close(got, want)


def test_export_keeps_it_as_one_operator() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            _, h0, weights = tensors()
            self.h0, self.weights = torch.nn.Parameter(h0), torch.nn.ParameterList(weights)

        def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return layer.gru_layer(x, lengths, as_weights(list(self.weights)), self.h0)

    module, x = Layer(), tensors()[0].detach()
    exported = torch.export.export(module, (x, LENGTHS))
    assert [node for node in exported.graph.nodes if node.target is torch.ops.crrl.gru_layer.default]
    for got, want in zip(exported.module()(x, LENGTHS), module(x, LENGTHS), strict=True):
        assert torch.equal(got, want)


@needs_bf16
def test_autocast_computes_in_bf16() -> None:
    x, h0, weights = tensors()
    narrow = [tensor.detach().bfloat16() for tensor in (x, h0, *weights)]
    with torch.autocast("cpu", torch.bfloat16):
        y, h_n = as_function(x, h0, weights)
    want = as_function(narrow[0], narrow[1], narrow[2:])
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, want[0])
    assert torch.equal(h_n, want[1])
    gradients = torch.autograd.grad(y.float().sum(), [x, *weights])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def second_derivatives(function: Any, x: Tensor, h0: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the norm of the gradient, as a gradient penalty takes it."""
    y, h_n = function(x, h0, weights)
    firsts = torch.autograd.grad(y.square().sum() + h_n.exp().sum(), [x, h0, *weights], create_graph=True)
    return torch.autograd.grad(sum(first.square().sum() for first in firsts), [x, h0, *weights])  # type: ignore[arg-type]


def test_second_derivatives_are_those_of_the_reference() -> None:
    def exact(x: Tensor, h0: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        return reference.gru_layer(x, LENGTHS, as_weights(weights), h0)

    want = second_derivatives(exact, *tensors(dtype=torch.float64))
    want32 = second_derivatives(exact, *tensors())
    for got, own, true in zip(second_derivatives(as_function, *tensors()), want32, want, strict=True):
        # Twice the reference's own error in fp32, whose roundings these share, and one rounding.
        assert (got.double() - true).norm() <= 2 * (own.double() - true).norm() + 1e-6 * true.norm()


def test_a_gradient_that_nobody_asks_for_is_not_computed() -> None:
    x, h0, weights = tensors()
    y, _ = layer.gru_layer(x.detach(), LENGTHS, as_weights([weight.detach() for weight in weights]), h0)
    (dh0,) = torch.autograd.grad(y.sum(), h0)
    assert dh0.shape == h0.shape
    with torch.no_grad():
        assert not as_function(x, h0, weights)[0].requires_grad
