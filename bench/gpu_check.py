"""All that a GPU can show, in one command: build, tests, checkers, bench; what came of each goes on one page.

`make bench-gpu` runs it with the python3 there is: it installs nothing and needs no network. A stage that fails, or
takes too long, does not keep the others from running; the page, written after each of them, says so. Where one run is
too short for all, further ones take other stages, or other groups of the bench: the page keeps what runs of the same
sources have found on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench import groups
from bench.gpu_exchange import found_tool, target
from bench.groups import chosen
from bench.machine import ROOT, commit, gpu_machine
from bench.processes import Finished, counted, described, run
from bench.report import Page
from bench.rows import Row, Stage

RESULTS = Path(__file__).parent / "results"
MEMORY = ROOT / "build" / "gpu_check.json"
SOURCES = {".py", ".hpp", ".cpp", ".cu"}
LIMITS_S = {"compiled_decoder": 240, "gru_peers": 150}
"""Of groups that wait for compilers; the others have 110 s."""
NO_CHECKER = "compute-sanitizer is not on this machine"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
BUILD = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
EXCHANGE = (sys.executable, "-c", "from bench import gpu_exchange; gpu_exchange.native_module()")
COMPILES_AHEAD = "--ignore=tests/kernels/test_compile.py"  # it needs no GPU and takes long

SANITIZED = (
    "(test_ema and is_that_of_the_reference) or (test_motion and is_that_of_the_reference)"
    " or (test_optim and is_that_of_torch and 2500) or (test_infonce and sizes_that_it_chooses)"
    " or (test_infonce and test_enqueue and (5-0 or 5-7))"
)
"""The tests under the memory checker, which makes them many times as slow: each kernel, with blocks not full."""


@dataclass
class Check:
    """What a run has found so far.

    Attributes:
        deadline: when it must end, of time.monotonic. folder: of its page. machine: what it runs on.
        groups: of the bench, those to run. memory: a file for what runs have found; None: they leave nothing.
    """

    deadline: float
    folder: Path
    machine: dict[str, Any]
    groups: Sequence[str] = tuple(groups.GPU)
    memory: Path | None = None
    stages: list[Stage] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def left(self, limit: float) -> float:
        """Seconds that something may take which takes `limit` at most."""
        return max(min(limit, self.deadline - time.monotonic()), 1.0)

    def write(self) -> None:
        Page("gpu", self.machine, self.rows, stages=self.stages).write(self.folder)
        if self.memory:
            rows, stages = ([one.as_json() for one in self.rows], [asdict(stage) for stage in self.stages])
            self.memory.parent.mkdir(exist_ok=True)
            self.memory.write_text(json.dumps({"of": self.measured(), "stages": stages, "rows": rows}))

    def keep(self, rows: Sequence[Row]) -> None:
        """Add rows; the same ones of before give way."""
        named = {(row.group, row.title) for row in rows}
        self.rows = [*(row for row in self.rows if (row.group, row.title) not in named), *rows]

    def measured(self) -> list[Any]:
        return [sources(), self.machine.get("GPU")]

    def recall(self) -> None:
        """Take up what earlier runs of the same sources have found on such a GPU."""
        found = json.loads(self.memory.read_text()) if self.memory and self.memory.exists() else {}
        if found.get("of") == self.measured():
            self.stages = [Stage(**stage) for stage in found["stages"]]
            self.rows = [Row.from_json(row) for row in found["rows"]]


@cache
def sources() -> str:
    """A hash of all that is measured, and of the bench."""
    folders = [ROOT / name for name in ("crrl", "kernels", "csrc", "bench", "examples")]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES)
    return hashlib.sha256(b"\0".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


def stage_of(name: str, done: Finished, passed: bool, detail: str) -> Stage:
    """The stage that this command was; the end of its output is kept where it failed."""
    if done.code is None:
        passed, detail = False, f"stopped after {done.seconds:.0f} s; {detail}".rstrip("; ")
    return Stage(name, passed, done.seconds, detail, "" if passed else done.output[-6000:])


def build(check: Check) -> Stage:
    """The C++ extension, in place. Not needed on a GPU: where it cannot be built, PyTorch serves instead."""
    if missing := unbuildable():
        return Stage("build", None, detail=f"{missing}: without the C++ extension")
    done = run(BUILD, check.left(90), {"CRRL_CUDA": "0"})
    made = done.code == 0 and any((ROOT / "crrl").glob("_cpu*.so"))
    last = done.output.strip().splitlines()[-1:] or ["nothing was built"]
    return Stage("build", True if made else None, done.seconds, "the C++ extension" if made else last[0][:300])


def build_cuda(check: Check) -> Stage:
    """The CUDA extension, in place, for the GPU that is there."""
    nvcc = found_tool("nvcc")
    if missing := unbuildable() or (None if nvcc else "no nvcc"):
        there = any((ROOT / "crrl").glob("_cuda*.so"))
        return Stage("build_cuda", None, detail=f"{missing} here: {'the one that is there' if there else 'none'}")
    architecture = target(torch.cuda.get_device_capability())
    settings = {"CRRL_CPU": "0", "CRRL_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
    done = run(BUILD, check.left(240), settings)
    if done.code == 0:  # what the bench alone needs of the GPU: the checkers are not to wait for its compiler
        done = run(EXCHANGE, check.left(120))
    return stage_of("build_cuda", done, done.code == 0, f"for {architecture}, by {nvcc}")


def unbuildable() -> str | None:
    """The packages that a build lacks."""
    missing = [name for name in ("pybind11", "setuptools") if find_spec(name) is None]
    return f"no {' and '.join(missing)} here" if missing else None


def doctor(check: Check) -> Stage:
    """What crrl itself says of this machine, once every kernel has passed its self-check or not; the page keeps it."""
    done = run([sys.executable, "-m", "crrl.doctor"], check.left(240))
    rows = [line.split() for line in done.output.splitlines() if re.match(r"\s*cuda:\d", line)]
    checks = [row for row in rows if row[3:4] in (["passed"], ["off"], ["none"])]
    off = [" ".join(row[1:3]) for row in checks if row[3] != "passed"]
    passed = f"{len(checks) - len(off)} of {len(checks)} self-checks passed"
    stage = stage_of("doctor", done, done.code == 0, "; not ".join([passed, *off])[:300])
    stage.said = done.output[-8000:]
    return stage


def tests(check: Check) -> Stage:
    return pytest_stage("tests", ["-m", "gpu", "tests", COMPILES_AHEAD], check.left(200))


def kernels(check: Check) -> Stage:
    return pytest_stage("kernels", ["tests/kernels", COMPILES_AHEAD], check.left(120))


def pytest_stage(name: str, arguments: Sequence[str], limit_s: float) -> Stage:
    """Tests, several at a time where pytest-xdist is there: most of their time is compilation."""
    parallel = ["-n", "8"] if find_spec("xdist") else []
    done = run([*PYTEST, *parallel, *arguments], limit_s)
    counts = counted(done.output)
    return stage_of(name, done, done.code == 0 and counts.get("passed", 0) > 0, described(counts))


def sanitizer(check: Check) -> Stage:
    """compute-sanitizer's memcheck on a few tests of each Triton kernel."""
    command = [*PYTEST, "tests/kernels", COMPILES_AHEAD, "-k", SANITIZED]
    done = checked(command, "memcheck", check.left(100))
    if done is None:
        return Stage("sanitizer", None, detail=NO_CHECKER)
    errors, counts = summary(done.output), counted(done.output)
    passed = done.code == 0 and errors == 0 and counts.get("passed", 0) > 0
    return stage_of("sanitizer", done, passed, f"memcheck: {said(errors)}; {described(counts)}")


