"""The command `python -m crrl.doctor`: hardware, built extensions, and the backend of each operator with the reason."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from crrl import ops
from crrl.errors import run_command
from crrl.ops import cpu, cuda, precision, trust

Rows = list[tuple[str, ...]]

THREADS = {"omp": "on torch's threads", "pool": "on threads of its own"}

CPU_DTYPES = (torch.float32, torch.bfloat16)


def machine() -> Rows:
    """The processor, the GPUs, and the versions of the software that uses them."""
    rows: Rows = [("processor", processor()), ("python", platform.python_version())]
    rows.append(("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"))
    with suppress(PackageNotFoundError):
        rows.append(("triton", version("triton")))
    if not torch.cuda.is_available():
        return [*rows, ("GPU", "none that torch can use")]
    rows.append(("driver", cuda.driver()))
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        size = f"{facts.multi_processor_count} SMs, {facts.total_memory / 2**30:.0f} GiB"
        rows.append((f"cuda:{index}", f"{facts.name}, sm_{facts.major}{facts.minor}, {size}"))
    return rows


def processor() -> str:
    """The processor's name, as the system gives it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def builds() -> tuple[Rows, bool]:
    """The state of the extensions, and whether one that was built cannot be used although it should."""
    cpu_state, cuda_state = cpu.missing, cuda.missing
    broken = any(
        state and find_spec(f"crrl.{name}") is not None for name, state in (("_cpu", cpu_state), ("_cuda", cuda_state))
    )
    if cpu_state is None:
        isas = [f"{cpu.native.gru_isa(bf16)} in {name}" for bf16, name in ((False, "float32"), (True, "bfloat16"))]
        cpu_state = f"{', '.join(isas)}; {cpu.native.compiler}; {THREADS[cpu.native.thread_runtime()]}"
    if cuda_state is None:
        problem = cuda.unusable()
        broken |= problem is not None and torch.cuda.is_available()
        facts = [", ".join(cuda.native.targets), f"CUDA {cuda.native.toolkit}", *([problem] if problem else [])]
        cuda_state = "; ".join(facts)
    return [("crrl._cpu", cpu_state), ("crrl._cuda", cuda_state)], broken


def self_checks() -> tuple[Rows, bool]:
    """The verdict on each operator's kernels on each GPU, and whether a check that ran has failed."""
    rows: Rows = []
    broken = False
    for device in range(torch.cuda.device_count()):
        for check in trust.CHECKS.values():
            if reason := check.obstacle(device):
                rows.append((f"cuda:{device}", check.operator, check.mode, "none", reason))
                continue
            trusted, reason = trust.verdict(check.operator, check.mode, device)
            broken |= not trusted and trust.allowed
            rows.append((f"cuda:{device}", check.operator, check.mode, "passed" if trusted else "off", reason))
    return rows, broken


def surveys() -> list[tuple[str, Rows]]:
    """For each device and dtype with kernels: every operator's backends."""
    cases = [ops.Case("cpu", dtype) for dtype in CPU_DTYPES]
    if torch.cuda.is_available():
        cases += [ops.Case("cuda", dtype) for dtype in precision.MODES]
    return [(f"{case.device}, {str(case.dtype).removeprefix('torch.')}", [*ops.survey(case)]) for case in cases]


def show(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a title, and below it the rows in aligned columns."""
    table = [*rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(title)
    for row in table:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())


def main(arguments: list[str] | None = None) -> int:
    """Print everything; returns 1 if something that was built or forced does not work, else 0."""
    parser = argparse.ArgumentParser(prog="python -m crrl.doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--no-check", action="store_true", help="do not check GPU kernels that have not passed before")
    trust.allowed = not parser.parse_args(arguments).no_check
    show("machine", machine())
    built, broken = builds()
    show("builds", built)
    checks, failed = self_checks()
    if checks:
        show("self-check of the GPU kernels", checks)
    print(f"policy: {ops.policy()}")
    forced = False
    for title, rows in surveys():
        show(title, rows)
        forced |= any(state == "broken" for _, _, state, _ in rows)
    return int(broken or failed or forced)


if __name__ == "__main__":
    sys.exit(run_command(main))
