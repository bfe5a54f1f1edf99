"""The GRU calls that are timed: their shapes, their inputs and weights, their arithmetic, and the truth in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl import ops

Run = Callable[[], Sequence[Tensor]]
"""One timed call, with its results."""

Forward = Callable[..., Sequence[Tensor]]
"""(module, x), or x alone, to y and h_n."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True)
class Case:
    """One GRU over one batch.

    Attributes:
        title: what the report calls it.
        batch: B rows. frames: T, the longest row. inputs: I per frame. hidden: H units a direction. layers: how many.
        shortest: the shortest row in frames; None: every row has T.
        stepwise: both directions run forwards, as a bidirectional torch.nn.GRU called frame by frame computes.
    """

    title: str
    batch: int = 32
    frames: int = 60
    inputs: int = 150
    hidden: int = 256
    layers: int = 2
    shortest: int | None = None
    stepwise: bool = False

    def lengths(self) -> Tensor | None:
        """int64 [B], spread evenly from `shortest` to T in a fixed random order; None where every row has T."""
        if self.shortest is None:
            return None
        even = torch.linspace(self.shortest, self.frames, self.batch).round().long()
        return even[torch.randperm(self.batch, generator=torch.Generator().manual_seed(1))]

    def forward_flops(self) -> float:
        """2 FLOP for each weight and valid frame, both directions; the gates' own few FLOP are not counted."""
        lengths = self.lengths()
        valid = self.batch * self.frames if lengths is None else int(lengths.sum())
        widths = [self.inputs, *[2 * self.hidden] * (self.layers - 1)]
        return sum(2.0 * valid * 2 * 3 * self.hidden * (width + self.hidden) for width in widths)


NTU = Case("NTU 60/120, B=32")
RAGGED = Case("ragged 10..60, B=32", shortest=10)
CASES = (
    NTU,
    Case("CMU, B=32", inputs=93, frames=100),
    Case("NW-UCLA, B=32", inputs=60, frames=50),
    RAGGED,
    Case("B=1", batch=1),
    Case("B=256", batch=256),
    Case("H=128, B=32", hidden=128),
    Case("H=512, B=32", hidden=512),
    Case("H=1024, B=32", hidden=1024),
)
"""The paper's four data sets, then NTU's shape (I=150, T=60, H=256) with one thing changed."""

STEPWISE = Case("stepwise, 3 layers of 1024, T=64, B=32", frames=64, hidden=1024, layers=3, stepwise=True)
FEW_FRAMES = Case("4 frames, B=32", frames=4)
"""For torch.compile, which unrolls the frames: a graph of 60 takes it minutes."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What every peer is given: the weights, x [B, T, I], lengths int64 [B] or None, and dy [B, T, 2·H]."""

    case: Case
    gru: nn.GRU
    x: Tensor
    lengths: Tensor | None
    dy: Tensor


@lru_cache(maxsize=1)
def problem(case: Case) -> Problem:
    """The same numbers for the same case; dy is the gradient that reaches the output, 0 at padded frames."""
    torch.manual_seed(0)
    gru = nn.GRU(case.inputs, case.hidden, case.layers, bidirectional=True, batch_first=True)
    x = torch.randn(case.batch, case.frames, case.inputs)
    dy = torch.randn(case.batch, case.frames, 2 * case.hidden)
    lengths = case.lengths()
    if lengths is not None:
        dy[torch.arange(case.frames) >= lengths[:, None]] = 0
    return Problem(case, gru, x, lengths, dy)


@lru_cache(maxsize=1)
def truth(case: Case) -> dict[bool, list[Tensor]]:
    """torch.nn.GRU's results in float64: without backward y and h_n, with it y, dx and the weights' gradients."""
    p = problem(case)
    gru, x = converted(p, "fp64"), p.x.double().requires_grad_()
    forward_only = case.stepwise  # called frame by frame its backward would take half a minute, and nobody asks for it
    with torch.set_grad_enabled(not forward_only):
        y, h_n = torch_forward(p)(gru, x)
    results = {False: [y.detach(), h_n.detach()]}
    if not forward_only:
        results[True] = [y.detach(), *torch.autograd.grad(y, [x, *gru.parameters()], p.dy.double())]
    return results


def differentiable(module: nn.Module, p: Problem, dtype: str, backward: bool, forward: Forward) -> Run:
    """A call of `forward(module, x)`: [y, h_n]; with backward [y, dx, the gradients of all weights], for dy at y."""
    return called(partial(forward, module), list(module.parameters()), p, dtype, backward)


def called(forward: Forward, leaves: Sequence[Tensor], p: Problem, dtype: str, backward: bool) -> Run:
    """A call of `forward(x)`: its results; with backward [y, dx, the gradients of `leaves`], for dy at y."""
    x, dy = p.x.to(DTYPES[dtype], copy=True).requires_grad_(backward), p.dy.to(DTYPES[dtype])
    inputs = [x, *leaves]

    def infer() -> Sequence[Tensor]:
        with torch.no_grad():
            return forward(x)

    def train() -> Sequence[Tensor]:
        y = forward(x)[0]
        return [y.detach(), *torch.autograd.grad(y, inputs, dy)]

    return train if backward else infer


def by_policy(run: Run, policy: str) -> Run:
    """The call with backends chosen by this policy."""

    def call() -> Sequence[Tensor]:
        with ops.use_backends(policy):
            return run()

    return call


def on_device(p: Problem, device: torch.device) -> Problem:
    """The problem there; its lengths stay where they are."""
    return replace(p, gru=copy.deepcopy(p.gru).to(device), x=p.x.to(device), dy=p.dy.to(device))


def converted(p: Problem, dtype: str) -> nn.GRU:
    """A copy of the problem's torch.nn.GRU in this dtype."""
    return copy.deepcopy(p.gru).to(DTYPES[dtype])


def torch_gru(p: Problem, dtype: str, backward: bool) -> Run:
    """torch.nn.GRU in this dtype."""
    return differentiable(converted(p, dtype), p, dtype, backward, torch_forward(p))


def torch_forward(p: Problem) -> Forward:
    """How torch.nn.GRU is called: on a PackedSequence where rows are ragged, frame by frame where it is stepwise."""

    def whole(gru: nn.GRU, x: Tensor) -> Sequence[Tensor]:
        return gru(x)  # type: ignore[no-any-return]

    def packed(gru: nn.GRU, x: Tensor) -> Sequence[Tensor]:
        assert p.lengths is not None
        y, h_n = gru(pack_padded_sequence(x, p.lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=p.case.frames)[0], h_n

    def by_frame(gru: nn.GRU, x: Tensor) -> Sequence[Tensor]:
        outputs, h = [], None
        for frame in torch.split(x, 1, dim=1):
            y, h = gru(frame, h)
            outputs.append(y)
        assert h is not None
        return torch.cat(outputs, dim=1), h

    return by_frame if p.case.stepwise else whole if p.lengths is None else packed
