"""What the CUDA GRU and InfoNCE were expected to take before they had been on any card: frames, products, launches.

The figures are estimates for an H200 at 1.98 GHz, from operations, bytes, published microbenchmarks and what nvcc made
of the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from bench.cases import Case


@dataclass(frozen=True)
class Frame:
    """What a frame of the recurrence takes, in instructions of a warp.

    Attributes:
        instructions: of the loop over frames, each counted once. products: of matrices, among them.
        critical: from the wait for the other blocks to the last word that they wait for, or to the release.
        fences: among the critical.
    """

    instructions: int
    products: int
    critical: int
    fences: int


FRAMES = {
    ("forward", "Cluster", 8): Frame(378, 30, 249, 0),
    ("forward", "Cluster", 4): Frame(391, 30, 263, 0),
    ("forward", "L2", 8): Frame(377, 30, 257, 1),
    ("backward", "Cluster", 8): Frame(446, 28, 247, 0),
    ("backward", "Cluster", 4): Frame(453, 28, 251, 0),
    ("backward", "L2", 8): Frame(474, 28, 293, 1),
}
"""By the rows of a team. In TF32 on sm_90a, as nvcc 13.0 makes them: tests/cuda/test_resources.py reads them off."""

CLOCKS_PER_US = 1980.0
ARRIVAL = 230.0
"""Clocks from a send through distributed shared memory to the end of the wait for it."""
BYTES_PER_CLOCK = 13.0
"""That a multiprocessor sends through distributed shared memory."""
L2_ARRIVAL = 1580.0
"""Clocks of a flag through global memory, 0.8 µs, with the numbers that it covers."""
CLOCKS_PER_INSTRUCTION = 2.0
"""Two warps share a scheduler."""
MULTIPLIES_PER_CLOCK = {"fp32": 128.0, "tf32": 600.0, "bf16": 1200.0, "fp16": 1200.0}
"""Of a multiprocessor by mma.sync, some 60 % of its peak; of float32 without tensor cores, the peak."""
ITEMSIZE = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
UNITS, BLOCKS = 32, 128
"""Of a block; and blocks that run at once."""
TFLOPS = {"tf32": 150.0, "fp32": 45.0, "bf16": 300.0, "fp16": 300.0}
"""Of matrix products over all frames, at these sizes some third of what the card can do at best."""
LAUNCH_US = 1.5
"""Of a kernel within a CUDA graph."""
LAUNCHES, ROUND_US = 2, 1.0
"""Launches of InfoNCE, and what each waits for besides: a read of memory, and the sums over a block that need it."""


def exchange_us(blocks: int, rows: int, itemsize: int) -> float:
    """A round of a cluster: each block sends a number of each of its rows and units to each other block."""
    return (ARRIVAL + (blocks - 1) * rows * UNITS * itemsize / BYTES_PER_CLOCK) / CLOCKS_PER_US


def recurrence_us(case: Case, mode: str, backward: bool, chains: int) -> float:
    """All frames of a layer, of `chains` directions of encoders at once; float16 goes back in TF32."""
    if backward and mode == "fp16":
        mode = "tf32"
    clustered = case.hidden <= 16 * UNITS
    blocks = 2 ** ceil(log2(max(2, case.hidden / UNITS))) if clustered else ceil(case.hidden / UNITS)
    at_once = max(1, BLOCKS // blocks)
    sizes = (4, 8, 16, 32) if clustered else (8, 32)
    turns = {rows: ceil(chains * ceil(case.batch / rows) / at_once) for rows in sizes}
    rows = min(sizes, key=lambda size: (turns[size], size))
    frame = FRAMES["backward" if backward else "forward", "Cluster" if clustered else "L2", min(rows, 8)]
    multiplies = 3 * UNITS * blocks * UNITS * max(8, rows)
    instructions = (frame.critical - frame.products) * max(1, rows / 8)
    clocks = multiplies / MULTIPLIES_PER_CLOCK[mode] + instructions * CLOCKS_PER_INSTRUCTION
    itemsize = 4 if backward else ITEMSIZE[mode]
    exchange = exchange_us(blocks, rows, itemsize) if clustered else L2_ARRIVAL / CLOCKS_PER_US
    return turns[rows] * case.frames * (exchange + clocks / CLOCKS_PER_US)


def _products_us(case: Case, mode: str, flops: float) -> float:
    return 2.0 * case.batch * case.frames * flops / (1e6 * TFLOPS[mode])


def _input_weights(case: Case) -> float:
    widths = [case.inputs, *[2 * case.hidden] * (case.layers - 1)]
    return sum(2.0 * 3 * case.hidden * width for width in widths)


def forward_us(case: Case, mode: str, encoders: int = 1) -> float:
    """All layers: W_ih x of each direction, then the recurrence of all of them at once."""
    recurrence = case.layers * recurrence_us(case, mode, False, 2 * encoders)
    launches = case.layers * (2 * encoders + 1)
    return recurrence + encoders * _products_us(case, mode, _input_weights(case)) + LAUNCH_US * launches


def backward_us(case: Case, mode: str) -> float:
    """The recurrence, dW_ih, dx and dW_hh, and the sums and copies beside them."""
    recurrence = case.layers * recurrence_us(case, mode, True, 2)
    weights = 2 * _input_weights(case) + case.layers * 2.0 * 3 * case.hidden * case.hidden
    launches = case.layers * (1 + 2 + 2 * (3 + 4))
    return recurrence + _products_us(case, mode, weights) + LAUNCH_US * launches


def info_nce_us(keys: int, itemsize: int, batch: int = 32, features: int = 512) -> float:
    """Launches, and a long queue's bytes at 4.3 TB/s or, in float32, its two products at 67 TFLOP/s without tensor
    cores. A short one is read by many programs at once, each in one round (tests/kernels/test_infonce.py counts)."""
    moved = 1e-6 * keys * features * itemsize / 4.3
    products = 1e-6 * 4 * batch * keys * features / 67 if itemsize == 4 else 0.0
    return LAUNCHES * (LAUNCH_US + ROUND_US) + max(moved, products)
