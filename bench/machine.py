"""What was measured on: the processor, the versions, the commit, and the machine's own peaks."""

from __future__ import annotations

import subprocess
import sys
import warnings
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.cases import DTYPES
from crrl import ops
from crrl.doctor import processor
from crrl.ops import cpu, cuda

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "bench" / "native"
PEERS = ("onnxruntime", "openvino", "onnx")
BF16_UNITS = ("avx512_bf16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Everything but the peaks."""
    return {
        "commit": commit(),
        "processor": processor(),
        "gru_layer": {name: gru_backend(dtype) for name, dtype in DTYPES.items() if name in ("fp32", "bf16")},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: installed(name) for name in PEERS},
    }


@cache
def peak_module() -> Any:
    """bench/native/peak.cpp; raises ImportError, OSError or RuntimeError where it cannot be compiled."""
    from tests.cuda.build import build

    folder = ROOT / "csrc" / "cpu"
    sources = [NATIVE / "peak.cpp", *(folder / f"{name}.cpp" for name in ("amx", "isa", "parallel"))]
    flags = ["-O3", "-fpeephole2", "-ffp-contract=fast", "-pthread", *(["-ldl"] if sys.platform == "linux" else [])]
    return build("crrl_bench_peak", sources, flags=flags, include=[folder])


def peak_gflops() -> dict[str, float]:
    """GFLOP/s by unit on torch's number of threads, measured now; empty, with a warning, where none can be compiled.

    Where CRRL_ISA holds the kernels to a unit, that one alone.
    """
    try:
        peaks = peak_module().peak_gflops(torch.get_num_threads(), 0.25)
    except (ImportError, OSError, RuntimeError) as error:
        warnings.warn(f"no peaks: bench/native/peak.cpp cannot be compiled: {error}", stacklevel=2)
        return {}
    return {name: peak for name, peak in peaks if cpu.isa in ("", name)}


def peak_of(dtype: str, peaks: dict[str, float]) -> tuple[str, float] | None:
    """The unit that sets this dtype's ceiling and its GFLOP/s; bf16 without a unit of its own is computed in fp32."""
    fp32 = {name: peak for name, peak in peaks.items() if name not in BF16_UNITS}
    bf16 = {name: peak for name, peak in peaks.items() if name in BF16_UNITS}
    units = bf16 or fp32 if dtype == "bf16" else fp32
    return max(units.items(), key=lambda item: item[1]) if units else None


def gru_backend(dtype: torch.dtype) -> str:
    """Which backend, on which instruction set, serves crrl's GRU here, in its own words."""
    rows = ops.choices(ops.Case("cpu", dtype))
    return next(f"{backend}: {reason}" for name, backend, reason in rows if name == "gru_layer")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that is measured, "-dirty" where files differ from it; empty outside a git checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def gpu_machine(measured: str) -> dict[str, Any]:
    """What was measured on, and when. measured: the commit."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": measured or None,
        "GPU": gpu and gpu.name,
        "multiprocessors": gpu and gpu.multi_processor_count,
        "L2": gpu and f"{getattr(gpu, 'L2_cache_size', 0) / 2**20:.0f} MiB",
        "driver": cuda.driver(),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "triton": installed("triton"),
        "Python": sys.version.split()[0],
    }
