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
    """But by float32's kernels through global memory on sm_120, to which nvcc 13 gives up to 88 bytes a thread."""
    spilled = [(target, kernel) for target, of in kernels.items() for kernel in of if kernel.stack]
    known = "KindINS0_4FP32EfNS0_10L2ExchangeELi32E"
    assert not [(target, kernel) for target, kernel in spilled if target != "sm_120" or known not in kernel.name]
    assert all(kernel.stack <= 96 for _, kernel in spilled)


def test_weights_of_small_tiles_are_in_registers(kernels: dict[str, list[Kernel]]) -> None:
    """96 of a thread's. On GPUs without clusters those kernels are stubs, and not looked at."""
    for target, of in kernels.items():
        small = [kernel for kernel in of if re.search(r"ExchangeELi32ELi1E", kernel.name)]
        exchanges = ("L2", "Cluster") if number(target) >= 90 else ("L2",)
        looked_at = [kernel for kernel in small if any(f"{name}Exchange" in kernel.name for name in exchanges)]
        assert len(looked_at) == 8 * len(exchanges)
        assert all(kernel.registers > 128 for kernel in looked_at), target


@dataclass(frozen=True)
class Frame:
    """What a frame of a small tile takes, in instructions of a warp.

    Attributes:
        instructions: of the loop over frames, each counted once. products: of matrices, among them.
        tail: from the block's barrier after the products to the first word that is sent, or to the release.
        fences: in the tail.
    """

    instructions: int
    products: int
    tail: int
    fences: int


FRAMES = {
    ("forward", "Cluster"): Frame(373, 30, 125, 0),
    ("forward", "L2"): Frame(382, 30, 117, 1),
    ("backward", "Cluster"): Frame(427, 26, 116, 0),
    ("backward", "L2"): Frame(433, 26, 112, 1),
}
"""In TF32 on sm_90a, as nvcc 13.0 makes them."""


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


def frame_of(instructions: list[tuple[int, str]]) -> Frame:
    """The shortest loop that has both products and a publication is the one over frames."""
    loops = []
    for address, words in instructions:
        target = re.search(r"^BRA\b.*?0x([0-9a-f]+)", words)
        if target and int(target[1], 16) < address:
            body = [each.split()[0] for at, each in instructions if int(target[1], 16) <= at <= address]
            if any(name.startswith("HMMA") for name in body) and any(re.match("STAS|RED", name) for name in body):
                loops.append(body)
    body = min(loops, key=len)
    end = max(place for place, name in enumerate(body) if re.match("STAS|RED", name))
    begin = max(place for place, name in enumerate(body) if name.startswith("HMMA"))
    tail = body[begin:end]
    tail = tail[next(place for place, name in enumerate(tail) if name.startswith("BAR.SYNC")) :]
    products = sum(name.startswith("HMMA") for name in body)
    return Frame(len(body), products, len(tail), sum(name.startswith("MEMBAR") for name in tail))


@pytest.mark.parametrize(("direction", "exchange"), FRAMES)
def test_a_frame_takes_no_more_than_it_did(kernels: dict[str, list[Kernel]], direction: str, exchange: str) -> None:
    """A slower frame shows here without a card: longer chains of products, a later publication, one fence more."""
    origin = find_spec("crrl._cuda").origin  # type: ignore[union-attr]
    sources = [path for path in (Path(__file__).parents[2] / "csrc" / "cuda").rglob("*") if path.is_file()]
    if max(path.stat().st_mtime for path in sources) > Path(str(origin)).stat().st_mtime:
        pytest.skip("crrl._cuda is older than its sources: build it again")
    if "sm_90a" not in kernels:
        pytest.skip("crrl._cuda was built for other GPUs")
    pattern = rf"gru_{direction}.*TF32EEEfNS.*{exchange}ExchangeELi32ELi1E"
    (name,) = (kernel.name for kernel in kernels["sm_90a"] if re.search(pattern, kernel.name))
    found, known = frame_of(code(name, "sm_90a")), FRAMES[direction, exchange]
    assert found.products == known.products
    assert found.fences == known.fences
    assert found.instructions <= 1.1 * known.instructions  # another compiler orders and counts a little otherwise
    assert found.tail <= 1.1 * known.tail
