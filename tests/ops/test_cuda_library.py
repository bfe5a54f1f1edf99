"""The CUDA kernels' operators as PyTorch sees them, without a GPU: fake tensors, gradients, the pair, the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from crrl import ops
from crrl.ops import trust
from crrl.ops.backends import Operator
from crrl.ops.gru import cuda as cuda_gru
from crrl.ops.gru import framework, layer, operators
from crrl.reference.gru import Weights


def direction(channels: int, hidden: int, **options: Any) -> Weights:
    shapes = (3 * hidden, channels), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)
    return tuple((0.4 * torch.randn(*shape, **options)).requires_grad_() for shape in shapes)  # type: ignore[return-value]


@pytest.fixture
def fake_gpu() -> Iterator[None]:
    """Tensors on a GPU that have shapes alone; without gradient, which asks torch for a GPU."""
    with FakeTensorMode(), torch.no_grad():
        try:
            torch.empty(1, device="cuda")
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"no fake CUDA tensors here: {error}")
        yield


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.usefixtures("fake_gpu")
def test_shapes_of_a_layer_and_its_gradients_on_a_gpu(batch_first: bool) -> None:
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.float16}
    x = torch.randn(*((5, 8, 6) if batch_first else (8, 5, 6)), **options)
    weights = [*direction(6, 7, **options), *direction(6, 7, **options)]
    arguments = x, torch.ones(5, dtype=torch.int64, device="cuda"), None, weights
    y, h_n, kept = torch.ops.crrl.gru_layer(*arguments, 8, batch_first, True, True)
    assert (y.shape, h_n.shape) == ((5, 8, 14) if batch_first else (8, 5, 14), (2, 5, 7))
    assert kept.numel() == cuda_gru.reserve_size(2, 5, 8, 7) == 2 * 5 * 8 * 5 * 7
    flags = 8, batch_first, True, True
    dx, dh0, gradients = torch.ops.crrl.gru_layer_backward(y, h_n, *arguments, kept, *flags)
    assert [dx.shape, dh0.shape] == [x.shape, h_n.shape]
    assert [(g.shape, g.dtype) for g in gradients] == [(weight.shape, torch.float16) for weight in weights]


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast("cuda", dtype), which without a GPU does nothing."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("fake_gpu")
def test_autocast_on_a_gpu_casts_to_its_dtype(dtype: torch.dtype) -> None:
    x, weights = torch.randn(5, 8, 6, device="cuda"), [direction(6, 7, device="cuda")]
    with autocast(dtype):
        y, h_n = layer.gru_layer(x, None, weights, torch.zeros(1, 5, 7, device="cuda"))
        (other, _), (key, _) = layer.gru_layer_pair(x, x, None, weights, weights)
    assert {y.dtype, h_n.dtype, other.dtype, key.dtype} == {dtype}


def test_the_pair_gives_gradients_to_the_first_encoder_alone() -> None:
    query, key = ([direction(channels, 7, device="meta") for _ in range(2)] for channels in (6, 4))
    x, v = (torch.randn(5, 8, channels, device="meta", requires_grad=True) for channels in (6, 4))
    for turn in (False, True):
        rows, others = (t.transpose(0, 1).contiguous().transpose(0, 1) if turn else t for t in (x, v))
        (y, h_n), (key_y, key_h_n) = layer.gru_layer_pair(rows, others, None, query, key)
        assert y.shape == key_y.shape == (5, 8, 14)
        assert h_n.shape == key_h_n.shape == (2, 5, 7)
        assert y.requires_grad
        assert not key_y.requires_grad
        assert not key_h_n.requires_grad
        leaves = [x, *query[0], *query[1]]
        gradients = torch.autograd.grad([y.sum() + h_n.sum()], leaves)  # type: ignore[arg-type]
        assert [g.shape for g in gradients] == [leaf.shape for leaf in leaves]  # type: ignore[union-attr]
    with torch.no_grad():
        assert not layer.gru_layer_pair(x, v, None, query, key)[0][0].requires_grad


def on_cpu(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> list[str]:
    """Have tensors on the CPU served as if by the backend "cuda"; returns the list of what is launched."""
    made: list[str] = []

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            made.append(name)
            return function(*arguments)

        return noted

    monkeypatch.setattr(operators, "gru_backend", lambda x, hidden=None: ("cuda", "a test"))
    monkeypatch.setattr(layer, "pair_op", note("pair", cuda_gru.forward_pair))
    monkeypatch.setattr(layer, "forward_op", note("layer", cuda_gru.forward))
    monkeypatch.setattr(framework, "gru_layer", note("torch", framework.gru_layer))
    monkeypatch.setattr(Tensor, "get_device", lambda tensor: 0)
    return made


@torch.no_grad()
@pytest.mark.parametrize(("hidden", "launches"), [(7, ["pair"]), (5, ["layer", "layer"])])
def test_two_layers_make_one_launch_where_their_sizes_agree(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any, hidden: int, launches: list[str]
) -> None:
    made = on_cpu(monkeypatch, fake_cuda)
    x, v, lengths = torch.randn(3, 4, 6), torch.randn(3, 4, 2), torch.tensor([4, 1, 2])
    weights, keys = [direction(6, 7)] * 2, [direction(2, hidden)] * 2
    pair = operators.gru_layer_pair(x, v, lengths, weights, keys)
    assert made == launches
    for (y, h_n), want in zip(
        pair,
        (framework.gru_layer(x, lengths, weights), framework.gru_layer(v, lengths, keys)),
        strict=True,
    ):
        torch.testing.assert_close(y, want[0])
        torch.testing.assert_close(h_n, want[1])


def test_the_choice_names_the_backend_and_why_it_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any
) -> None:
    monkeypatch.delenv("CRRL_BACKEND", raising=False)
    known = {("gru_layer", "tf32"): (True, ""), ("gru_layer", "bf16"): (False, "no")}
    monkeypatch.setattr(trust, "verdict", lambda operator, mode, device: known[operator, mode])
    chosen = {}
    for dtype, hidden in ((torch.float32, 256), (torch.float32, 2000), (torch.bfloat16, 256), (torch.float64, 256)):
        case = ops.Case("cuda", dtype, 0, hidden)
        with ops.use_backends("auto"):
            chosen[dtype, hidden] = Operator.registry["gru_layer"].served(case)
    assert chosen[torch.float32, 256][0] == "cuda"
    assert {backend for backend, _ in list(chosen.values())[1:]} == {"torch"}
    assert "not cuda: the CUDA GRU cannot take hidden size 2000 in tf32: at most 1024" in chosen[torch.float32, 2000][1]
    assert "not cuda: no" in chosen[torch.bfloat16, 256][1]
