"""What the tests of the layers share: the policies, and a module's results with all its gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from crrl import ops


@pytest.fixture(params=["reference", "gru_layer=torch", "auto"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way of choosing the backend, in force during the test."""
    with ops.use_backends(request.param):
        yield request.param


@pytest.fixture
def evaluate() -> Callable[..., list[Tensor]]:
    return _evaluate


def _evaluate(
    module: nn.Module, input: Tensor | PackedSequence, hx: Tensor | None = None, lengths: Tensor | None = None
) -> list[Tensor]:
    """y, h_n and, under a fixed random cotangent, the gradients of input, hx and every parameter."""
    y, h_n = module(input, hx) if lengths is None else module(input, hx, lengths)
    generator = torch.Generator().manual_seed(1)
    outputs = [y.data if isinstance(y, PackedSequence) else y, h_n]
    scalar = sum((out * torch.randn(out.shape, generator=generator).to(out.dtype)).sum() for out in outputs)
    leaves = [input.data if isinstance(input, PackedSequence) else input, *module.parameters()]
    return [*outputs, *torch.autograd.grad(scalar, leaves if hx is None else [*leaves, hx])]


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """What a test has compiled does not count towards the recompilations that torch allows the next one."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
