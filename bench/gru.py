"""Rows of the GRU: crrl.nn.GRU against everyone who computes the same, on a CPU and, its CUDA kernels forced, on a GPU.

On a CPU results are held to fixed limits, on a GPU to a multiple of cuDNN's own error; both against float64 on a CPU.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import peers, timing
from bench.cases import (
    CASES,
    DTYPES,
    FEW_FRAMES,
    RAGGED,
    STEPWISE,
    Case,
    Problem,
    Run,
    by_policy,
    converted,
    on_device,
    problem,
    torch_gru,
    truth,
)
from bench.peers import compiled, crrl_gru, crrl_module
from bench.rows import COMPILED, CRRL, EAGER, REPLAYED, TORCH, Bar, Row, to_beat
from bench.timing import SERIES, Contender, Entry
from crrl.nn import GRU, run_together
from crrl.ops import cuda

# --- On a CPU --------------------------------------------------------------------------------------------------------

TO_BEAT = {
    ("NTU 60/120, B=32", False, "fp32"): "OpenVINO",
    ("NTU 60/120, B=32", False, "bf16"): "OpenVINO",
    ("NTU 60/120, B=32", True, "fp32"): "torch",
    ("NTU 60/120, B=32", True, "bf16"): "torch fp32",
    ("B=1", False, "fp32"): "ONNX Runtime",
    ("B=1", False, "bf16"): "OpenVINO",
    ("ragged 10..60, B=32", True, "fp32"): "torch",
    (STEPWISE.title, False, "fp32"): "torch",
}
"""(case, backward, dtype): the peer known to be strongest there, for the report's bars."""


def cpu_entries(dtype: str) -> Iterator[partial[Entry]]:
    """The longest first: they take what they must, and the others share what time is left."""
    for case in sorted(CASES, key=lambda case: -case.forward_flops()):  # the outermost: it is set up once
        yield from (partial(cpu_entry, case, dtype, backward) for backward in (False, True))
    if dtype == "fp32":
        yield from (partial(cpu_entry, case, dtype, False) for case in (STEPWISE, FEW_FRAMES))


def cpu_entry(case: Case, dtype: str, backward: bool) -> Entry:
    """Forward, or forward + backward, by everyone."""
    p = problem(case)
    names = [name for name in peers.ON_CPU if name != "torch fp32" or dtype != "fp32"]  # it is "torch" there
    row = Row(
        group=f"GRU, {'forward + backward' if backward else 'forward'}, {dtype}",
        title=case.title,
        dtype=dtype,
        flops=case.forward_flops() * (3 if backward else 1),
        bars=to_beat(TO_BEAT.get((case.title, backward, dtype))),
        rank=[*CASES, STEPWISE, FEW_FRAMES].index(case) if case in (*CASES, STEPWISE, FEW_FRAMES) else 0,
    )
    builds = {name: partial(cpu_contender, name, p, dtype, backward) for name in names}
    return Entry(row, builds, lambda: truth(case)[backward])


def cpu_contender(name: str, p: Problem, dtype: str, backward: bool) -> Contender:
    """With the errors it may have, against float64."""
    run = peers.ON_CPU[name](p, dtype, backward)
    if dtype == "fp32" or name == "torch fp32":
        # Sums in another order: torch's own distance from float64 is up to a tenth of this.
        return Contender(run, limit=1e-5)
    if name == TORCH:
        # bf16 keeps 8 bits, and the states pass through 60 frames; this catches a wrong result, not a rough one.
        return Contender(run, limit=0.1)
    # Ours no worse than twice torch's bf16, result by result; others may keep less in float32 than torch does.
    return Contender(run, limit=2 if name == CRRL else 4, relative_to=TORCH)


# --- On a GPU --------------------------------------------------------------------------------------------------------

CENTRE = Case("B=32, T=60, H=256")
GRID = (
    *(Case(f"B={batch}", batch=batch) for batch in (1, 8, 128, 256)),
    *(Case(f"T={frames}", frames=frames) for frames in (100, 300)),
    *(Case(f"H={hidden}", hidden=hidden) for hidden in (128, 512, 1024)),
)
"""The centre with one thing changed."""

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
FEW_SERIES = 7
"""Of a contender in the rows of the grid."""


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


def mine(mode: str, make: Callable[[], Run], replay: bool = True) -> Contender:
    """One of ours, replayed or eager, held to cuDNN's error."""
    run = timing.replayed([make()]) if replay else make()
    return Contender(run, TIMES_CUDNN, relative_to=CUDNN, least=LEAST[mode])


def theirs(mode: str, make: Callable[[], Run], replay: bool = False) -> Contender:
    return Contender(timing.replayed([make()]) if replay else make(), SOUND[mode])


