"""A GRU called for a few frames at a time, its state carried from call to call: GRU.stream(), the module, and peers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bench import peers
from bench.cases import Run
from bench.rows import CRRL, TORCH, Row, to_beat
from bench.timing import Entry, made
from crrl.nn import GRU

INPUTS, HIDDEN, FRAMES, ROWS = 150, 256, (1, 4, 8, 16), (1, 8)
STREAM, MODULE, TRAINED = (
    "GRU.stream(), one layer, forward",
    "GRU, one layer, forward",
    "GRU, one layer, forward + backward",
)
LIMIT = 1e-5


def entries() -> Iterator[partial[Entry]]:
    """On one of torch's threads, then on all of them."""
    for threads in sorted({1, torch.get_num_threads()}):
        for what in (STREAM, MODULE, TRAINED):
            yield from (partial(entry, what, frames, rows, threads) for frames in FRAMES for rows in ROWS)


def entry(what: str, frames: int, rows: int, threads: int) -> Entry:
    """A layer on x [B, T, I] and the state [1, B, H]. It sets torch's threads; the other peers take over how many."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, HIDDEN, batch_first=True)
    inputs = torch.randn(rows, frames, INPUTS), torch.rand(1, rows, HIDDEN)
    call = with_gradients if what == TRAINED else without_gradient
    runs: dict[str, Callable[[], Run]] = {
        CRRL: lambda: call(like(gru).stream() if what == STREAM else like(gru), *inputs),
        TORCH: lambda: call(gru, *inputs),
    }
    if what != TRAINED:
        runs |= {"ONNX Runtime": lambda: runtime(peers.onnx_runtime, gru, *inputs)}
        runs |= {"OpenVINO": lambda: runtime(peers.openvino, gru, *inputs)}
    row = Row(
        group=f"{what}, state carried, fp32, {threads} thread{'s' * (threads > 1)}",
        title=f"T={frames}, B={rows}",
        flops=2.0 * (3 if what == TRAINED else 1) * rows * frames * 3 * HIDDEN * (INPUTS + HIDDEN),
        bars=to_beat(TORCH),
        rank=100 * frames + rows,
    )
    return Entry(
        row,
        {name: made(LIMIT, make) for name, make in runs.items()},
        call(copy.deepcopy(gru).double(), *(tensor.double() for tensor in inputs)),
    )


def like(gru: nn.GRU) -> GRU:
    """Ours with its weights."""
    module = GRU(INPUTS, HIDDEN, batch_first=True)
    module.load_state_dict(gru.state_dict())
    return module


def runtime(load: Callable[..., Run], gru: nn.GRU, x: Tensor, state: Tensor) -> Run:
    """A call by a runtime of ONNX models."""
    from bench.onnx_gru import streaming_model

    return load(streaming_model(gru, *x.shape[:2]), {"x": x, "h0": state})


def with_gradients(gru: Callable[..., Sequence[Tensor]], x: Tensor, state: Tensor) -> Run:
    """A call of a module for y, h_n and the gradients of x, the state and all weights."""
    assert isinstance(gru, nn.Module)
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
