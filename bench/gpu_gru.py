"""Rows of the CUDA GRU: crrl.nn.GRU with its kernels forced, against cuDNN's, eager and in a graph, and open peers.

What ours may be off by is a multiple of cuDNN's own error, both against float64 on the CPU.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench import gpu_peers, gpu_timing
from bench.cases import (
    DTYPES,
    Case,
    Problem,
    Run,
    by_policy,
    converted,
    differentiable,
    on_device,
    problem,
    torch_forward,
    torch_gru,
    truth,
)
from bench.gpu_rows import COMPILED, EAGER, REPLAYED, Bar, GpuRow
from bench.gpu_timing import ROUNDS, Entry, GpuContender
from bench.peers import crrl_gru, crrl_module
from crrl.nn import GRU, run_together
from crrl.ops import cuda

CENTRE = Case("B=32, T=60, H=256")
GRID = (
    *(Case(f"B={batch}", batch=batch) for batch in (1, 8, 128, 256)),
    *(Case(f"T={frames}", frames=frames) for frames in (100, 300)),
    *(Case(f"H={hidden}", hidden=hidden) for hidden in (128, 512, 1024)),
)
"""The centre with one thing changed."""
FEW_FRAMES = Case("T=4", frames=4)
"""For torch.compile made to trace the GRU, which it unrolls: 60 frames take it minutes."""

FORWARD, KEPT, BOTH = "forward", "forward, kept for the backward", "forward + backward"
BACKWARD = "backward"
MODES = {"tf32": "fp32", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
"""A mode and the dtype of its tensors."""

CUDNN, CUDNN_REPLAYED = "cuDNN, eager", "cuDNN, graph replay"
TWO_REPLAYED = "crrl, two calls, graph replay"
FORCED = "gru_layer=cuda"

TIMES_CUDNN = 3.0
"""What ours may be off by, in errors of cuDNN's eager GRU on the same numbers."""
LEAST = {"tf32": 3e-3, "fp32": 1e-5, "bf16": 3e-2, "fp16": 5e-3}
"""What is allowed even if cuDNN is better, as the norm of the difference: a few roundings of the mode's operands, as
cuDNN may pick a kernel that is more exact than the mode asks for."""
SOUND = {mode: 10 * least for mode, least in LEAST.items()}
"""For peers: this catches a wrong result, not a rough one."""
FEW_ROUNDS = 7
"""Turns in the rows of the grid."""


def allow_tf32(allowed: bool) -> None:
    """Set torch's switches, of the process: until another row sets them."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def forced(run: Run) -> Run:
    """The call by our kernels."""
    return by_policy(run, FORCED)


def kept(module: nn.Module, x: Tensor) -> Run:
    """A forward pass in training: y and h_n."""
    return lambda: [tensor.detach() for tensor in module(x)]


def ours(p: Problem, dtype: str, kind: str) -> Run:
    run = kept(crrl_module(p, dtype), p.x.to(DTYPES[dtype])) if kind == KEPT else crrl_gru(p, dtype, kind == BOTH)
    return forced(run)


def cudnn(p: Problem, dtype: str, kind: str) -> Run:
    return kept(converted(p, dtype), p.x.to(DTYPES[dtype])) if kind == KEPT else torch_gru(p, dtype, kind == BOTH)


def compiled(p: Problem, dtype: str, kind: str, unrolled: bool = False) -> Run:
    """torch.compile of torch.nn.GRU: as it comes, which leaves the GRU to cuDNN, or told to trace it."""
    module = cast(nn.Module, torch.compile(converted(p, dtype), dynamic=False))
    run = differentiable(module, p, dtype, kind == BOTH, torch_forward(p))
    with torch._dynamo.config.patch(allow_rnn=unrolled):
        run()  # within the patch: it compiles now
    return run


class OneVariant:
    """crrl._cuda, of whose plans it lets through those of one variant."""

    def __init__(self, native: Any, variant: str):
        self._native, self._variant = native, variant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def gru_plan(self, *arguments: Any) -> Any:
        return self._native.gru_plan(*arguments, self._variant)


@contextmanager
def standing_in(native: Any) -> Iterator[None]:
    """Within the block crrl's operators call this instead of crrl._cuda."""
    before = cuda.native
    cuda.native = native
    try:
        yield
    finally:
        cuda.native = before


