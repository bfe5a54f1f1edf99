"""crrl.nn.GRU against everyone who computes the same on a CPU: forward, and forward + backward, in fp32 and bf16."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.cases import CASES, FEW_FRAMES, STEPWISE, Case, Run, problem, truth
from bench.peers import gather
from bench.rows import Row
from bench.timing import Contender

# The longest first: they take what they must, and the others share what time is left.
BY_LENGTH = sorted(CASES, key=lambda case: -case.forward_flops())

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
"""(case, backward, dtype): the peer known to be strongest there, for the report's headlines."""


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("case", BY_LENGTH, ids=lambda case: case.title)  # the outermost: it is set up once
def test_gru(compare: Callable[..., None], case: Case, backward: bool, dtype: str) -> None:
    compare_peers(compare, case, backward, dtype)


@pytest.mark.parametrize("case", [STEPWISE, FEW_FRAMES], ids=lambda case: case.title)
def test_gru_forward(compare: Callable[..., None], case: Case) -> None:
    compare_peers(compare, case, backward=False, dtype="fp32")


def compare_peers(compare: Callable[..., None], case: Case, backward: bool, dtype: str) -> None:
    """One row of the report."""
    runs, absent = gather(problem(case), dtype, backward)
    row = Row(
        group=f"GRU, {'forward + backward' if backward else 'forward'}, {dtype}",
        title=case.title,
        dtype=dtype,
        flops=case.forward_flops() * (3 if backward else 1),
        bar=TO_BEAT.get((case.title, backward, dtype)),
        rank=[*CASES, STEPWISE, FEW_FRAMES].index(case),
        absent=absent,
    )
    compare(row, [contender(name, run, dtype) for name, run in runs.items()], truth(case)[backward])


def contender(name: str, run: Run, dtype: str) -> Contender:
    """With the errors it may have, against float64."""
    if dtype == "fp32" or name == "torch fp32":
        # Sums in another order: torch's own distance from float64 is up to a tenth of this.
        return Contender(name, run, limit=1e-5)
    if name == "torch":
        # bf16 keeps 8 bits, and the states pass through 60 frames; this catches a wrong result, not a rough one.
        return Contender(name, run, limit=0.1)
    # Ours no worse than twice torch's bf16, result by result; others may keep less in float32 than torch does.
    return Contender(name, run, limit=2 if name == "crrl" else 4, relative_to="torch")
