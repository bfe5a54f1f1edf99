"""Benchmarks: parity first, then peers timed in turns in the same run, reported as ratios of medians."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROUNDS = 15
"""Turns per benchmark; in each turn every peer runs once, so that a noisy moment hits all of them."""
RESULTS = Path(__file__).parent / "results"

Run = Callable[[], Sequence[Tensor]]
_rows: list[dict[str, Any]] = []


def check_parity(name: str, got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float) -> None:
    """Fail, and so time nothing, where results differ from the reference's by more than `tolerance` of their norm."""
    for position, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
        assert error <= tolerance, f"{name}: result {position} is off by {error:.1e} of its norm; not timed"


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., None]:
    """compare(title, {name: run}, tolerance): the first is ours, "reference" is the judge; each returns its results."""

    def run(title: str, peers: dict[str, Run], tolerance: float) -> None:
        expected = peers["reference"]()
        for name, peer in peers.items():
            check_parity(name, peer(), expected, tolerance)
        times: dict[str, list[float]] = {name: [] for name in peers}

        def one_turn() -> None:
            for name, peer in peers.items():
                start = time.perf_counter()
                peer()
                times[name].append(1e3 * (time.perf_counter() - start))

        benchmark.pedantic(one_turn, rounds=ROUNDS)
        medians = {name: statistics.median(values) for name, values in times.items()}
        benchmark.extra_info["median_ms"] = medians
        _rows.append({"benchmark": title, "median_ms": medians})

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table and keep it as JSON."""
    if not _rows:
        return
    terminalreporter.section("crrl: median ms (times the first)")
    for row in _rows:
        (ours, best), *others = row["median_ms"].items()
        cells = [f"{ours} {best:.2f}", *(f"{name} {value:.2f} ({value / best:.2f}x)" for name, value in others)]
        terminalreporter.write_line(f"{row['benchmark']:44} " + " | ".join(cells))
    machine = {
        "commit": commit(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (RESULTS / "cpu.json").write_text(json.dumps({**machine, "rounds": ROUNDS, "rows": _rows}, indent=2) + "\n")


def commit() -> str:
    """The commit that is measured, "-dirty" where files differ from it; empty outside a git checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS, capture_output=True, text=True, check=False
    )
    return described.stdout.strip()


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
