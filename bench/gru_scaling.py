"""`python -m bench.gru_scaling`: how a float32 layer is dealt to threads, and how much faster it is expected to be so.

The model is the one that deals (csrc/cpu/gru_kernels.hpp): of each step's products, the weights that a thread reads,
and a meeting of the crew. It is of the recurrence alone, forward; on as many threads as there are cores the layer is
timed, too.
"""

from __future__ import annotations

import os
import time
from statistics import median

import torch

from bench.report import table
from crrl.nn import GRU
from crrl.ops import cpu

SHAPES = ((1, 256, 2), (1, 512, 1), (1, 1024, 1), (8, 512, 1), (32, 256, 2), (32, 1024, 1), (256, 256, 2))
"""Rows, units, directions."""
FRAMES, INPUTS, CALLS = 60, 8, 15
THREADS = (1, 2, 4, 8, 16, 32)


def expected(rows: int, hidden: int, directions: int, threads: int) -> tuple[float, int]:
    """Microseconds by the model, and how many threads take rows through time together."""
    crew, _, microseconds = cpu.native.gru_crew(rows, FRAMES, hidden, directions, False, threads)
    return microseconds, crew


@torch.no_grad()
def measured(rows: int, hidden: int, directions: int, threads: tuple[int, int]) -> float:
    """How many times as fast the second number of threads is: medians of calls in turn."""
    gru = GRU(INPUTS, hidden, batch_first=True, bidirectional=directions == 2)
    x, times = torch.randn(rows, FRAMES, INPUTS), ([], [])  # type: tuple[torch.Tensor, tuple[list[float], list[float]]]
    for call in range(2 * CALLS + 2):
        torch.set_num_threads(threads[call % 2])
        begin = time.perf_counter()
        gru(x)
        if call >= 2:
            times[call % 2].append(time.perf_counter() - begin)
    return median(times[0]) / median(times[1])


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    rows = []
    for shape in SHAPES:
        alone, _ = expected(*shape, 1)
        cells = []
        for threads in THREADS[1:]:
            microseconds, crew = expected(*shape, threads)
            cells.append(f"{alone / microseconds:.1f}" + (f" ({crew} together)" if crew > 1 else ""))
        found = f"{measured(*shape, (1, cores)):.1f}" if cores > 1 else "–"
        rows.append([f"B={shape[0]}, H={shape[1]}, {'both directions' if shape[2] == 2 else 'forward'}", found, *cells])
    print(table(["", f"{cores} threads, measured", *(f"{n}, expected" for n in THREADS[1:])], rows))


if __name__ == "__main__":
    main()