def of_variant(run: Run, variant: str) -> Run:
    """A call of ours by the kernels of one variant."""
    native = OneVariant(cuda.native, variant)

    def call() -> Sequence[Tensor]:
        with standing_in(native):
            return run()

    return call


def contender(name: str, mode: str, make: Callable[[], Run], replay: bool = False, peer: bool = False) -> GpuContender:
    """Who is timed; `peer`: not one of ours."""
    run = gpu_timing.replayed([make()]) if replay else make()
    if peer:
        return GpuContender(name, run, SOUND[mode])
    return GpuContender(name, run, TIMES_CUDNN, relative_to=CUDNN, least=LEAST[mode])


def gru_entry(
    device: torch.device, case: Case, mode: str, kind: str, predicted: float | None = None, bars: tuple[Bar, ...] = (),
    rounds: int = ROUNDS, variants: tuple[str, ...] = (), with_compiled: bool = False,
) -> Entry:  # fmt: skip
    """A GRU of a size in a mode: forward, forward with what its backward needs, or both passes."""
    allow_tf32(mode == "tf32")
    p, dtype = on_device(problem(case), device), MODES[mode]
    mine, theirs = partial(ours, p, dtype, kind), partial(cudnn, p, dtype, kind)
    builds = {
        REPLAYED: lambda: contender(REPLAYED, mode, mine, replay=True),
        EAGER: lambda: contender(EAGER, mode, mine),
        CUDNN: lambda: contender(CUDNN, mode, theirs, peer=True),
        CUDNN_REPLAYED: lambda: contender(CUDNN_REPLAYED, mode, theirs, replay=True, peer=True),
    }
    for variant in variants:
        name = f"crrl, {variant}, graph replay"
        run = lambda variant=variant: of_variant(mine(), variant)  # noqa: E731
        builds[name] = partial(contender, name, mode, run, replay=True)
    if with_compiled:
        builds[COMPILED] = lambda: contender(COMPILED, mode, partial(compiled, p, dtype, kind), peer=True)
    row = GpuRow(group_of(mode), f"{case.title}: {kind}", mode, predicted_us=predicted, bars=bars)
    return Entry(row, builds, lambda: truth(case)[kind == BOTH], rounds)


def group_of(mode: str) -> str:
    return f"GRU encoder, {mode}"


def unrolled_entry(device: torch.device, backward: bool, case: Case = FEW_FRAMES) -> Entry:
    """torch.compile that traces the GRU, at a few frames."""
    allow_tf32(True)
    p, kind = on_device(problem(case), device), BOTH if backward else FORWARD
    name = f"{COMPILED}, unrolled"
    builds = {
        REPLAYED: lambda: contender(REPLAYED, "tf32", partial(ours, p, "fp32", kind), replay=True),
        name: lambda: contender(name, "tf32", partial(compiled, p, "fp32", kind, True), peer=True),
    }
    row = GpuRow("GRU encoder, unrolled by torch.compile", f"{case.title}: {kind}")
    return Entry(row, builds, lambda: truth(case)[backward])


