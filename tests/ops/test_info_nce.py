"""crrl::info_nce and crrl::info_nce_enqueue in C++ against the reference in float64, and as PyTorch sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl import ops
from crrl.errors import CrrlError
from crrl.ops import infonce
from crrl.reference import contrast

pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")

TEMPERATURE = 0.07
SIZES = [
    (1, 60, 2),
    (1, 512, 1000),
    (5, 63, 64),
    (17, 63, 65),  # a panel of queries half full, a tile of one key
    (32, 512, 64),
    (33, 7, 1),
    (40, 60, 1000),  # two parts, the last tile not full
    (3, 2, 2500),
]
"""B, D, K."""


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_BACKEND", "info_nce=cpu")


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def case(batch: int, features: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q of any length, with gradient; k, some of it near q; queue."""
    q = 3 * unit(batch, features)
    k = unit(batch, features, seed=1)
    k[::2] = F.normalize(q[::2] + 0.1 * k[::2], dim=1)
    return q.requires_grad_(), k, unit(keys, features, seed=2)


def results(loss: Callable[..., Tensor], q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    value = loss(q, *rest)
    return value.detach(), torch.autograd.grad(value, q)[0]


def exact(q: Tensor, k: Tensor, queue: Tensor, temperature: float = TEMPERATURE) -> tuple[Tensor, Tensor]:
    doubles = (q.detach().double().requires_grad_(), k.double(), queue.double())
    return results(contrast.info_nce, *doubles, temperature)


def assert_close(got: tuple[Tensor, Tensor], q: Tensor, k: Tensor, queue: Tensor) -> None:
    """To the truth no further than twice the reference in float32, and a few roundings of the logits."""
    rounded, truth = results(contrast.info_nce, q, k, queue, TEMPERATURE), exact(q, k, queue)
    for mine, theirs, want in zip(got, rounded, truth, strict=True):
        assert mine.dtype == torch.float32
        slack = 2e-7 / TEMPERATURE * want.norm() + 1e-9
        assert (mine.double() - want).norm() <= 2 * (theirs.double() - want).norm() + slack


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("size", SIZES)
def test_loss_and_gradient_are_the_references(size: tuple[int, int, int]) -> None:
    q, k, queue = case(*size)
    assert_close(results(ops.info_nce, q, k, queue, TEMPERATURE), q, k, queue)


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_a_sure_positive_keeps_its_small_gradient(temperature: float) -> None:
    q, k, queue = torch.tensor([[3.0, 0.1]], requires_grad=True), torch.tensor([[1.0, 0.0]]), -unit(9, 2).abs()
    got, want = results(ops.info_nce, q, k, queue, temperature), exact(q, k, queue, temperature)
    for mine, true in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-38)


@pytest.mark.usefixtures("float_isa")
def test_strided_inputs_and_a_scaled_loss() -> None:
    q, k, queue = case(6, 12, 20)
    wide_q, wide_queue = q.detach().t().contiguous().t().requires_grad_(), queue.repeat(1, 2)[:, :12]
    assert not wide_q.is_contiguous()
    assert not wide_queue.is_contiguous()
    loss = -3 * ops.info_nce(wide_q, k, wide_queue, TEMPERATURE)
    gradient = torch.autograd.grad(loss, wide_q)[0]
    torch.testing.assert_close(gradient.double(), -3 * exact(q, k, queue)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize(("batch", "start"), [(5, 0), (5, 62), (7, 63), (64, 5), (150, 40)])
def test_keys_enter_after_the_loss(batch: int, start: int) -> None:
    q, k, queue = case(batch, 12, 64)
    mine, pointer = queue.clone(), torch.tensor(start)
    got = results(ops.info_nce_enqueue, q, k, mine, pointer, TEMPERATURE)
    assert_close(got, q, k, queue)
    want, want_pointer = queue.clone(), torch.tensor(start)
    contrast.enqueue(want, want_pointer, k)
    assert torch.equal(mine, want)
    assert torch.equal(pointer, want_pointer)


def test_the_reference_serves_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, queue = case(5, 12, 7)
    found = []
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("CRRL_BACKEND", f"info_nce={backend}")
        mine, pointer = queue.clone(), torch.tensor(3)
        found.append((*results(ops.info_nce_enqueue, q, k, mine, pointer, TEMPERATURE), mine, pointer))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.usefixtures("float_isa")
def test_the_same_bits_on_any_number_of_threads(on_threads: Callable[..., list[Any]]) -> None:
    q, k, queue = case(21, 63, 3001)
    first, *others = on_threads(lambda: results(ops.info_nce, q, k, queue, TEMPERATURE))
    for other in others:
        assert all(torch.equal(mine, want) for mine, want in zip(other, first, strict=True))


@pytest.mark.usefixtures("float_isa")
def test_zero_and_denormal_queries_do_as_the_reference_does() -> None:
    q, k, queue = case(4, 19, 33)
    with torch.no_grad():
        q[0], q[1], queue[3] = 0, 1e-40, 1e-40
    got, want = results(ops.info_nce, q, k, queue, TEMPERATURE), exact(q, k, queue)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[1].double(), want[1], rtol=1e-4, atol=1e-6)
    assert torch.tensor(1e-40) * 0.5 > 0  # denormals are back


