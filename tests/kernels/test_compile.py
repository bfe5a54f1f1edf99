"""Every kernel that a launcher picks for the sizes of this field compiles for three GPUs, with no register spilled.

Neither a GPU nor its driver or toolkit is needed: Triton brings its own assembler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", minversion="3.6", reason="no Triton, or none that shows what ptxas says")

GPUS = (80, 90, 100)
KERNELS = {
    "_ema_kernel": 1,
    "_gather_kernel": 2,
    "_square_sums_kernel": 1,
    "_step_kernel": 4,
    "finish_kernel": 4,
    "row_kernel": 4,
    "split_kernel": 3,
}
"""Each with the fewest forms of it that the cases ask for."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What compile_ahead.py found; in a process of its own because the interpreter may be on in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_DUMP_PTXAS_LOG": "1"}
    script = Path(__file__).with_name("compile_ahead.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("capability", GPUS)
def test_no_kernel_spills(compiled: list[dict[str, Any]], kernel: str, capability: int) -> None:
    forms = [form for form in compiled if (form["kernel"], form["capability"]) == (kernel, capability)]
    forms = [form for form in forms if form["case"] != "too large"]
    assert len(forms) >= KERNELS[kernel]
    assert not [form for form in forms if form["spilled"]]


def test_no_kernel_is_left_out(compiled: list[dict[str, Any]]) -> None:
    assert {form["kernel"] for form in compiled} == KERNELS.keys()


def test_a_spill_would_be_seen(compiled: list[dict[str, Any]]) -> None:
    (form,) = (form for form in compiled if form["case"] == "too large")
    assert form["spilled"] > 0