def memcheck_gru(check: Check) -> Stage:
    return checked_gru("memcheck_gru", "memcheck", check)


def racecheck_gru(check: Check) -> Stage:
    """Races in shared memory; the checker does not look at global memory."""
    return checked_gru("racecheck_gru", "racecheck", check)


def checked_gru(name: str, tool: str, check: Check) -> Stage:
    """A tool of compute-sanitizer on a few calls of the CUDA GRU and of its exchange."""
    done = checked([sys.executable, "-m", "bench.gpu_sanitize"], tool, check.left(120))
    if done is None:
        return Stage(name, None, detail=NO_CHECKER)
    errors = summary(done.output)
    right = "all of it is right" in done.output
    results = "results right" if right else "results not all right"
    return stage_of(name, done, done.code == 0 and errors == 0 and right, f"{tool}: {said(errors)}; {results}")


def checked(command: Sequence[str], tool: str, limit_s: float) -> Finished | None:
    """The command under a tool of compute-sanitizer; None: there is none."""
    checker = found_tool("compute-sanitizer")
    if checker is None:
        return None
    # API errors are left out: libraries ask for what a device may not have, and go on without it.
    options = ["--report-api-errors", "no"] if tool == "memcheck" else ["--racecheck-report", "all"]
    # Each tensor an allocation of its own, else the checker sees torch's large blocks alone.
    settings = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return run([checker, "--tool", tool, *options, "--error-exitcode", "86", *command], limit_s, settings)


