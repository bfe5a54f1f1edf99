"""Rows of the exchanges that the CUDA GRU rests on: what a team of blocks does after every frame, without its products.

One call is one round of 8 rows. "gather", of the forward pass: every block publishes its 32 units, and reads those of
all. "scatter", of the backward pass: every block sends each other one its part of a sum, which that one adds up. Each
goes through distributed shared memory, "l2 gather" and "l2 scatter" through global memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cases import Run
from bench.machine import NATIVE
from bench.rows import Bar, Row
from bench.timing import SERIES, Contender, Entry
from crrl.ops import cuda

GATHER, SCATTER = "gather", "scatter"
WAYS = (GATHER, SCATTER, f"l2 {GATHER}", f"l2 {SCATTER}")
KINDS = ((GATHER, 4), (GATHER, 2), (SCATTER, 4))
"""What the recurrence exchanges: h in 32 or 16 bits, and float32 parts of sums."""
ROUNDS = 10_000
"""Of a launch: what launching takes is lost in them."""
PROVEN = 37
"""Rounds of the launch whose results are compared."""

THREADS, UNITS, ROWS = 256, 32, 8
MIX = np.uint32(0x9E3779B1)

TEAMS = {4: 32, 8: 16, 16: 4}
"""Blocks of a team to teams at once: some 128 blocks, as the two directions of both encoders take; of the clusters of
16, no more than surely run at once."""

LIMIT_US = 0.25
"""Of a round of 8 blocks that gather one number a unit: past it the design of the recurrence is to be thought over."""


@dataclass(frozen=True)
class Exchange:
    """What bench/native/exchange.hpp calls a case."""

    way: str
    itemsize: int
    blocks: int
    teams: int
    rounds: int = PROVEN

    def arguments(self) -> tuple[str, int, int, int, int]:
        return (self.way, self.itemsize, self.blocks, self.teams, self.rounds)


def proof(case: Exchange) -> NDArray[np.uint32]:
    """What the kernel's threads end with, uint32 [teams, blocks, 256], by definition."""
    state = np.arange(case.teams * case.blocks * THREADS, dtype=np.uint32)
    state = state.reshape(case.teams, case.blocks, ROWS, UNITS)
    one_round = partial(_scattered, blocks=case.blocks) if case.way.endswith(SCATTER) else partial(_gathered, case=case)
    with np.errstate(over="ignore"):
        for _ in range(case.rounds):
            state = one_round(state)
    return state.reshape(case.teams, case.blocks, THREADS)


def _gathered(state: NDArray[np.uint32], case: Exchange) -> NDArray[np.uint32]:
    """Each lane of a row's warp reads every 32nd 16 bytes of the row's vector, [block, unit]."""
    vectors = state.transpose(0, 2, 1, 3).reshape(case.teams, ROWS, -1)
    narrow = vectors.astype(np.uint16) if case.itemsize == 2 else vectors
    words = np.ascontiguousarray(narrow).view(np.uint32).reshape(case.teams, 1, ROWS, -1, 4)
    pieces = words.shape[3]
    for first in range(0, pieces, UNITS):
        piece = np.arange(UNITS) % pieces + first
        for word in range(4):
            read = state * MIX + words[..., np.minimum(piece, pieces - 1), word]
            state = np.where(piece < pieces, read, state)
    return state


def _scattered(state: NDArray[np.uint32], blocks: int) -> NDArray[np.uint32]:
    """Each block adds up what the lanes of all blocks sent it: a lane sends every 32nd piece of the owners."""
    owner, unit = np.arange(blocks, dtype=np.uint32)[:, None], np.arange(UNITS, dtype=np.uint32)
    lane = (owner * 8 + unit // 4) % 32
    parts = state[..., lane] + (owner * np.uint32(UNITS) + unit)  # team, from, row, owner, unit
    return state * MIX + parts.sum(1, dtype=np.uint32).transpose(0, 2, 1, 3)


def launcher(native: Any, device: torch.device, case: Exchange) -> Run:
    """A launch of the case; gives what its threads ended with, int32 [teams, blocks, 256] of the bits of uint32."""
    result = torch.zeros(case.teams, case.blocks, THREADS, dtype=torch.int32, device=device)
    workspace = torch.empty(native.workspace(case.arguments()) + 256, dtype=torch.uint8, device=device)
    index, stream = cuda.place(result)
    status = cuda.status(index)
    aligned = -(-workspace.data_ptr() // 256) * 256

    def run() -> list[Tensor]:
        native.exchange(
            case.arguments(), result.data_ptr(), aligned, status.data_ptr(), cuda.patience_ns(), index, stream
        )
        if cuda.timed_out(index):
            raise RuntimeError("a block waited too long for its team")
        return [result, workspace[:0]]  # which keeps it

    return run


NVCC_FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall")


def target(capability: tuple[int, int]) -> str:
    """What TORCH_CUDA_ARCH_LIST calls a GPU; from 9.0 on with what is its architecture's alone."""
    major, minor = capability
    return f"{major}.{minor}{'a' if major >= 9 else ''}"


def found_tool(name: str) -> str | None:
    """A tool of the CUDA toolkit."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def native_module(capability: tuple[int, int] | None = None) -> Any:
    """bench/native/exchange.cu for the GPU that is there, or one of this capability.

    Raises:
        FileNotFoundError: there is no nvcc. RuntimeError: nvcc cannot compile it.
    """
    from tests.cuda.build import KERNELS, Compiler, build

    nvcc = found_tool("nvcc")
    if nvcc is None:
        raise FileNotFoundError("no nvcc, which compiles bench/native/exchange.cu")
    number = target(capability or torch.cuda.get_device_capability()).replace(".", "")
    code = f"-gencode=arch=compute_{number},code=sm_{number}"
    compiler = Compiler(nvcc, (*NVCC_FLAGS, code), ("-cudart=static",))
    device = KERNELS / "device"
    sources = [NATIVE / "exchange.cu", NATIVE / "exchange_module.cpp", device / "launch.cu"]
    return build("crrl_bench_exchange", sources, include=[device, KERNELS], compiler=compiler)


def exchange_entry(
    device: torch.device, way: str, blocks: int, itemsize: int, predicted: float | None = None,
    bars: tuple[Bar, ...] = (), teams: int | None = None, module: Callable[[], Any] = native_module,
) -> Entry:  # fmt: skip
    """A way through distributed shared memory, and the same through global memory, in turns."""
    native, at_once = module(), teams or TEAMS[blocks]
    start = Exchange(way, itemsize, blocks, at_once)

    def build(way: str) -> Contender:
        case = replace(start, way=way)
        timed, proven = launcher(native, device, replace(case, rounds=ROUNDS)), launcher(native, device, case)
        results = lambda: [checked(proven()[0], case)]  # noqa: E731
        return Contender(timed, limit=0, results=results, calls=ROUNDS)

    kind = {4: "32-bit", 2: "16-bit"}[itemsize]
    row = Row(f"exchange, one {way}", f"{blocks} blocks, {at_once} teams, {kind}", predicted_us=predicted, bars=bars)
    return Entry(row, {each: partial(build, each) for each in (way, f"l2 {way}")}, lambda: [torch.ones(1)], SERIES)


def checked(result: Tensor, case: Exchange) -> Tensor:
    """The share of the threads that ended with what they should: 1."""
    expected = torch.from_numpy(proof(case).view(np.int32))
    return (result.cpu() == expected).double().mean().reshape(1)
