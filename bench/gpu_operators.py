"""Rows of the operators on a GPU: copy bandwidth, InfoNCE, the optimizer step with the momentum update, the gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import gpu_timing
from bench.cases import DTYPES, Run
from bench.gpu_report import COPY
from bench.gpu_rows import COMPILED, EAGER, REPLAYED, Bar, GpuRow
from bench.gpu_timing import Entry, GpuContender, in_turn
from bench.operators import (
    TEMPERATURE,
    Stepped,
    by_torch,
    differentiated,
    flat,
    info_nce_inputs,
    optimizer_tensors,
    ragged_clips,
)
from crrl import ops
from crrl.ops import infonce
from crrl.reference import contrast, motion, optim

SETS = 4
"""Sets of inputs that a row goes through, together larger than a cache."""

TORCH, TORCH_REPLAYED = "PyTorch, eager", "PyTorch, graph replay"


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


def info_nce_entry(
    device: torch.device, keys: int, dtype: str, predicted: float, bars: tuple[Bar, ...] = (), batch: int = 32,
    features: int = 512,
) -> Entry:  # fmt: skip
    """Loss and dq. The replay of ours is the operator, which gives both; eager ours goes through autograd."""
    sets = [info_nce_inputs(device, keys, DTYPES[dtype], batch, features) for _ in range(SETS)]
    ours = [partial(infonce.info_nce_op, *tensors, TEMPERATURE) for tensors in sets]
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
    frames, offsets, lengths = ragged_clips(clips, channels, longest)
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
