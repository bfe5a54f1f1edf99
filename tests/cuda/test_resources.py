"""What the compiler made of the CUDA kernels: weights in registers, as planned, and nothing spilled to memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.gpu_floors import FRAMES, Frame

KERNELS = 4 * (2 * 7)
"""Four modes, forward and backward, seven tiles and exchanges."""


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
    assert not [(target, kernel) for target, of in kernels.items() for kernel in of if kernel.stack]


def test_weights_of_small_tiles_are_in_registers(kernels: dict[str, list[Kernel]]) -> None:
    """96 of a thread's; backwards in bfloat16 48, which are all that 256 units take. On GPUs without clusters those
    kernels are stubs, and not looked at."""
    for target, of in kernels.items():
        small = [kernel for kernel in of if re.search(r"ExchangeELi32ELi[48]E", kernel.name)]
        exchanges = ("L2", "Cluster") if number(target) >= 90 else ("L2",)
        looked_at = [kernel for kernel in small if any(f"{name}Exchange" in kernel.name for name in exchanges)]
        assert len(looked_at) == 8 * sum({"L2": 1, "Cluster": 2}[name] for name in exchanges)
        for kernel in looked_at:
            assert kernel.registers > (80 if re.search("backward.*BF16", kernel.name) else 128), (target, kernel)


def code(function: str, target: str) -> list[tuple[int, str]]:
    """Addresses and instructions of a kernel in crrl._cuda, with their predicates left out."""
    spec, tool = find_spec("crrl._cuda"), cuobjdump()
    assert spec is not None
    assert spec.origin is not None
    assert tool is not None
    command = [tool, "-sass", "-arch", target, "-fun", function, spec.origin]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);", listing)
    return [(int(address, 16), words) for address, words in lines]


WAIT, PRODUCT, SEND = r"SYNCS\.PHASECHK|LD.*STRONG\.GPU", "HMMA", "STAS|RED"


def frame_of(instructions: list[tuple[int, str]]) -> Frame:
    """The shortest loop that waits, multiplies and sends is the one over frames."""
    loops = []
    for address, words in instructions:
        target = re.search(r"^BRA\b.*?0x([0-9a-f]+)", words)
        if target and int(target[1], 16) < address:
            body = [each.split()[0] for at, each in instructions if int(target[1], 16) <= at <= address]
            if all(any(re.match(kind, name) for name in body) for kind in (WAIT, PRODUCT, SEND)):
                loops.append(body)
    body = min(loops, key=len)
    begin = next(place for place, name in enumerate(body) if re.match(WAIT, name))
    end = max(place for place, name in enumerate(body) if re.match(SEND, name))
    critical = body[begin:end]
    products = sum(name.startswith(PRODUCT) for name in body)
    return Frame(len(body), products, len(critical), sum(name == "MEMBAR.ALL.GPU" for name in critical))


@pytest.mark.parametrize(("direction", "exchange", "rows"), FRAMES)
def test_a_frame_takes_no_more_than_it_did(
    kernels: dict[str, list[Kernel]], direction: str, exchange: str, rows: int
) -> None:
    """A slower frame shows here without a card: longer chains of products, a later publication, one fence more."""
    origin = find_spec("crrl._cuda").origin  # type: ignore[union-attr]
    sources = [path for path in (Path(__file__).parents[2] / "csrc" / "cuda").rglob("*") if path.is_file()]
    if max(path.stat().st_mtime for path in sources) > Path(str(origin)).stat().st_mtime:
        pytest.skip("crrl._cuda is older than its sources: build it again")
    if "sm_90a" not in kernels:
        pytest.skip("crrl._cuda was built for other GPUs")
    pattern = rf"gru_{direction}.*TF32EEEfNS.*{exchange}ExchangeELi32ELi{rows}E"
    (name,) = (kernel.name for kernel in kernels["sm_90a"] if re.search(pattern, kernel.name))
    found, known = frame_of(code(name, "sm_90a")), FRAMES[direction, exchange, rows]
    assert found.products == known.products
    assert found.fences == known.fences
    assert found.instructions <= 1.1 * known.instructions  # another compiler orders and counts a little otherwise
    assert found.critical <= 1.1 * known.critical