def summary(output: str) -> int | None:
    """How many errors, or hazards, a checker says that it found in all; None: it gave no verdict."""
    found = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", output)
    return sum(int(errors or hazards) for errors, hazards in found) if found else None


def said(errors: int | None) -> str:
    return "no verdict" if errors is None else f"{errors} found"


def bench(check: Check) -> Stage:
    """Each group of rows in a process of its own. What is left of the time is shared by the groups still to come."""
    problems, tails, found, start = [], [], 0, time.monotonic()
    for group in check.groups:
        done, rows = run_group(group, check.left(LIMITS_S.get(group, 110)))
        rows += groups.derived(group, rows)
        check.keep(rows)
        check.write()
        found += len(rows)
        ended = "" if done.code == 0 else "time was up" if done.code is None else f"exit code {done.code}"
        broken = [row.title for row in rows if row.broken]
        if ended or broken:
            problems.append(f"{group}: {'; '.join(filter(None, [ended, *broken]))}")
            tails.append(done.output[-3000:])
        print(done.output[-2000:], flush=True)
    detail = "; ".join(problems) or f"{found} rows"
    return Stage("bench", not problems, time.monotonic() - start, detail, "\n".join(tails))


def run_group(group: str, limit_s: float) -> tuple[Finished, list[Row]]:
    """Run a group; the rows that it left, however it ended."""
    return run_rows(["bench.groups", group], limit_s)


def run_rows(arguments: Sequence[str], limit_s: float) -> tuple[Finished, list[Row]]:
    """Run a module that writes rows to the file that is its last argument."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        done = run([sys.executable, "-m", *arguments, str(path)], limit_s)
        rows = json.loads(path.read_text()) if path.exists() else []
    return done, [Row.from_json(row) for row in rows]


def pretrain(check: Check) -> Stage:
    """All epochs on random clips of NTU-60's number and size."""
    done, rows = run_rows(["bench.gpu_pretrain"], check.left(480))
    check.keep(rows)
    detail = "; ".join(f"{row.median_ms()[row.ours()] / 1e3:.1f} s" for row in rows)
    return stage_of("pretrain", done, done.code == 0 and bool(rows), detail)


STAGES: dict[str, Callable[[Check], Stage]] = {
    "build": build,
    "build_cuda": build_cuda,
    "doctor": doctor,
    "tests": tests,
    "kernels": kernels,
    "memcheck_gru": memcheck_gru,
    "racecheck_gru": racecheck_gru,
    "sanitizer": sanitizer,
    "bench": bench,
    "pretrain": pretrain,
}
ON_REQUEST = ("pretrain",)
"""The stages that run only when they are named."""


def run_stages(names: Sequence[str], check: Check) -> bool:
    """Run them in order, whatever becomes of each; returns whether none failed."""
    for name in names:
        start = time.monotonic()
        try:
            stage = STAGES[name](check)
        except Exception as error:
            stage = Stage(name, False, time.monotonic() - start, f"{type(error).__name__}: {error}")
        check.stages = [*(other for other in check.stages if other.name != name), stage]
        check.write()
        print(f"{stage.name}: {stage.verdict.strip('*')} in {stage.seconds:.0f} s: {stage.detail}", flush=True)
        if stage.tail:
            print(stage.tail, flush=True)
    return not any(stage.passed is False for stage in check.stages if stage.name in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if no stage failed, 1 if one did, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    usual = [name for name in STAGES if name not in ON_REQUEST]
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}, in this order; none: {', '.join(usual)}")
    parser.add_argument("--groups", default=",".join(groups.GPU), help="of the bench, with commas (all of them)")
    parser.add_argument("--minutes", type=float, default=9.0, help="about how long all of it may take")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of gpu.json and gpu.md")
    parser.add_argument("--commit", default=commit(), help="what is measured, where git does not say")
    options = parser.parse_args(arguments)
    try:
        chosen("stage", options.stages, STAGES)
        names = chosen("group", options.groups.split(","), groups.GPU)
    except ValueError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        print(f"make bench-gpu: no CUDA device that torch {torch.__version__} could use", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * options.minutes
    check = Check(deadline, options.results, gpu_machine(options.commit), names, MEMORY)
    check.recall()
    passed = run_stages(options.stages or usual, check)
    print((options.results / "gpu.md").read_text())
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
