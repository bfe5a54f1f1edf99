"""What the compiler made of the CUDA kernels: weights in registers, as planned, and nothing spilled to memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

KERNELS = 4 * (2 * 6)
"""Four modes, forward and backward, six tiles and exchanges."""


@dataclass(frozen=True)
class Kernel:
    name: str
    registers: int
    stack: int


def cuobjdump() -> str | None:
    """The disassembler: of the CUDA toolkit, or the one that Triton brings."""
    triton = find_spec("triton")
    brought = Path(triton.origin).parent / "backends/nvidia/bin" if triton and triton.origin else Path()
    places = (None, "/usr/local/cuda/bin", str(brought))
    return next(filter(None, (shutil.which("cuobjdump", path=place) for place in places)), None)


@pytest.fixture(scope="module")
def kernels() -> dict[str, list[Kernel]]:
    """By target, such as sm_90a."""
    spec, tool = find_spec("crrl._cuda"), cuobjdump()
    if spec is None or spec.origin is None:
        pytest.skip("crrl._cuda was not built: no nvcc")
    if tool is None:
        pytest.skip("needs cuobjdump, of the CUDA toolkit or of Triton")
    report = subprocess.run([tool, "--dump-resource-usage", spec.origin], check=True, capture_output=True, text=True)
    found, target = defaultdict(list), ""
    for line in report.stdout.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            target = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+)", line):
            found[target].append(Kernel(name, int(match[1]), int(match[2])))
    ours = {target: [kernel for kernel in of if "gru_" in kernel.name] for target, of in found.items()}
    return {target: of for target, of in ours.items() if of}


def number(target: str) -> int:
    """90 of sm_90a; GPUs have clusters from there on."""
    return int(target.removeprefix("sm_").rstrip("a"))


def test_every_target_has_every_kernel(kernels: dict[str, list[Kernel]]) -> None:
    from crrl import _cuda

    for target in _cuda.targets:
        if target.startswith("sm_"):
            ours = [kernel for kernel in kernels[target] if re.search("gru_(forward|backward)", kernel.name)]
            assert len(ours) == KERNELS, target


def test_nothing_is_spilled(kernels: dict[str, list[Kernel]]) -> None:
    spilled = [(target, kernel) for target, of in kernels.items() for kernel in of if kernel.stack]
    assert not spilled


def test_weights_of_small_tiles_are_in_registers(kernels: dict[str, list[Kernel]]) -> None:
    """96 of a thread's. On GPUs without clusters those kernels are stubs, and not looked at."""
    for target, of in kernels.items():
        small = [kernel for kernel in of if re.search(r"ExchangeELi32ELi1E", kernel.name)]
        exchanges = ("L2", "Cluster") if number(target) >= 90 else ("L2",)
        looked_at = [kernel for kernel in small if any(f"{name}Exchange" in kernel.name for name in exchanges)]
        assert len(looked_at) == 8 * len(exchanges)
        assert all(kernel.registers > 128 for kernel in looked_at), target
