"""Every backend of the GRU layer against the reference: outputs and the gradient of every input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.ops import manual_gru, torch_gru
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

BACKENDS = {"manual": manual_gru.gru_layer, "torch": torch_gru.gru_layer}


def make_case(
    dtype: torch.dtype, lengths: list[int], frames: int, hidden: int, directions: int, bias: bool = True
) -> tuple[Tensor, Tensor, list[Weights], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, dtype=torch.float64, generator=generator)).to(dtype).requires_grad_()

    def direction() -> Weights:
        biases = (random(3 * hidden), random(3 * hidden)) if bias else (None, None)
        return (random(3 * hidden, 5), random(3 * hidden, hidden), *biases)

    batch = len(lengths)
    weights = [direction() for _ in range(directions)]
    return random(batch, frames, 5), torch.tensor(lengths), weights, random(directions, batch, hidden)


def run(layer: object, x: Tensor, lengths: Tensor, weights: list[Weights], h0: Tensor | None) -> list[Tensor]:
    """y, h_n and the gradients of every input under a fixed random cotangent."""
    y, h_n = layer(x, lengths, weights, h0)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    scalar = sum(
        (out * torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)).sum() for out in (y, h_n)
    )
    inputs = [x, *(tensor for direction in weights for tensor in direction if tensor is not None)]
    return [y, h_n, *torch.autograd.grad(scalar, inputs if h0 is None else [*inputs, h0])]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize(
    ("lengths", "frames", "hidden", "directions", "bias"),
    [
        ([3, 7, 1, 6, 2], 7, 4, 2, True),
        ([3, 7, 1, 6, 2], 7, 4, 2, False),
        ([4, 4, 4], 4, 7, 2, True),
        ([2, 5], 9, 3, 1, True),  # a batch padded further than its longest row
        ([1], 1, 1, 2, True),
        ([13] * 3, 13, 33, 1, True),
    ],
)
def test_a_backend_is_the_reference_in_fp64(
    backend: str, with_h0: bool, lengths: list[int], frames: int, hidden: int, directions: int, bias: bool
) -> None:
    x, length, weights, h0 = make_case(torch.float64, lengths, frames, hidden, directions, bias)
    state = h0 if with_h0 else None
    expected = run(reference.gru_layer, x, length, weights, state)
    for got, want in zip(run(BACKENDS[backend], x, length, weights, state), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp32_error_is_no_larger_than_the_references_own(backend: str) -> None:
    case64 = make_case(torch.float64, [9, 20, 14, 1], 20, 64, 2)
    case32 = make_case(torch.float32, [9, 20, 14, 1], 20, 64, 2)
    exact = run(reference.gru_layer, *case64)
    # Twice the reference's error and one rounding: two correct orders of summation differ by that much.
    for got, ours, want in zip(run(BACKENDS[backend], *case32), run(reference.gru_layer, *case32), exact, strict=True):
        bound = 2 * (ours.double() - want).norm() + 1e-7 * want.norm()
        assert (got.double() - want).norm() <= bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_garbage_in_padded_frames_reaches_nothing(backend: str) -> None:
    x, lengths, weights, _ = make_case(torch.float32, [3, 7, 1], 7, 4, 2)
    poisoned = x.detach().clone()
    for row, length in enumerate(lengths.tolist()):
        poisoned[row, length:] = torch.nan
    poisoned.requires_grad_()
    for got, want in zip(
        run(BACKENDS[backend], poisoned, lengths, weights, None),
        run(BACKENDS[backend], x, lengths, weights, None),
        strict=True,
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs_are_taken_as_they_are(backend: str) -> None:
    x, lengths, weights, h0 = make_case(torch.float64, [3, 5, 2], 5, 4, 2)
    strided = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not strided.is_contiguous()
    for got, want in zip(
        run(BACKENDS[backend], strided, lengths, weights, h0),
        run(reference.gru_layer, x, lengths, weights, h0),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_the_manual_backend_refuses_a_second_derivative() -> None:
    x, lengths, weights, _ = make_case(torch.float64, [2, 3], 3, 2, 1)
    y, _ = manual_gru.gru_layer(x, lengths, weights)
    with pytest.raises(RuntimeError, match="gru_layer=reference"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_without_gradients_torch_serves() -> None:
    case = ops.Case("cpu", torch.float32)
    with ops.use_backends("auto"):
        assert dict(row[:2] for row in ops.choices(case))["gru_layer"] == "manual"
        with torch.no_grad():
            assert dict(row[:2] for row in ops.choices(case))["gru_layer"] == "torch"