@pytest.mark.usefixtures("float_isa")
def test_a_nan_is_seen() -> None:
    q, k, queue = case(3, 8, 70)
    queue[66, 2] = torch.nan
    loss, dq = results(ops.info_nce, q, k, queue, TEMPERATURE)
    assert loss.isnan()
    assert dq.isnan().any(1).all()


@pytest.mark.usefixtures("float_isa")
def test_outputs_are_written_wholly(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, queue = case(5, 63, 64)
    plain = infonce.info_nce_op(q.detach(), k, queue, TEMPERATURE)
    poisoned = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kw: poisoned(*args, **kw).fill_(torch.nan))
    for got, want in zip(infonce.info_nce_op(q.detach(), k, queue, TEMPERATURE), plain, strict=True):
        assert torch.equal(got, want)


def test_opcheck() -> None:
    q, k, queue = case(3, 5, 9)
    torch.library.opcheck(torch.ops.crrl.info_nce.default, (q, k, queue, TEMPERATURE))
    arguments = (q.detach(), k, queue, torch.tensor(7), TEMPERATURE)
    torch.library.opcheck(torch.ops.crrl.info_nce_enqueue.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_traces_it_without_a_break(dynamic: bool) -> None:
    torch._dynamo.reset()

    def loss(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        return 2 * ops.info_nce(q.sin(), k, queue, TEMPERATURE)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for got, want in zip(results(compiled, *case(3, 5, 9)), results(loss, *case(3, 5, 9)), strict=True):
        torch.testing.assert_close(got, want)


def test_compile_traces_the_queue_without_a_break() -> None:
    torch._dynamo.reset()

    def loss(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor) -> Tensor:
        return 2 * ops.info_nce_enqueue(q.sin(), k, queue, pointer, TEMPERATURE)

    found = []
    for function in (torch.compile(loss, fullgraph=True, backend="aot_eager"), loss):
        q, k, queue = case(3, 5, 9)
        pointer = torch.tensor(7)
        found.append((*results(function, q, k, queue, pointer), queue, pointer))
    torch.testing.assert_close(found[0], found[1])


def test_narrow_queries_are_computed_in_float32() -> None:
    q, k, queue = case(4, 16, 30)
    narrow = q.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = results(ops.info_nce, narrow, k.bfloat16(), queue, TEMPERATURE)
    want = exact(narrow, k.bfloat16().float(), queue)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), want[0], rtol=1e-5, atol=1e-6)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), want[1], rtol=1e-2, atol=1e-3)


def test_a_second_derivative_is_refused() -> None:
    q, k, queue = case(3, 5, 9)
    for loss in (
        lambda: ops.info_nce(q, k, queue, TEMPERATURE),
        lambda: ops.info_nce_enqueue(q, k, queue.clone(), torch.tensor(0), TEMPERATURE),
    ):
        (gradient,) = torch.autograd.grad(loss() ** 2, q, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


def test_forward_mode_is_left_to_the_reference() -> None:
    q, k, queue = case(3, 5, 9)
    function = lambda q: ops.info_nce(q, k, queue, TEMPERATURE)  # noqa: E731
    _, tangent = torch.func.jvp(function, (q.detach(),), (torch.ones_like(q),))
    torch.testing.assert_close(tangent.double(), exact(q, k, queue)[1].sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": unit(4, 6)}, r"k must be contiguous float32 \[5, 6\] on the CPU, not torch.float32 \[4, 6\] on cpu"),
        ({"queue": unit(8, 7)}, r"queue must be contiguous float32 \[8, 6\]"),
        ({"queue": unit(8, 6).double()}, r"queue must be .* not torch.float64"),
        ({"q": torch.zeros(6)}, r"q must have 2 dimensions, not the shape \[6\]"),
        ({"pointer": torch.tensor(0.0)}, r"pointer must be contiguous int64 \[\] on the CPU, not torch.float32"),
        ({"queue": unit(6, 8).t()}, "not contiguous"),
        ({"queue": torch.zeros(0, 6)}, "at least one query, feature, key and thread"),
        ({"temperature": 0.0}, "the temperature must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(change: dict[str, Any], message: str) -> None:
    arguments = {
        "q": unit(5, 6),
        "k": unit(5, 6),
        "queue": unit(8, 6),
        "pointer": torch.tensor(0),
        "temperature": TEMPERATURE,
    } | change
    before = arguments["queue"].clone()
    with pytest.raises(ValueError, match=message) as caught:
        infonce.info_nce_enqueue_op(*arguments.values())
    assert "\n" not in str(caught.value)
    assert torch.equal(arguments["queue"], before)


def test_a_forced_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, queue = (tensor.double() for tensor in case(3, 5, 9))
    with pytest.raises(CrrlError, match=r"'cpu' forced for info_nce cannot run: .*float64"):
        ops.info_nce(q, k, queue, TEMPERATURE)
    monkeypatch.setenv("CRRL_BACKEND", "info_nce=triton")
    with pytest.raises(CrrlError, match=r"'triton' forced for info_nce cannot run: .* on a GPU"):
        ops.info_nce(q, k, queue, TEMPERATURE)
