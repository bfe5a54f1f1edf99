"""Every backend of the GRU layer against the reference: outputs and the gradient of every input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crrl.errors import CrrlError
from crrl.ops import Case, cpu
from crrl.ops.gru import cpu as cpu_gru
from crrl.ops.gru import framework, layer
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

BACKENDS = {"torch": framework.gru_layer, "cpu": layer.gru_layer}
FLOAT_ISAS = [(torch.float32, name) for name in cpu.GRU_ISAS[False]]
BF16_ISAS = [(torch.bfloat16, name) for name in cpu.GRU_ISAS[True]]
Size = tuple[list[int], int, int, int, bool]
SIZES: list[Size] = [
    ([3, 7, 1, 6, 2], 7, 4, 2, True),
    ([3, 7, 1, 6, 2], 7, 4, 2, False),
    ([4, 4, 4], 4, 7, 2, True),
    ([2, 5], 9, 3, 1, True),  # a batch padded further than its longest row
    ([1], 1, 1, 2, True),
    ([9], 9, 41, 2, True),  # one row alone
    ([26], 26, 9, 2, True),  # the same, of so many frames that weights are packed
    ([13] * 3, 13, 33, 1, True),
    # tiles of rows, the last not full
    ([11, 3, 8, 8, 1, 5, 11, 2, 9, 10, 4, 7, 6, 3, 11, 1, 2, 8, 5], 11, 40, 2, True),
]


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    return str(request.param)


@pytest.fixture(params=FLOAT_ISAS, ids=str)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.dtype, str]:
    """Force an instruction set for a dtype; skips where the processor has not got it."""
    native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    dtype, name = request.param
    bf16 = dtype == torch.bfloat16
    best, of_dtype = native.gru_isa(bf16=bf16), cpu.GRU_ISAS[bf16]
    if best is None or of_dtype.index(name) < of_dtype.index(best):
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setattr(cpu, "isa", name)
    return dtype, name


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


def run(
    layer: object,
    x: Tensor,
    lengths: Tensor | None,
    weights: list[Weights],
    h0: Tensor | None,
    reverse: bool = True,
    frames: int | None = None,
) -> list[Tensor]:
    """y, h_n and the gradients of every input under a fixed random cotangent."""
    y, h_n = layer(x, lengths, weights, h0, reverse, frames)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    scalar = sum(
        (out * torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)).sum() for out in (y, h_n)
    )
    inputs = [x, *(tensor for direction in weights for tensor in direction if tensor is not None)]
    return [y.detach(), h_n.detach(), *torch.autograd.grad(scalar, inputs if h0 is None else [*inputs, h0])]


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize(("lengths", "frames", "hidden", "directions", "bias"), SIZES)
def test_torch_is_the_reference_in_fp64(
    with_h0: bool, lengths: list[int], frames: int, hidden: int, directions: int, bias: bool
) -> None:
    x, length, weights, h0 = make_case(torch.float64, lengths, frames, hidden, directions, bias)
    state = h0 if with_h0 else None
    expected = run(reference.gru_layer, x, length, weights, state)
    for got, want in zip(run(framework.gru_layer, x, length, weights, state), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("directions", [1, 2])
def test_torch_without_packing_is_the_reference(directions: int) -> None:
    x, lengths, weights, h0 = make_case(torch.float64, [3, 7, 1, 6, 2], 9, 4, directions)
    with torch.no_grad():
        x[0, 3:] = torch.nan

    def padded(x: Tensor, lengths: Tensor, weights: list[Weights], h0: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return framework.run_padded(x, lengths, weights, h0)

    expected = run(reference.gru_layer, x, lengths, weights, h0)
    for got, want in zip(run(padded, x, lengths, weights, h0), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def errors(
    dtype: torch.dtype, size: Size, with_h0: bool, reverse: bool, repeated: bool = False
) -> list[tuple[float, float, float]]:
    """For every output and gradient: the kernel's error, the reference's own in this dtype, the norm of the truth."""

    def results(layer: object, of: torch.dtype) -> list[Tensor]:
        x, lengths, weights, h0 = make_case(of, *size)
        given = x[:, :1].detach().requires_grad_() if repeated else x
        return run(layer, given, lengths, weights, h0 if with_h0 else None, reverse, size[1] if repeated else None)

    exact, rounded = results(reference.gru_layer, torch.float64), results(reference.gru_layer, dtype)
    made = results(layer.gru_layer, dtype)
    return [
        (float((got.double() - want).norm()), float((own.double() - want).norm()), float(want.norm()))
        for got, own, want in zip(made, rounded, exact, strict=True)
    ]


@pytest.mark.parametrize("reverse", [True, False], ids=["bidirectional", "stepwise"])
@pytest.mark.parametrize(
    ("with_h0", "repeated"), [(False, False), (True, False), (True, True)], ids=["zeros", "h0", "repeated input"]
)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("isa")
def test_cpp_is_the_reference_up_to_fp32_rounding(size: Size, with_h0: bool, reverse: bool, repeated: bool) -> None:
    """A repeated input is projected once."""
    for error, _, norm in errors(torch.float32, size, with_h0, reverse, repeated):
        # Roundings of 6e-8 each, a few dozen of them one after the other along a row.
        assert error <= 2e-6 * norm


@pytest.mark.parametrize("isa", BF16_ISAS, indirect=True, ids=str)
@pytest.mark.parametrize("reverse", [True, False], ids=["bidirectional", "stepwise"])
@pytest.mark.parametrize(
    ("with_h0", "repeated"), [(False, False), (True, False), (False, True)], ids=["zeros", "h0", "repeated input"]
)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("isa")
def test_cpp_in_bf16_errs_no_more_than_twice_what_the_reference_does(
    size: Size, with_h0: bool, reverse: bool, repeated: bool
) -> None:
    for error, own, norm in errors(torch.bfloat16, size, with_h0, reverse, repeated):
        assert error <= 2 * own + 1e-6 * norm


def test_fp32_error_is_no_larger_than_the_references_own(backend: str) -> None:
    case64 = make_case(torch.float64, [9, 20, 14, 1], 20, 64, 2)
    case32 = make_case(torch.float32, [9, 20, 14, 1], 20, 64, 2)
    exact = run(reference.gru_layer, *case64)
    # Twice the reference's error and one rounding: two correct orders of summation differ by that much.
    for got, ours, want in zip(run(BACKENDS[backend], *case32), run(reference.gru_layer, *case32), exact, strict=True):
        bound = 2 * (ours.double() - want).norm() + 1e-7 * want.norm()
        assert (got.double() - want).norm() <= bound


@pytest.mark.usefixtures("isa")
def test_cpp_errs_no_more_than_torch_at_the_size_of_the_papers_encoder() -> None:
    torch.manual_seed(0)
    exact = torch.nn.GRU(512, 256, batch_first=True, bidirectional=True).double()
    flat = [parameter.detach().clone().requires_grad_() for parameter in exact.parameters()]
    x, lengths = torch.randn(8, 60, 512, dtype=torch.float64, requires_grad=True), torch.full((8,), 60)

    def results(layer: object, dtype: torch.dtype) -> list[Tensor]:
        weights = [tensor.detach().to(dtype).requires_grad_() for tensor in flat]
        pairs: list[Weights] = [tuple(weights[:4]), tuple(weights[4:])]  # type: ignore[list-item]
        return run(layer, x.detach().to(dtype).requires_grad_(), lengths, pairs, None)

    truth = results(framework.gru_layer, torch.float64)
    theirs, ours = results(framework.gru_layer, torch.float32), results(layer.gru_layer, torch.float32)
    for got, own, want in zip(ours, theirs, truth, strict=True):
        # A quarter more: two ways to add the same numbers differ by that from one draw to the next.
        assert (got.double() - want).norm() <= 1.25 * (own.double() - want).norm()


@pytest.mark.parametrize("isa", FLOAT_ISAS + BF16_ISAS, indirect=True, ids=str)
@pytest.mark.parametrize("rows", [9, 37])
def test_cpp_results_do_not_depend_on_the_number_of_threads(isa: tuple[torch.dtype, str], rows: int) -> None:
    case = make_case(isa[0], ([11, 3, 8, 8, 1, 5, 11, 2, 9] * 5)[:rows], 11, 24, 2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5, 16):
            torch.set_num_threads(count)
            results.append(run(layer.gru_layer, *case))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(got, want) for got, want in zip(other, results[0], strict=True))


@pytest.mark.usefixtures("isa")
def test_cpp_gates_are_right_far_from_zero() -> None:
    x = torch.linspace(-120, 120, 4001)[:, None, None]
    zeros, ones = torch.zeros(3, 1), torch.ones(3, 1)
    weights: list[Weights] = [(ones, zeros, torch.zeros(3), torch.zeros(3))]
    lengths = torch.ones(len(x), dtype=torch.int64)
    got, _ = layer.gru_layer(x, lengths, weights, torch.ones(1, len(x), 1))
    want, _ = reference.gru_layer(
        x.double(), lengths, [tuple(w.double() for w in weights[0])], torch.ones(1, len(x), 1).double()
    )  # type: ignore[misc, union-attr]
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("isa", [(torch.float32, "amx")], indirect=True, ids=str)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3.4e38])
@pytest.mark.parametrize("place", ["x", "w_ih", "w_hh", "bias", "h0"])
@pytest.mark.usefixtures("isa")
def test_tiles_of_float32_give_what_products_that_are_not_split_give_of_numbers_that_have_no_parts(
    place: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, lengths, weights, h0 = make_case(torch.float32, [3, 7, 1, 6, 2], 7, 33, 2)
    changed = {"x": x, "h0": h0, "w_ih": weights[0][0], "w_hh": weights[1][1], "bias": weights[0][2]}[place]
    with torch.no_grad():
        changed.view(-1)[1] = value
    by_tiles = run(layer.gru_layer, x, lengths, weights, h0)
    monkeypatch.setattr(cpu, "isa", "avx512")
    for got, want in zip(by_tiles, run(layer.gru_layer, x, lengths, weights, h0), strict=True):
        assert torch.equal(got.isfinite(), want.isfinite())
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("isa", [(torch.float32, "amx")], indirect=True, ids=str)
@pytest.mark.usefixtures("isa")
def test_numbers_that_leave_no_parts_for_tiles_are_small_enough_to_lose() -> None:
    x, lengths, weights, h0 = make_case(torch.float32, [3, 7, 1, 6, 2], 7, 33, 2)
    with torch.no_grad():
        x *= 1e-36
        weights[0][0].mul_(1e-37)
    exact = [tuple(None if w is None else w.double() for w in direction) for direction in weights]
    want = reference.gru_layer(x.double(), lengths, exact, h0.double())
    for got, true in zip(layer.gru_layer(x, lengths, weights, h0), want, strict=True):
        torch.testing.assert_close(got.double(), true, rtol=1e-6, atol=1e-6)


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    monkeypatch.setattr(cpu, "isa", "mmx")
    with pytest.raises(CrrlError, match=r"^CRRL_ISA is mmx: this processor has .*plain.*set one of these"):
        layer.gru_layer(*make_case(torch.float32, [2, 3], 3, 2, 1)[:3])


def test_cpp_gives_the_same_without_gradients() -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    case = make_case(torch.float32, [2, 5, 3], 5, 20, 2)
    expected = layer.gru_layer(*case)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(layer.gru_layer(*case), expected, strict=True))


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


def test_strided_inputs_are_taken_as_they_are(backend: str) -> None:
    x, lengths, weights, h0 = make_case(torch.float32, [3, 5, 2], 5, 4, 2)
    strided = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not strided.is_contiguous()
    for got, want in zip(
        run(BACKENDS[backend], strided, lengths, weights, h0),
        run(BACKENDS[backend], x, lengths, weights, h0),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_no_lengths_means_every_frame(backend: str) -> None:
    x, lengths, weights, h0 = make_case(torch.float32, [4, 4, 4], 4, 7, 2)
    for got, want in zip(
        run(BACKENDS[backend], x, None, weights, h0), run(BACKENDS[backend], x, lengths, weights, h0), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_one_frame_repeated_needs_no_copy() -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    x, lengths, weights, _ = make_case(torch.float32, [3, 5, 2], 5, 4, 2)
    repeated = x[:, :1].expand(-1, 5, -1)
    got, want = (
        layer.gru_layer(repeated, lengths, weights),
        layer.gru_layer(repeated.contiguous(), lengths, weights),
    )
    assert torch.equal(got[0], want[0])


def test_bf16_is_left_to_torch_where_the_processor_or_the_forced_set_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    monkeypatch.setattr(cpu, "isa", "plain")
    able, reason = cpu_gru.supports(Case("cpu", torch.bfloat16))
    assert not able
    assert "plain" in reason


@pytest.mark.parametrize("lengths", [[0, 3], [2, 4]])
def test_cpp_refuses_lengths_outside_the_batch(lengths: list[int]) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    x, _, weights, _ = make_case(torch.float32, [2, 3], 3, 2, 1)
    with pytest.raises(ValueError, match=r"1\.\.3"):
        layer.gru_layer(x, torch.tensor(lengths), weights)


@pytest.mark.parametrize("place", range(5))
def test_cpp_refuses_a_tensor_of_another_dtype_or_shape(place: int) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    x, lengths, weights, h0 = make_case(torch.float32, [2, 3], 3, 2, 1)
    for change in (torch.Tensor.double, lambda tensor: tensor[..., :-1]):
        tensors = [*weights[0], h0]
        tensors[place] = change(tensors[place])
        with pytest.raises(
            (ValueError, RuntimeError),
            match=r"must be contiguous float32 \[.*\] on the CPU, not torch\.float(32|64) \[",
        ):
            layer.gru_layer(x, lengths, [tuple(tensors[:4])], tensors[4])  # type: ignore[list-item, arg-type]


@pytest.mark.parametrize("hidden", [1, 32, 33])
def test_python_and_cpp_agree_on_what_is_kept_between_forward_and_backward(hidden: int) -> None:
    native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    assert cpu_gru.reserve_size(2, 3, 5, hidden) == native.gru_reserve_size(3, 5, hidden, 2)
