"""Rows of the operators on a GPU: copy bandwidth, InfoNCE, the optimizer step with the momentum update, the gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import gpu_timing
from bench.cases import DTYPES, Run
from bench.gpu_report import COPY
from bench.gpu_rows import COMPILED, EAGER, REPLAYED, Bar, GpuRow
from bench.gpu_timing import Entry, GpuContender, in_turn
from crrl import ops
from crrl.models import Encoder, MLPHead
from crrl.ops import step as step_ops
from crrl.reference import contrast, motion, optim

SETS = 4
"""Sets of inputs that a row goes through, together larger than a cache."""

TORCH, TORCH_REPLAYED = "PyTorch, eager", "PyTorch, graph replay"
TEMPERATURE = 0.07
LR, MOMENTUM, BETA2, EPS, FOLLOW = 1e-3, 0.9, 0.999, 1e-8, 0.999


def copy_entry(device: torch.device, numbers: int = 2**30) -> Entry:
    """One large buffer into another: the bandwidth of the floors."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)

    def run() -> list[Tensor]:
        target.copy_(source)
        return [target[:1000]]

    row = GpuRow(COPY, f"{4 * numbers / 2**30:g} GiB", bytes=8.0 * numbers, predicted_us=8 * numbers / 4.3e6)
    return Entry(row, {"copy_": lambda: GpuContender("copy_", run, limit=0)}, lambda: [source[:1000]])


def contender(name: str, runs: Sequence[Run], limit: float) -> GpuContender:
    """Calls as a user makes them, each on the next set of inputs; the results are those of the first set."""
    return GpuContender(name, in_turn(runs), limit, results=runs[0])


def replay(name: str, runs: Sequence[Run], limit: float, results: Run | None = None) -> GpuContender:
    """The calls of all sets as one CUDA graph."""
    return GpuContender(name, gpu_timing.replayed(runs), limit, results=results, calls=len(runs))


def differentiated(loss: Callable[..., Tensor], q: Tensor, k: Tensor, queue: Tensor) -> Run:
    """A call of `loss`, and its gradient by q."""
    leaf = q.detach().requires_grad_()

    def run() -> list[Tensor]:
        value = loss(leaf, k, queue, TEMPERATURE)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    return run


def info_nce_entry(
    device: torch.device, keys: int, dtype: str, predicted: float, bars: tuple[Bar, ...] = (), batch: int = 32,
    features: int = 512,
) -> Entry:  # fmt: skip
    """Loss and dq. The replay of ours is the operator, which gives both; eager ours goes through autograd."""
    sets = [_info_nce_inputs(device, keys, DTYPES[dtype], batch, features) for _ in range(SETS)]
    ours = [partial(step_ops.info_nce_op, *tensors, TEMPERATURE) for tensors in sets]
    public = [differentiated(ops.info_nce, *tensors) for tensors in sets]
    theirs = [differentiated(contrast.info_nce, *tensors) for tensors in sets]
    compiled = torch.compile(contrast.info_nce, dynamic=False)
    # float32: logits of up to 1/0.07, their sums in another order. bfloat16: dq is rounded to 8 bits; PyTorch rounds
    # its logits to 8 bits as well.
    limit, loose = (5e-6, 5e-6) if dtype == "fp32" else (1e-2, 0.1)
    builds = {
        REPLAYED: lambda: replay(REPLAYED, ours, limit),
        EAGER: lambda: contender(EAGER, public, limit),
        TORCH: lambda: contender(TORCH, theirs, loose),
        TORCH_REPLAYED: lambda: replay(TORCH_REPLAYED, theirs, loose),
        COMPILED: lambda: contender(COMPILED, [differentiated(compiled, *tensors) for tensors in sets], loose),
    }
    size = queue_bytes(keys, batch, features, DTYPES[dtype].itemsize)
    row = GpuRow("InfoNCE, loss + dq", f"K={keys}, D={features}, B={batch}, {dtype}", dtype, bytes=size, bars=bars)
    row.predicted_us = predicted
    exact = [tensor.cpu().double() for tensor in sets[0]]
    return Entry(row, builds, differentiated(contrast.info_nce, *exact))


def queue_bytes(keys: int, batch: int, features: int, itemsize: int) -> float:
    """queue, q and k in, dq out."""
    return float(features * (keys + 3 * batch) * itemsize)


def _info_nce_inputs(
    device: torch.device, keys: int, dtype: torch.dtype, batch: int, features: int
) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(batch, features, device=device)
    k, queue = (F.normalize(torch.randn(rows, features, device=device)) for rows in (batch, keys))
    return q.to(dtype), k.to(dtype), queue.to(dtype)


@dataclass
class Stepped:
    """An optimizer on tensors of its own, that can be taken back to its start.

    Attributes:
        step: changes parameters and keys. moments: the state that is zero at the start, as far as there is any yet.
    """

    step: Callable[[], None]
    parameters: list[Tensor]
    keys: list[Tensor]
    moments: Callable[[], list[Tensor]]

    def __post_init__(self) -> None:
        self.start = [tensor.detach().clone() for tensor in (*self.parameters, *self.keys)]

    def run(self) -> list[Tensor]:
        self.step()
        return []

    @torch.no_grad()
    def results(self, run: Callable[[], object]) -> list[Tensor]:
        """Parameters and keys, end to end, after one run from the start."""
        for tensor, value in zip((*self.parameters, *self.keys), self.start, strict=True):
            tensor.copy_(value)
        for moment in self.moments():
            moment.zero_()
        run()
        return [torch.cat([t.detach().flatten() for t in tensors]) for tensors in (self.parameters, self.keys)]


