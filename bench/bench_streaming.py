"""A GRU called for a few frames at a time, its state carried from call to call: GRU.stream(), the module, and peers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from bench.cases import Run
from bench.peers import onnx_session, openvino_request
from bench.rows import Row
from bench.timing import Contender, why
from crrl.nn import GRU

INPUTS, HIDDEN, FRAMES, ROWS = 150, 256, (1, 4, 8, 16), (1, 8)
THREADS = sorted({1, torch.get_num_threads()})


@pytest.fixture(params=THREADS, ids=lambda threads: f"{threads} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch's number of threads during the test; the other peers take it over."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", ["GRU.stream()", "GRU"])
@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"B={rows}")
@pytest.mark.parametrize("frames", FRAMES, ids=lambda frames: f"T={frames}")
def test_few_frames(compare: Callable[..., None], frames: int, rows: int, form: str, threads: int) -> None:
    gru, x, state = problem(frames, rows)
    expected = without_gradient(copy.deepcopy(gru).double(), x.double(), state.double())()
    row = row_of(f"{form}, one layer, forward", frames, rows, threads, passes=1)
    contenders = [Contender("crrl", ours(gru, form, x, state), limit=1e-5)]
    contenders.append(Contender("torch", without_gradient(gru, x, state), limit=1e-5))
    for name, build in {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}.items():
        try:
            contenders.append(Contender(name, build(gru, x, state), limit=1e-5))
        except Exception as error:
            row.absent[name] = why(error)
    compare(row, contenders, expected)


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"B={rows}")
@pytest.mark.parametrize("frames", FRAMES, ids=lambda frames: f"T={frames}")
def test_few_frames_with_gradients(compare: Callable[..., None], frames: int, rows: int, threads: int) -> None:
    gru, x, state = problem(frames, rows)
    row = row_of("GRU, one layer, forward + backward", frames, rows, threads, passes=3)
    expected = with_gradients(copy.deepcopy(gru).double(), x.double(), state.double())()
    contenders = [
        Contender("crrl", with_gradients(like(gru), x, state), limit=1e-5),
        Contender("torch", with_gradients(gru, x, state), limit=1e-5),
    ]
    compare(row, contenders, expected)


def problem(frames: int, rows: int) -> tuple[nn.GRU, Tensor, Tensor]:
    """A layer, x [B, T, I] and the state [1, B, H]."""
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, HIDDEN, batch_first=True)
    return gru, torch.randn(rows, frames, INPUTS), torch.rand(1, rows, HIDDEN)


def row_of(what: str, frames: int, rows: int, threads: int, passes: int) -> Row:
    """A row of the group `what`; passes: matrix products of a forward pass that it takes, 3 with backward."""
    return Row(
        group=f"{what}, state carried, fp32, {threads} thread{'s' * (threads > 1)}",
        title=f"T={frames}, B={rows}",
        flops=2.0 * passes * rows * frames * 3 * HIDDEN * (INPUTS + HIDDEN),
        bar="torch",
        rank=frames * len(ROWS) + ROWS.index(rows),
    )


def ours(gru: nn.GRU, form: str, x: Tensor, state: Tensor) -> Run:
    module = like(gru)
    return without_gradient(module if form == "GRU" else module.stream(), x, state)


def like(gru: nn.GRU) -> GRU:
    """Ours with its weights."""
    module = GRU(INPUTS, HIDDEN, batch_first=True)
    module.load_state_dict(gru.state_dict())
    return module


def with_gradients(gru: nn.GRU, x: Tensor, state: Tensor) -> Run:
    """A call for y, h_n and the gradients of x, the state and all weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in (x, state)]

    def run() -> Sequence[Tensor]:
        y, h_n = gru(*leaves)
        gradients = torch.autograd.grad(y.sum() + h_n.sum(), [*leaves, *gru.parameters()])
        return [y.detach(), h_n.detach(), *gradients]

    return run


def without_gradient(module: Callable[..., Sequence[Tensor]], x: Tensor, state: Tensor) -> Run:
    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return module(x, state)

    return run


def onnx_runtime(gru: nn.GRU, x: Tensor, state: Tensor) -> Run:
    from bench.onnx_gru import streaming_model

    session = onnx_session(streaming_model(gru, *x.shape[:2]))
    feeds = {"x": x.numpy(), "h0": state.numpy()}
    return lambda: [torch.from_numpy(array) for array in session.run(None, feeds)]


def openvino(gru: nn.GRU, x: Tensor, state: Tensor) -> Run:
    from bench.onnx_gru import streaming_model

    request = openvino_request(streaming_model(gru, *x.shape[:2]), "f32")
    feeds = {"x": x.numpy(), "h0": state.numpy()}

    def run() -> Sequence[Tensor]:
        outputs = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1])]

    return run
