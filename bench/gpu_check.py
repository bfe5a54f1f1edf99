"""All that a GPU can show, in one command: build, tests, memory checker, bench; what came of each goes on one page.

`make bench-gpu` runs it with the python3 there is: it installs nothing and needs no network. A stage that fails, or
takes too long, does not keep the others from running; the page, written after each of them, says so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench import gpu_report
from bench.bench_gpu import GROUPS
from bench.gpu_rows import GpuRow, Stage
from bench.machine import commit, gpu_machine
from bench.processes import ROOT, Finished, counted, described, run

RESULTS = Path(__file__).parent / "results"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
COMPILES_AHEAD = "--ignore=tests/kernels/test_compile.py"  # it needs no GPU and takes long

# All files of the extension at once; setuptools compiles them one after the other.
BUILD = """
import runpy, sys
from pybind11.setup_helpers import ParallelCompile
ParallelCompile(default=0).install()
sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""

SANITIZED = (
    "(test_ema and is_that_of_the_reference) or (test_motion and is_that_of_the_reference)"
    " or (test_optim and is_that_of_torch and 2500) or (test_infonce and sizes_that_it_chooses)"
    " or (test_infonce and test_enqueue and None)"
)
"""The tests under the memory checker, which makes them many times as slow: each kernel, with blocks not full."""


@dataclass
class Check:
    """What a run has found so far.

    Attributes:
        deadline: when it must end, of time.monotonic. folder: of its page. machine: what it runs on.
    """

    deadline: float
    folder: Path
    machine: dict[str, Any]
    stages: list[Stage] = field(default_factory=list)
    rows: list[GpuRow] = field(default_factory=list)

    def left(self, limit: float) -> float:
        """Seconds that something may take which takes `limit` at most."""
        return max(min(limit, self.deadline - time.monotonic()), 1.0)

    def write(self) -> None:
        gpu_report.write(self.folder, self.machine, self.stages, self.rows)

    @property
    def failed(self) -> bool:
        return any(stage.passed is False for stage in self.stages)


def stage_of(name: str, done: Finished, passed: bool, detail: str) -> Stage:
    """The stage that this command was; the end of its output is kept where it failed."""
    if done.code is None:
        passed, detail = False, f"stopped after {done.seconds:.0f} s; {detail}".rstrip("; ")
    return Stage(name, passed, done.seconds, detail, "" if passed else done.output[-6000:])


def build(check: Check) -> Stage:
    """The C++ extension, in place. Not needed on a GPU: where it cannot be built, PyTorch serves instead."""
    missing = [name for name in ("pybind11", "setuptools") if find_spec(name) is None]
    if missing:
        return Stage("build", None, detail=f"no {' and '.join(missing)} here: without the C++ extension")
    done = run([sys.executable, "-c", BUILD], check.left(90))
    made = done.code == 0 and any((ROOT / "crrl").glob("_cpu*.so"))
    last = done.output.strip().splitlines()[-1:] or ["nothing was built"]
    return Stage("build", True if made else None, done.seconds, "the C++ extension" if made else last[0][:300])


def tests(check: Check) -> Stage:
    return pytest_stage("tests", ["-m", "gpu", "tests", COMPILES_AHEAD], check.left(150))


def kernels(check: Check) -> Stage:
    return pytest_stage("kernels", ["tests/kernels", COMPILES_AHEAD], check.left(120))


def pytest_stage(name: str, arguments: Sequence[str], limit_s: float) -> Stage:
    """Tests, several at a time where pytest-xdist is there: most of their time is compilation."""
    parallel = ["-n", "8"] if find_spec("xdist") else []
    done = run([*PYTEST, *parallel, *arguments], limit_s)
    counts = counted(done.output)
    return stage_of(name, done, done.code == 0 and counts.get("passed", 0) > 0, described(counts))


def sanitizer(check: Check) -> Stage:
    """compute-sanitizer's memcheck on a few tests of each kernel."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return Stage("sanitizer", None, detail="compute-sanitizer is not on this machine")
    # API errors are left out: libraries ask for what a device may not have, and go on without it.
    memcheck = [tool, "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "86"]
    command = [*memcheck, *PYTEST, "tests/kernels", COMPILES_AHEAD, "-k", SANITIZED]
    # Each tensor an allocation of its own, else the checker sees torch's large blocks alone.
    done = run(command, check.left(100), {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    found, counts = re.findall(r"ERROR SUMMARY: (\d+) error", done.output), counted(done.output)
    clean = done.code == 0 and bool(found) and not any(int(errors) for errors in found)
    said = f"memcheck: {found[-1]} errors" if found else "memcheck gave no verdict"
    return stage_of("sanitizer", done, clean and counts.get("passed", 0) > 0, f"{said}; {described(counts)}")


def bench(check: Check) -> Stage:
    """Each group of rows in a process of its own. What is left of the time is shared by the groups still to come."""
    problems, tails, start = [], [], time.monotonic()
    for place, group in enumerate(GROUPS):
        last = place == len(GROUPS) - 1
        done, rows = run_group(group, check.left(240 if last else 110))
        check.rows += rows
        check.write()
        ended = "" if done.code == 0 else "time was up" if done.code is None else f"exit code {done.code}"
        broken = [row.title for row in rows if row.failed or row.refused or any("crrl" in name for name in row.absent)]
        if ended or broken:
            problems.append(f"{group}: {'; '.join(filter(None, [ended, *broken]))}")
            tails.append(done.output[-3000:])
        print(done.output[-2000:], flush=True)
    detail = "; ".join(problems) or f"{len(check.rows)} rows"
    return Stage("bench", not problems, time.monotonic() - start, detail, "\n".join(tails))


def run_group(group: str, limit_s: float) -> tuple[Finished, list[GpuRow]]:
    """Run a group; the rows that it left, however it ended."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        done = run([sys.executable, "-m", "bench.bench_gpu", group, str(path)], limit_s)
        rows = json.loads(path.read_text()) if path.exists() else []
    return done, [GpuRow.from_json(row) for row in rows]


STAGES: dict[str, Callable[[Check], Stage]] = {
    "build": build,
    "tests": tests,
    "kernels": kernels,
    "sanitizer": sanitizer,
    "bench": bench,
}


def run_stages(names: Sequence[str], check: Check) -> bool:
    """Run them in order, whatever becomes of each; returns whether none failed."""
    for name in names:
        start = time.monotonic()
        try:
            stage = STAGES[name](check)
        except Exception as error:
            stage = Stage(name, False, time.monotonic() - start, f"{type(error).__name__}: {error}")
        check.stages.append(stage)
        check.write()
        print(f"{stage.name}: {stage.verdict.strip('*')} in {stage.seconds:.0f} s: {stage.detail}", flush=True)
        if stage.tail:
            print(stage.tail, flush=True)
    return not check.failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if no stage failed, 1 if one did, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}, in this order; none: all of them")
    parser.add_argument("--minutes", type=float, default=9.0, help="about how long all of it may take")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of gpu.json and gpu.md")
    parser.add_argument("--commit", default=commit(), help="what is measured, where git does not say")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - STAGES.keys():
        parser.error(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    if not torch.cuda.is_available():
        print(f"make bench-gpu: no CUDA device that torch {torch.__version__} could use", file=sys.stderr)
        return 2
    check = Check(time.monotonic() + 60 * options.minutes, options.results, gpu_machine(options.commit))
    passed = run_stages(options.stages or list(STAGES), check)
    print((options.results / "gpu.md").read_text())
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
