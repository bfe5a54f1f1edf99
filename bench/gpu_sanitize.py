"""A few calls of the CUDA GRU and of the exchange alone, for compute-sanitizer: `python -m bench.gpu_sanitize`.

Small sizes, ragged rows, each mode by the kernels of each variant, forward and backward; blocks not full. Every result
is held against float64.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from bench import gpu_exchange, gru
from bench.cases import Case, Problem, Run, by_policy, on_device, problem
from bench.gpu_exchange import WAYS, Exchange
from bench.peers import crrl_gru
from bench.timing import errors
from crrl import ops
from crrl.ops import cuda

CASE = Case("sanitized", batch=9, frames=5, inputs=6, hidden=97, layers=1)
SHORT = (5, 1, 3, 5, 2, 4, 5, 1, 2)
"""Valid frames of the rows."""
VARIANTS = ("cluster", "l2")
PATIENCE_NS = 60_000_000_000
"""A checker makes kernels hundreds of times as slow."""
LIMIT = 0.1


def ragged(device: torch.device) -> Problem:
    """The case with rows of these lengths, there."""
    return replace(on_device(problem(CASE), device), lengths=torch.tensor(SHORT).to(device))


def gru_run(device: torch.device, mode: str, variant: str) -> Run:
    """Both passes of a mode by the kernels of a variant: y, dx and the gradients of the weights."""
    gru.allow_tf32(mode == "tf32")
    run = crrl_gru(ragged(device), gru.MODES[mode], True)
    return gru.of_variant(gru.forced(run), variant)


def expected() -> Run:
    """The same by the reference in float64."""
    return by_policy(crrl_gru(ragged(torch.device("cpu")), "fp64", True), "reference")


def faults(device: torch.device) -> Iterator[str]:
    """Runs it all; what was wrong or could not run."""
    truth = expected()()
    for mode in gru.MODES:
        for variant in VARIANTS:
            worst = max(errors(gru_run(device, mode, variant)(), truth))
            print(f"{mode}, {variant}: {worst:.1e}", flush=True)
            if not worst <= LIMIT:
                yield f"{mode}, {variant}: off by {worst:.1e}"
    native = gpu_exchange.native_module()
    for way in WAYS:
        case = Exchange(way, 4, 4, 2, 5)
        share = float(gpu_exchange.checked(gpu_exchange.launcher(native, device, case)()[0], case))
        print(f"exchange, {way}: {share:g}", flush=True)
        if share != 1:
            yield f"exchange, {way}: {share:g} of the threads are right"


def main() -> int:
    cuda.PATIENCE_NS = PATIENCE_NS
    with ops.use_backends(gru.FORCED):
        found = list(faults(torch.device("cuda")))
    print("; ".join(found) or "all of it is right")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