def gru_entry(
    device: torch.device, case: Case, mode: str, kind: str, predicted: float | None = None, bars: tuple[Bar, ...] = (),
    series: int = SERIES, variants: tuple[str, ...] = (), with_compiled: bool = False,
) -> Entry:  # fmt: skip
    """A GRU of a size in a mode: forward, forward with what its backward needs, or both passes."""
    allow_tf32(mode == "tf32")
    p, dtype = on_device(problem(case), device), MODES[mode]
    builds = {
        REPLAYED: partial(mine, mode, partial(ours, p, dtype, kind)),
        EAGER: partial(mine, mode, partial(ours, p, dtype, kind), replay=False),
        CUDNN: partial(theirs, mode, partial(cudnn, p, dtype, kind)),
        CUDNN_REPLAYED: partial(theirs, mode, partial(cudnn, p, dtype, kind), replay=True),
    }
    for variant in variants:
        run = lambda variant=variant: of_variant(ours(p, dtype, kind), variant)  # noqa: E731
        builds[f"crrl, {variant}, graph replay"] = partial(mine, mode, run)
    if with_compiled:
        builds[COMPILED] = partial(theirs, mode, partial(compiled, p, dtype, kind == BOTH))
    row = Row(group_of(mode), f"{case.title}: {kind}", mode, predicted_us=predicted, bars=bars)
    return Entry(row, builds, lambda: truth(case)[kind == BOTH], series)


def group_of(mode: str) -> str:
    return f"GRU encoder, {mode}"


RAGGED_LIMIT = 3e-2
"""TF32 keeps 10 bits of a factor, and states pass through 60 frames; this catches a wrong result, not a rough one."""


def ragged_entry(device: torch.device, backward: bool, predicted: float, case: Case = RAGGED) -> Entry:
    """Ragged rows: torch.nn.GRU packs them, crrl.nn.GRU runs them padded, with their lengths on the device."""
    host = problem(case)
    there = on_device(host, device)
    assert host.lengths is not None
    run = crrl_gru(replace(there, lengths=host.lengths.to(device)), "fp32", backward)
    builds = {
        REPLAYED: lambda: Contender(timing.replayed([run]), RAGGED_LIMIT),
        EAGER: lambda: Contender(run, RAGGED_LIMIT),
        "torch.nn.GRU, packed": lambda: Contender(torch_gru(there, "fp32", backward), RAGGED_LIMIT),
    }
    title = BOTH if backward else FORWARD
    row = Row(f"GRU encoder, {case.title}, T={case.frames}", title, predicted_us=predicted)
    return Entry(row, builds, lambda: truth(case)[backward], SERIES)


def unrolled_entry(device: torch.device, backward: bool, case: Case = FEW_FRAMES) -> Entry:
    """torch.compile that traces the GRU, at a few frames."""
    allow_tf32(True)
    p, kind = on_device(problem(case), device), BOTH if backward else FORWARD
    builds = {
        REPLAYED: partial(mine, "tf32", partial(ours, p, "fp32", kind)),
        f"{COMPILED}, unrolled": partial(theirs, "tf32", partial(compiled, p, "fp32", backward, unrolled=True)),
    }
    row = Row("GRU encoder, unrolled by torch.compile", f"{case.title}: {kind}")
    return Entry(row, builds, lambda: truth(case)[backward], SERIES)


def open_peer_entry(device: torch.device, name: str, mode: str, backward: bool, case: Case = CENTRE) -> Entry:
    """Ours beside an open peer, in a row of their own: peers may take long to compile. y, and dx, are compared."""
    allow_tf32(mode == "tf32")
    p, dtype, kind = on_device(problem(case), device), MODES[mode], BOTH if backward else FORWARD
    results = 2 if backward else 1
    run = ours(p, dtype, kind)
    builds = {
        REPLAYED: partial(mine, mode, lambda: lambda: run()[:results]),
        name: partial(theirs, mode, partial(peers.stacked, peers.OPEN[name], p, dtype, backward)),
    }
    row = Row("GRU encoder, open peers", f"{case.title}, {mode}, {name}: {kind}", mode)
    return Entry(row, builds, lambda: truth(case)[backward][:results], SERIES)


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
        REPLAYED: partial(mine, mode, together),
        EAGER: partial(mine, mode, together, replay=False),
        TWO_REPLAYED: partial(mine, mode, partial(one_by_one, GRU)),
        CUDNN: partial(theirs, mode, partial(one_by_one, nn.GRU)),
        CUDNN_REPLAYED: partial(theirs, mode, partial(one_by_one, nn.GRU), replay=True),
    }
    row = Row("both GRU encoders, forward", f"{case.title}, {mode}", mode, predicted_us=predicted, bars=bars)
    return Entry(row, builds, expected, SERIES)


def exactly(gru: nn.GRU, x: Tensor) -> list[Tensor]:
    """y and h_n in float64 on the CPU."""
    return list(copy.deepcopy(gru).cpu().double()(x.cpu().double()))


def differences(rows: Sequence[Row], predicted: float | None = None, bars: tuple[Bar, ...] = ()) -> list[Row]:
    """The backward pass at the centre, in TF32: both passes less the forward pass that is kept for it."""
    calls = {row.title: row.calls_ms for row in rows if row.group == group_of("tf32")}
    whole, part = (calls.get(f"{CENTRE.title}: {kind}", {}) for kind in (BOTH, KEPT))
    found = {name: [statistics.median(whole[name]) - statistics.median(part[name])] for name in whole if name in part}
    row = Row(group_of("tf32"), f"{CENTRE.title}: {BACKWARD}, by difference", "tf32", calls_ms=found)
    row.predicted_us, row.bars = predicted, bars
    return [row] if found else []
