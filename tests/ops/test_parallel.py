"""csrc/cpu/parallel.hpp: who runs the threads, and that teams share work as their loops say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU = ROOT / "csrc" / "cpu"


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform == "win32", reason="needs g++")
def test_a_pool_serves_where_nobody_brought_openmp(tmp_path: Path) -> None:
    sources = [str(CPU / "parallel.cpp"), str(Path(__file__).with_name("parallel_driver.cpp"))]
    flags = ["-std=c++17", "-O2", f"-I{CPU}", "-pthread"]
    subprocess.run(["g++", *flags, *sources, "-o", str(tmp_path / "driver"), "-ldl"], check=True)
    result = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout == "pool 1 1 1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's runtime on Linux")
def test_torchs_own_threads_serve_where_it_brought_them() -> None:
    code = "import torch\nfrom crrl.ops import cpu\nprint(cpu.missing or cpu.native.thread_runtime())"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    if "is not there" in result.stdout:
        pytest.skip("the C++ extension is not built")
    assert result.stdout == "omp\n"


def test_no_kernel_asks_the_compiler_for_threads() -> None:
    """It would get none: the extension is compiled without OpenMP, and a loop would run whole on every thread."""
    for path in CPU.iterdir():
        assert not re.search(r"^\s*#pragma omp", path.read_text(), re.MULTILINE), path