def open_peer_entry(device: torch.device, name: str, mode: str, backward: bool, case: Case = CENTRE) -> Entry:
    """Ours beside an open peer, in a row of their own: peers may take long to compile. y, and dx, are compared."""
    allow_tf32(mode == "tf32")
    p, dtype, kind = on_device(problem(case), device), MODES[mode], BOTH if backward else FORWARD
    results = 2 if backward else 1
    mine = ours(p, dtype, kind)
    theirs = partial(gpu_peers.stacked, gpu_peers.PEERS[name], p, dtype, backward)
    builds = {
        REPLAYED: lambda: contender(REPLAYED, mode, lambda: lambda: mine()[:results], replay=True),
        name: lambda: contender(name, mode, theirs, peer=True),
    }
    row = GpuRow("GRU encoder, open peers", f"{case.title}, {mode}, {name}: {kind}", mode)
    return Entry(row, builds, lambda: truth(case)[backward][:results])


def pair_entry(
    device: torch.device, mode: str, predicted: float, bars: tuple[Bar, ...] = (), case: Case = CENTRE
) -> Entry:
    """The two encoders of a CML step: the query's forward pass, kept for its backward, and the key's."""
    allow_tf32(mode == "tf32")
    p, dtype = on_device(problem(case), device), DTYPES[MODES[mode]]
    torch.manual_seed(1)
    v, key = torch.randn_like(p.x), nn.GRU(case.inputs, case.hidden, case.layers, bidirectional=True, batch_first=True)
    host = [p.gru, key.to(device)]
    x, v = p.x.to(dtype), v.to(dtype)

    def modules(kind: type[nn.GRU]) -> list[Any]:
        made = [kind(case.inputs, case.hidden, case.layers, bidirectional=True, batch_first=True) for _ in host]
        for module, source in zip(made, host, strict=True):
            module.load_state_dict(source.state_dict())
        return [module.to(device, dtype) for module in made]

    def together() -> Run:
        query, other = modules(GRU)
        return forced(lambda: [t.detach() for pair in run_together(query, x, other, v) for t in pair])

    def one_by_one(kind: type[nn.GRU]) -> Run:
        query, other = modules(kind)

        def run() -> list[Tensor]:
            with torch.no_grad():
                keys = other(v)
            return [t.detach() for t in (*query(x), *keys)]

        return forced(run) if kind is GRU else run

    def expected() -> list[Tensor]:
        with torch.no_grad():
            return [t for gru, of in zip(host, (p.x, v), strict=True) for t in exactly(gru, of)]

    builds = {
        REPLAYED: lambda: contender(REPLAYED, mode, together, replay=True),
        EAGER: lambda: contender(EAGER, mode, together),
        TWO_REPLAYED: lambda: contender(TWO_REPLAYED, mode, partial(one_by_one, GRU), replay=True),
        CUDNN: lambda: contender(CUDNN, mode, partial(one_by_one, nn.GRU), peer=True),
        CUDNN_REPLAYED: lambda: contender(CUDNN_REPLAYED, mode, partial(one_by_one, nn.GRU), replay=True, peer=True),
    }
    row = GpuRow("both GRU encoders, forward", f"{case.title}, {mode}", mode, predicted_us=predicted, bars=bars)
    return Entry(row, builds, expected)


def exactly(gru: nn.GRU, x: Tensor) -> list[Tensor]:
    """y and h_n in float64 on the CPU."""
    return list(copy.deepcopy(gru).cpu().double()(x.cpu().double()))


def differences(rows: Sequence[GpuRow], predicted: float | None = None, bars: tuple[Bar, ...] = ()) -> list[GpuRow]:
    """The backward pass at the centre, in TF32: both passes less the forward pass that is kept for it."""
    calls = {row.title: row.calls_ms for row in rows if row.group == group_of("tf32")}
    whole, part = (calls.get(f"{CENTRE.title}: {kind}", {}) for kind in (BOTH, KEPT))
    found = {name: [statistics.median(whole[name]) - statistics.median(part[name])] for name in whole if name in part}
    row = GpuRow(group_of("tf32"), f"{CENTRE.title}: {BACKWARD}, by difference", "tf32", calls_ms=found)
    row.predicted_us, row.bars = predicted, bars
    return [row] if found else []
