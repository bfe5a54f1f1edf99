"""What surrounds the CUDA kernels, against the reference: on a CPU, with the kernels' definition in their place.

Then with the kernels themselves, emulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.errors import CrrlError
from crrl.ops import cuda
from crrl.ops.gru import cuda as cuda_gru
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

RAGGED = [3, 7, 1, 6, 2]


@pytest.fixture(params=["definition", "emulation"], autouse=True)
def native(request: pytest.FixtureRequest, fake_cuda: Any, use_as_cuda: Callable[[Any], None]) -> Any:
    if request.param == "definition":
        return fake_cuda
    emulated = request.getfixturevalue("emulated")
    use_as_cuda(emulated)
    return emulated


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Memory that nobody has written is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Layer:
    """The arguments of a layer: 5 channels, rows of RAGGED lengths in 8 frames, in float64 and in another dtype."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        hidden: int = 4,
        directions: int = 2,
        bias: bool = True,
        state: bool = True,
        lengths: list[int] | None = RAGGED,
        repeated: bool = False,
        seed: int = 0,
    ):
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.hidden, self.directions = dtype, hidden, directions
        self.lengths = None if lengths is None else torch.tensor(lengths)
        self.x = self.random(5, 1 if repeated else 8, 5)
        one = [(3 * hidden, 5), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)][: 4 if bias else 2]
        self.weights = [self.random(*shape) for _ in range(directions) for shape in one]
        self.h0 = self.random(directions, 5, hidden) if state else None
        self.dy, self.dh_n = self.random(5, 8, directions * hidden), self.random(directions, 5, hidden)

    def random(self, *shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, dtype=torch.float64, generator=self.generator)).to(self.dtype)

    def expected(self, dtype: torch.dtype, reverse: bool) -> list[Tensor]:
        """y, h_n, dx, dh0 (if there is an h0) and the gradients of the weights, by the reference in this dtype."""
        leaves = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in (self.x, *self.weights)]
        h0 = None if self.h0 is None else self.h0.detach().clone().to(dtype).requires_grad_()
        step = len(self.weights) // self.directions
        per_direction: list[Weights] = [
            (*leaves[i : i + step], *[None] * (4 - step))  # type: ignore[misc]
            for i in range(1, len(leaves), step)
        ]
        outputs = reference.gru_layer(leaves[0], self.lengths, per_direction, h0, reverse, 8)
        inputs = [leaves[0], *([] if h0 is None else [h0]), *leaves[1:]]
        gradients = torch.autograd.grad(outputs, inputs, [self.dy.to(dtype), self.dh_n.to(dtype)])
        return [*(output.detach() for output in outputs), *gradients]

    def made(self, reverse: bool, batch_first: bool = True, mode: str | None = None) -> list[Tensor]:
        """The same by the CUDA path."""
        turn = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1).contiguous())
        arguments = turn(self.x), self.lengths, self.h0, self.weights
        flags = 8, batch_first, reverse
        y, h_n, reserve = cuda_gru.forward(*arguments, *flags, True, mode)
        dy = turn(self.dy)
        dx, dh0, gradients = cuda_gru.backward(dy, self.dh_n, *arguments, reserve, *flags, True, mode)
        if not batch_first:
            y, dx = y.transpose(0, 1), dx.transpose(0, 1)
        return [y, h_n, dx, *([] if self.h0 is None else [dh0]), *gradients]


def check(layer: Layer, reverse: bool = True, batch_first: bool = True) -> None:
    exact, rounded = layer.expected(torch.float64, reverse), layer.expected(layer.dtype, reverse)
    made = layer.made(reverse, batch_first, "fp32" if layer.dtype == torch.float32 else None)
    for got, own, want in zip(made, rounded, exact, strict=True):
        assert got.dtype == layer.dtype
        assert got.shape == want.shape
        # Twice the error of the reference in this dtype, and two roundings or, in float32, a few more.
        bound = 2 * (own.double() - want).norm() + max(2 * torch.finfo(layer.dtype).eps, 2e-6) * want.norm()
        assert (got.double() - want).norm() <= bound


