"""What crrl.nn.GRU takes for `lengths`, and its words for inputs that are no dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crrl.nn import GRU, StepwiseBiGRU, run_together

LENGTHS = [6, 2, 3]
KINDS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "int32 array": lambda lengths: np.array(lengths, np.int32),
    "array of Python's integers": lambda lengths: [np.int64(length) for length in lengths],
    "list of tensors": lambda lengths: [torch.tensor(length) for length in lengths],
    **{
        str(dtype): lambda lengths, dtype=dtype: torch.tensor(lengths, dtype=dtype)
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    },
    "strided": lambda lengths: torch.tensor(lengths).repeat_interleave(2)[::2],
}
NOT_INTEGERS: dict[str, Any] = {
    "float32": torch.tensor([6.0, 2.7, 3.0]),
    "whole floats": torch.tensor([6.0, 2.0, 3.0]),
    "bool": torch.tensor([True, True, True]),
    "complex": torch.tensor([6, 2, 3], dtype=torch.complex64),
    "list of floats": [6.0, 2.7, 3.0],
    "float array": np.array([6.0, 2.0, 3.0]),
    "text": "623",
    "list of text": ["6", "2", "3"],
    "list of lists": [[6], [2, 3]],
    "a generator": (length for length in LENGTHS),
    "object array": np.array([6, None, 3]),
    "masked array": np.ma.masked_array([6, 2, 3], [False, True, False]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("policy")
def test_lengths_are_any_integers(kind: str) -> None:
    torch.manual_seed(0)
    gru, x, lengths = GRU(4, 5, 2, batch_first=True, bidirectional=True), torch.randn(3, 6, 4), KINDS[kind](LENGTHS)
    int64 = torch.tensor(LENGTHS)
    pairs = [
        (gru(x, lengths=lengths), gru(x, lengths=int64)),
        (gru.unroll(x[:, 0], 6, lengths=lengths), gru.unroll(x[:, 0], 6, lengths=int64)),
        (gru.each_layer(x, lengths), gru.each_layer(x, int64)),
        (run_together(gru, x, gru, x, lengths)[0], run_together(gru, x, gru, x, int64)[0]),
    ]
    for got, want in pairs:
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("kind", NOT_INTEGERS)
@pytest.mark.parametrize("module", [GRU, StepwiseBiGRU])
@pytest.mark.usefixtures("policy")
def test_lengths_that_are_no_integers_are_refused(module: type[GRU], kind: str) -> None:
    gru, x, lengths = module(4, 5, batch_first=True), torch.randn(3, 6, 4), NOT_INTEGERS[kind]
    for call in (
        lambda: gru(x, lengths=lengths),
        lambda: gru.unroll(x[:, 0], 6, lengths=lengths),
        lambda: gru.each_layer(x, lengths),
        lambda: run_together(gru, x, gru, x, lengths),
    ):
        with pytest.raises(ValueError, match="lengths must be integers, one for each row"):
            call()


@pytest.mark.parametrize("lengths", [[], (), np.array([]), torch.empty(0), torch.empty(0, dtype=torch.int64)])
@pytest.mark.usefixtures("policy")
def test_an_empty_batch_has_no_lengths(lengths: Any) -> None:
    y, h = GRU(4, 5, batch_first=True)(torch.randn(0, 6, 4), lengths=lengths)
    assert (y.shape, h.shape) == ((0, 6, 5), (1, 0, 5))


@pytest.mark.parametrize(
    "lengths", [[6, 2], [6, 2, 3, 1], [[6, 2, 3]], 6, np.array([6]), torch.tensor(6), torch.ones(3, 1).long()]
)
@pytest.mark.usefixtures("policy")
def test_one_length_a_row(lengths: Any) -> None:
    with pytest.raises(ValueError, match=r"lengths must be \[B\]"):
        GRU(4, 5, batch_first=True)(torch.randn(3, 6, 4), lengths=lengths)


@pytest.mark.parametrize("lengths", [[6, 0, 3], [6, 7, 3], [6, -1, 3], [2**40, 1, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("policy")
def test_lengths_out_of_range_are_refused(lengths: list[int], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"lengths must be in 1\.\.6"):
        GRU(4, 5, batch_first=True, dtype=dtype)(torch.randn(3, 6, 4, dtype=dtype), lengths=lengths)


def test_lengths_that_change_between_the_passes_do_not_change_the_gradient() -> None:
    gru, x, lengths = GRU(4, 5, batch_first=True), torch.randn(3, 6, 4, requires_grad=True), np.array(LENGTHS)
    y, _ = gru(x, lengths=lengths)
    lengths[:] = 6
    (got,) = torch.autograd.grad(y.sum(), x)
    (want,) = torch.autograd.grad(gru(x, lengths=LENGTHS)[0].sum(), x)
    assert torch.equal(got, want)
    tensor = torch.tensor(LENGTHS)
    y, _ = gru(x, lengths=tensor)
    tensor.fill_(6)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


INPUTS: dict[str, tuple[Callable[[], Any], str]] = {
    "array": (lambda: np.ones((2, 3, 4), np.float32), "numpy.ndarray"),
    "list": (lambda: [[[1.0] * 4] * 3] * 2, "builtins.list"),
    "None": (lambda: None, "NoneType"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(5, 4)]), "nested"),
    "sparse": (lambda: torch.ones(2, 3, 4).to_sparse(), "torch.sparse_coo"),
    "mkldnn": (lambda: torch.ones(2, 3, 4).to_mkldnn(), "torch._mkldnn"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(5, 4)], layout=torch.jagged),
        "nested",
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.usefixtures("policy")
def test_what_is_no_dense_tensor_is_named(kind: str) -> None:
    gru, (make, found) = GRU(4, 5, batch_first=True), INPUTS[kind]
    calls: dict[str, Callable[[Any], Any]] = {
        "input": gru,
        "hx": lambda value: gru(torch.ones(2, 3, 4), value),
        "hint": lambda value: gru.unroll(value, 3),
        "x": lambda value: gru.each_layer(value, [3, 3]),
    }
    for name, call in calls.items():
        if name == "hx" and kind == "None":
            continue
        with pytest.raises(TypeError, match=rf"^{name} must be a (torch.T|dense t)ensor, not .*{found}"):
            call(make())


def test_the_state_of_an_lstm_is_named() -> None:
    state = torch.zeros(1, 2, 5)
    with pytest.raises(TypeError, match=r"hx must be a torch.Tensor, not builtins.tuple"):
        GRU(4, 5, batch_first=True)(torch.ones(2, 3, 4), (state, state))  # type: ignore[arg-type]


def test_a_subclass_of_tensor_is_computed_with() -> None:
    class Named(Tensor):
        pass

    x = torch.ones(2, 3, 4)
    gru = GRU(4, 5, batch_first=True)
    got, _ = gru(x.as_subclass(Named))
    assert torch.equal(got.as_subclass(Tensor), gru(x)[0])
