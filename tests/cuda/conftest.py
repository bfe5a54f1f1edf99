"""CUDA kernels on a CPU: their sources compiled against csrc/cuda/host, where every GPU thread is a fiber."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def build() -> Callable[..., ModuleType]:
    """build.py's function, where there is a compiler."""
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("needs g++ on Linux")
    pytest.importorskip("pybind11", reason="pybind11 is not installed")
    spec = importlib.util.spec_from_file_location("emulated_build", Path(__file__).with_name("build.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., ModuleType] = module.build
    return function


@pytest.fixture(scope="session")
def emulated(build: Callable[..., ModuleType]) -> ModuleType:
    """crrl._cuda with its kernels on this processor."""
    folder = Path(__file__).parents[2] / "csrc" / "cuda"
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.cu"), *(folder / "host").glob("*.cpp")])
    return build("crrl_cuda_host", sources, [folder], ["CRRL_EMULATED"])
