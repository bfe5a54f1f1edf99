"""What the CUDA GRU and InfoNCE were expected to take before it had been on any card: steps, matrix products, launches.

The figures are estimates for an H200 at 1.98 GHz, from operations, bytes and published microbenchmarks.
"""

from __future__ import annotations

from math import ceil

from bench.cases import Case

STEP_US = {"tf32": 0.58, "fp32": 1.1, "bf16": 0.40, "fp16": 0.40}
"""A frame of the recurrence at H=256, 8 rows a team: exchange, product, gates."""
EXCHANGE_US, L2_EXCHANGE_US = 0.25, 0.8
"""Of that: the all-gather through distributed shared memory, or through global memory past 16 blocks of 32 units."""
TFLOPS = {"tf32": 150.0, "fp32": 45.0, "bf16": 300.0, "fp16": 300.0}
"""Of matrix products over all frames, at these sizes some third of what the card can do at best."""
LAUNCH_US = 1.5
"""Of a kernel within a CUDA graph."""
LAUNCHES, ROUND_US = 2, 1.0
"""Launches of InfoNCE, and what each waits for besides: a read of memory, and the sums over a block that need it."""
BLOCKS = 128
"""That run at once; past it, a block multiplies for more rows."""


def step_us(case: Case, mode: str, encoders: int = 1) -> float:
    """A frame of both directions of `encoders` encoders."""
    exchange = EXCHANGE_US if case.hidden <= 512 else L2_EXCHANGE_US
    blocks = 2 * encoders * ceil(case.batch / 8) * ceil(case.hidden / 32)
    product = (STEP_US[mode] - EXCHANGE_US) * case.hidden / 256
    return exchange + product * max(1.0, blocks / BLOCKS)


def _products_us(case: Case, mode: str, flops: float) -> float:
    return 2.0 * case.batch * case.frames * flops / (1e6 * TFLOPS[mode])


def _input_weights(case: Case) -> float:
    widths = [case.inputs, *[2 * case.hidden] * (case.layers - 1)]
    return sum(2.0 * 3 * case.hidden * width for width in widths)


def forward_us(case: Case, mode: str, encoders: int = 1) -> float:
    """All layers: W_ih x of each direction, then the recurrence of all of them at once."""
    recurrence = case.layers * case.frames * step_us(case, mode, encoders)
    launches = case.layers * (2 * encoders + 1)
    return recurrence + encoders * _products_us(case, mode, _input_weights(case)) + LAUNCH_US * launches


def backward_us(case: Case, mode: str) -> float:
    """The recurrence (float16 multiplies in TF32 there), dW_ih, dx and dW_hh, and the sums and copies beside them."""
    recurrence = case.layers * case.frames * step_us(case, "tf32" if mode == "fp16" else mode)
    weights = 2 * _input_weights(case) + case.layers * 2.0 * 3 * case.hidden * case.hidden
    launches = case.layers * (1 + 2 + 2 * (3 + 4))
    return recurrence + _products_us(case, mode, weights) + LAUNCH_US * launches


def info_nce_us(keys: int, itemsize: int, batch: int = 32, features: int = 512) -> float:
    """Launches, and a long queue's bytes at 4.3 TB/s or, in float32, its two products at 67 TFLOP/s without tensor
    cores. A short one is read by many programs at once, each in one round (tests/kernels/test_infonce.py counts)."""
    moved = 1e-6 * keys * features * itemsize / 4.3
    products = 1e-6 * 4 * batch * keys * features / 67 if itemsize == 4 else 0.0
    return LAUNCHES * (LAUNCH_US + ROUND_US) + max(moved, products)