CASES: list[dict[str, Any]] = [
    {},
    {"directions": 1, "lengths": None},
    {"bias": False, "state": False},
    {"repeated": True},
    {"repeated": True, "lengths": None, "directions": 1, "bias": False},
    {"hidden": 33},
    {"hidden": 1, "lengths": [8, 8, 8, 8, 8]},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("reverse", [True, False], ids=["bidirectional", "stepwise"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["BTI", "TBI"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_is_the_reference(case: dict[str, Any], reverse: bool, batch_first: bool, dtype: torch.dtype) -> None:
    check(Layer(dtype, **case), reverse, batch_first)


def test_strided_inputs_and_gradients() -> None:
    layer = Layer()
    layer.x = torch.stack([layer.x, layer.x], 3)[..., 0]
    layer.dy = layer.dy.transpose(0, 1).contiguous().transpose(0, 1)
    layer.dh_n = layer.dh_n.transpose(1, 2).contiguous().transpose(1, 2)
    layer.weights = [weight.repeat_interleave(2, 0)[::2] for weight in layer.weights]
    check(layer)
    layer.dy = torch.full((), 0.25).expand(5, 8, 8)
    check(layer)


def test_nothing_in_padded_frames_reaches_anything() -> None:
    layer, clean = Layer(), Layer().made(True, mode="fp32")
    for row, length in enumerate(RAGGED):
        layer.x[row, length:] = layer.dy[row, length:] = torch.nan
    assert all(torch.equal(got, want) for got, want in zip(layer.made(True, mode="fp32"), clean, strict=True))


def test_without_gradient_nothing_is_kept_and_the_results_are_the_same() -> None:
    layer = Layer()
    arguments = layer.x, layer.lengths, layer.h0, layer.weights, 8, True, True
    trained, inferred = (cuda_gru.forward(*arguments, keep) for keep in (True, False))
    assert trained[2].numel() == cuda_gru.reserve_size(2, 5, 8, 4)
    assert inferred[2].numel() == 0
    assert all(torch.equal(a, b) for a, b in zip(trained[:2], inferred[:2], strict=True))


def test_a_gradient_of_x_that_nobody_asks_for_is_not_computed() -> None:
    layer = Layer()
    arguments, flags = (layer.x, layer.lengths, layer.h0, layer.weights), (8, True, True)
    reserve = cuda_gru.forward(*arguments, *flags, True)[2]
    dx, *_ = cuda_gru.backward(layer.dy, layer.dh_n, *arguments, reserve, *flags, False)
    assert dx.numel() == 0


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_two_encoders_in_one_launch_give_what_each_gives_alone(batch_first: bool, keep: bool) -> None:
    query, key = Layer(state=False), Layer(state=False, seed=1)
    x, v = (t.x if batch_first else t.x.transpose(0, 1).contiguous() for t in (query, key))
    pair = cuda_gru.forward_pair(x, v, query.lengths, query.weights, key.weights, batch_first, True, keep)
    alone = [
        *cuda_gru.forward(x, query.lengths, None, query.weights, 8, batch_first, True, keep),
        *cuda_gru.forward(v, query.lengths, None, key.weights, 8, batch_first, True, False)[:2],
    ]
    for place, (got, want) in enumerate(zip(pair, alone, strict=True)):
        assert torch.equal(got.nan_to_num(), want.nan_to_num()), place  # padded frames of the reserve are unset


@pytest.mark.parametrize("other", [{"hidden": 3}, {"dtype": torch.bfloat16}], ids=str)
def test_a_pair_of_different_sizes_or_dtypes_is_refused(other: dict[str, Any]) -> None:
    query, key = Layer(state=False), Layer(state=False, **other)
    with pytest.raises(ValueError, match="do not make a pair"):
        cuda_gru.forward_pair(query.x, key.x, None, query.weights, key.weights, True, True, False)


@pytest.mark.parametrize("hidden", [1, 97, 256, 544, 1024])
def test_a_hidden_size_that_has_a_plan_has_one_for_every_batch(emulated: Any, hidden: int) -> None:
    for mode in ("tf32", "fp32", "bf16", "fp16"):
        for backward in (False, True):
            for chains, batch, steps in ((1, 1, 1), (2, 7, 300), (4, 32, 60), (4, 5000, 2)):
                assert emulated.gru_plan(mode, backward, chains, batch, steps, hidden, 0).variant


def test_a_launch_has_one_chain_a_direction_of_each_encoder(fake_cuda: Any, native: Any) -> None:
    if native is not fake_cuda:
        pytest.skip("the emulation does not count")
    layer = Layer(state=False)
    layer.made(True)
    cuda_gru.forward_pair(layer.x, layer.x, None, layer.weights, layer.weights, True, True, True)
    assert fake_cuda.calls == [("forward", "tf32", 2), ("backward", "tf32", 2), ("forward", "tf32", 4)]


@pytest.mark.parametrize("lengths", [[0, 3, 1, 1, 1], [2, 9, 1, 1, 1]])
def test_lengths_on_the_cpu_outside_the_batch_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1\.\.8"):
        Layer(lengths=lengths).made(True)


@pytest.mark.parametrize("place", range(5))
def test_a_tensor_of_another_dtype_or_shape_is_refused(place: int) -> None:
    for change in (torch.Tensor.double, lambda tensor: tensor[..., :-1]):
        layer = Layer(directions=1)
        tensors = [*layer.weights, layer.h0]
        tensors[place] = change(tensors[place])  # type: ignore[arg-type]
        with pytest.raises((ValueError, RuntimeError), match="the CUDA GRU needs"):
            cuda_gru.forward(layer.x, None, tensors[4], tensors[:4], 8, True, True, False)  # type: ignore[arg-type]


def test_sizes_that_no_kernel_takes_are_refused_with_the_remedy() -> None:
    layer = Layer(hidden=1025, directions=1, state=False)
    with pytest.raises(CrrlError, match=r"hidden size 1025 in tf32.*gru_layer=torch"):
        cuda_gru.forward(layer.x, None, None, layer.weights, 8, True, True, False)


def test_a_wait_that_timed_out_is_an_error_once_and_switches_the_extension_off(fake_cuda: Any, native: Any) -> None:
    if native is not fake_cuda:
        pytest.skip("the emulation does not hang")
    layer, fake_cuda.hangs = Layer(), True
    arguments = layer.x, layer.lengths, None, layer.weights, 8, True, True, False
    assert cuda_gru.forward(*arguments)[0].isnan().any()
    with pytest.raises(CrrlError, match=r"waited 2 s for its other blocks.*gru_layer=torch"):
        cuda_gru.forward(*arguments)
    cuda.raise_if_timed_out()
    able, reason = cuda_gru.supports(ops.Case("cuda", torch.float32))
    assert not able
    assert "for its other blocks" in reason


def test_what_it_does_not_take_is_said() -> None:
    for case in (ops.Case("cpu", torch.float32), ops.Case("cuda", torch.float64)):
        able, reason = cuda_gru.supports(case)
        assert not able
        assert "float32, bfloat16 and float16 on a GPU" in reason
    able, reason = cuda_gru.supports(ops.Case("cuda", torch.float32, 0, 1025))
    assert not able
    assert "hidden size 1025" in reason
    assert cuda_gru.supports(ops.Case("cuda", torch.float32, 0, 256))[1].startswith("CUDA kernels (crrl._cuda, tf32, ")


def test_an_extension_that_was_not_built_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "missing", "it was not built")
    assert cuda_gru.supports(ops.Case("cuda", torch.float32)) == (False, "it was not built")