def flat(step: Callable[..., None], adam: bool, tensors: list[list[Tensor]]) -> Stepped:
    """A step of `step`, which has flat_step's arguments, on copies of parameters, gradients and keys."""
    parameters, gradients, keys = (torch.cat([t.flatten() for t in group]) for group in tensors)
    moments = [torch.zeros_like(parameters) for _ in range(2 if adam else 1)]
    rates = torch.tensor([LR, MOMENTUM, 1 - MOMENTUM, 1 - BETA2]).to(parameters)
    settings: dict[str, Any] = {"beta2": BETA2, "eps": EPS, "momentum_head": FOLLOW, "momentum_tail": FOLLOW}

    def run() -> None:
        step(parameters, gradients, moments[0], moments[1] if adam else None, keys, rates, **settings)

    return Stepped(run, [parameters], [keys], lambda: moments)


def by_torch(way: str, adam: bool, tensors: list[list[Tensor]], capturable: bool = False) -> Stepped:
    """torch.optim, "fused" or "foreach", on copies; then the keys follow by the fastest of its lists of tensors."""
    parameters, gradients, keys = ([t.clone() for t in group] for group in tensors)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_().grad = gradient
    optimizer: torch.optim.Optimizer
    if adam:
        extra = {"capturable": True} if capturable else {}
        optimizer = torch.optim.Adam(parameters, LR, (MOMENTUM, BETA2), EPS, **{way: True}, **extra)
    else:
        optimizer = torch.optim.SGD(parameters, LR, MOMENTUM, **{way: True})

    @torch.no_grad()
    def run() -> None:
        optimizer.step()
        torch._foreach_lerp_(keys, parameters, 1 - FOLLOW)

    def moments() -> list[Tensor]:
        values = [value for state in optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    return Stepped(run, parameters, keys, moments)


def optimizer_tensors(device: torch.device, channels: int, hidden: int) -> list[list[Tensor]]:
    """Parameters of an encoder and its MLP, gradients and keys of their shapes."""
    modules = [Encoder(channels, hidden), MLPHead(2 * hidden)]
    parameters = [p.detach().to(device) for module in modules for p in module.parameters()]
    return [parameters, *([torch.randn_like(p) for p in parameters] for _ in range(2))]


def optimizer_entry(
    device: torch.device, adam: bool, predicted: float, channels: int = 150, hidden: int = 256
) -> Entry:
    """Optimizer step and Eq. 5 in one pass, against torch's optimizers and a pass of their own for Eq. 5."""
    sets = [optimizer_tensors(device, channels, hidden) for _ in range(SETS)]
    total = sum(parameter.numel() for parameter in sets[0][0])

    def build(name: str, make: Callable[[list[list[Tensor]]], Stepped], graph: bool) -> GpuContender:
        made = [make(tensors) for tensors in sets]
        run = gpu_timing.replayed([one.run for one in made]) if graph else in_turn([one.run for one in made])
        first = run if graph else made[0].run
        calls = len(sets) if graph else 1
        return GpuContender(name, run, 2e-6, results=lambda: made[0].results(first), calls=calls)

    ours = partial(flat, ops.flat_step, adam)
    builds: dict[str, Callable[[], GpuContender]] = {}
    builds[REPLAYED] = partial(build, REPLAYED, ours, True)
    builds[EAGER] = partial(build, EAGER, ours, False)
    for way in ("fused", "foreach"):
        builds[f"torch {way}, eager"] = partial(build, f"torch {way}, eager", partial(by_torch, way, adam), False)
    name = "torch fused, graph replay"
    builds[name] = partial(build, name, partial(by_torch, "fused", adam, capturable=True), True)
    row = GpuRow(
        "Optimizer step + momentum update",
        f"{'Adam' if adam else 'SGD'}, {total / 1e6:.2f} million parameters in {len(sets[0][0])} tensors",
        bytes=float(total * 4 * (9 if adam else 7)),  # p, m, keys (and v) read and written, gradients read
        bars=(Bar(REPLAYED, 1.5),),
        predicted_us=predicted,
    )
    exact = flat(optim.flat_step, adam, [[t.cpu().double() for t in group] for group in sets[0]])
    return Entry(row, builds, lambda: exact.results(exact.run))


def gather_entry(
    device: torch.device, name: str, channels: int, longest: int, predicted: float, clips: int = 1000, batch: int = 32
) -> Entry:
    """A padded batch and its velocity out of a flat array; each call takes other clips."""
    lengths = torch.randint(10, longest + 1, (clips,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    frames = torch.randn(int(offsets[-1]), channels)
    picked = [torch.randperm(clips)[:batch] for _ in range(SETS)]
    data = (frames.to(device), offsets.to(device))

    def runs(gather: Callable[..., Any]) -> list[Run]:
        return [partial(gather, *data, index.to(device), longest, True) for index in picked]

    ours, theirs = runs(ops.ragged_gather), runs(motion.ragged_gather)
    builds = {
        REPLAYED: lambda: replay(REPLAYED, ours, 0),
        EAGER: lambda: contender(EAGER, ours, 0),
        TORCH: lambda: contender(TORCH, theirs, 0),
        TORCH_REPLAYED: lambda: replay(TORCH_REPLAYED, theirs, 0),
    }
    valid = float(torch.cat([lengths[index] for index in picked]).sum()) / len(picked)
    size = 4.0 * channels * (valid + 2 * batch * longest)
    row = GpuRow("ragged gather + velocity", f"{name}, B={batch}", bytes=size, predicted_us=predicted)
    return Entry(row, builds, lambda: motion.ragged_gather(frames, offsets, picked[0], longest, True))  # type: ignore[arg-type, return-value]
