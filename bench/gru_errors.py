"""`python -m bench.gru_errors`: how far a float32 GRU is from float64, torch's and ours on every instruction set here.

The NTU case of the bench: 2 layers, both directions, 60 frames of 32 rows. A figure is the norm of the difference over
the norm of the truth; for weights and biases the largest over layers and directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench.cases import NTU, Problem, differentiable, problem, torch_gru, truth
from bench.peers import crrl_module
from bench.report import table
from bench.timing import errors
from crrl.ops import cpu

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def figures(p: Problem, results: Sequence[Tensor]) -> list[float]:
    """The errors of y, dx and the gradients of the four kinds of weights."""
    found = errors(results, truth(p.case)[True])
    names = [name for name, _ in p.gru.named_parameters()]
    kinds = [max(e for name, e in zip(names, found[2:], strict=True) if name.startswith(kind)) for kind in WEIGHTS]
    return [*found[:2], *kinds]


def main() -> None:
    p = problem(NTU)
    rows = {"torch": figures(p, torch_gru(p, "fp32", True)())}
    for isa in dict.fromkeys(("amx", *cpu.FLOAT_ISAS)):
        if isa not in cpu.available(False):
            continue
        cpu.isa = isa
        rows[f"crrl, {isa}"] = figures(p, differentiable(crrl_module(p, "fp32"), p, "fp32", True, lambda m, x: m(x))())
    print(
        table(
            ["", "y", "dx", *(f"d {kind}" for kind in WEIGHTS)],
            [[k, *(f"{e:.2e}" for e in v)] for k, v in rows.items()],
        )
    )


if __name__ == "__main__":
    main()
