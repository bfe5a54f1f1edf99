"""What a launch asks of the CUDA runtime, over one that only takes notes; and what the compiler makes of a release."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

KERNELS = Path(__file__).parents[2] / "csrc" / "cuda"
OF_THE_KERNEL = 32
"""Bytes of shared memory that tests/cuda/runtime_module.cpp says a kernel has beside what a launch gives it."""


def toolkit() -> tuple[Path, str | None]:
    """The folder of the CUDA runtime's headers, and nvcc or what Triton brings of it."""
    triton = find_spec("triton")
    brought = Path(triton.origin).parent / "backends/nvidia/include" if triton and triton.origin else Path()
    for folder in (Path("/usr/local/cuda/include"), brought):
        if (folder / "cuda_runtime_api.h").exists():
            return folder, shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")
    pytest.skip("needs the headers of the CUDA runtime, of the CUDA toolkit or of Triton")


@pytest.fixture(scope="module")
def runtime(build: Callable[..., ModuleType]) -> ModuleType:
    headers, _ = toolkit()
    return build(
        "crrl_cuda_runtime",
        [KERNELS / "device" / "launch.cu", Path(__file__).with_name("runtime_module.cpp")],
        system=[headers],
    )


def test_calls_of_other_sizes_never_change_what_a_kernel_may_have(runtime: ModuleType) -> None:
    """A kernel may have all that its device gives, which is said once for both: not what the latest call needs."""
    first, second = 0x1000, 0x2000
    with ThreadPoolExecutor(8) as threads:
        calls = [
            (kernel, device, shared)
            for shared in (9000, 60000, 90000)
            for kernel in (first, second)
            for device in (0, 1)
        ]
        assert [*threads.map(lambda call: runtime.launch(*call, 8), calls)] == [""] * len(calls)
    asked = runtime.asked()
    given = {(kernel, device): value for what, kernel, device, value in asked if what == "shared memory"}
    most = {0: 232448 - OF_THE_KERNEL, 1: 101376 - OF_THE_KERNEL}
    assert given == {(kernel, device): most[device] for kernel in (first, second) for device in (0, 1)}
    assert len([what for what, *_ in asked if what == "shared memory"]) == 4
    assert len([what for what, *_ in asked if what == "clusters"]) == 4
    launches = [(kernel, device, shared) for what, kernel, device, shared in asked if what == "launch"]
    assert sorted(launches) == sorted(calls)


RELEASE = """
#include "device/primitives.hpp"
__global__ void publish(unsigned* counter) { crrl::gpu::add_release(counter, 1); }
"""


def test_a_release_is_one_fence(tmp_path: Path) -> None:
    """A release is cumulative over what the block's barrier ordered before it: a fence of its own is paid for twice."""
    nvcc = toolkit()[1]
    if nvcc is None:
        pytest.skip("needs nvcc")
    source = tmp_path / "release.cu"
    source.write_text(RELEASE)
    command = [nvcc, "-std=c++17", "--expt-relaxed-constexpr", "-arch=sm_80", "-ptx", f"-I{KERNELS}", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "release.ptx")], check=True, capture_output=True)
    ptx = (tmp_path / "release.ptx").read_text()
    assert re.findall(r"red\.release\.gpu\S*", ptx)
    assert not re.findall(r"membar|fence", ptx)
