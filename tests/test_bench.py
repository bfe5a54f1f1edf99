"""The bench's arithmetic, its parity check and its report; what it times is its own business."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import cases, conftest, gru, machine, operators, peers, skeleton, streaming, timing, training
from bench.machine import peak_of
from bench.report import Page
from bench.rows import Row, to_beat
from bench.timing import Contender, Entry, fill
from crrl.ops import cpu

PEAKS = {"avx512": 200.0, "avx2": 100.0, "amx_bf16": 2000.0}


def row(**changes: object) -> Row:
    settings = {
        "flops": 1e9,
        "bars": to_beat("torch"),
        "calls_ms": {"crrl": [10.0, 20.0, 90.0], "torch": [30.0], "other": [16.0]},
    }
    return Row("GRU", **{"title": "a < b", **settings, **changes})  # type: ignore[arg-type]


def test_flops_are_those_of_the_matrix_products_on_valid_frames() -> None:
    assert cases.NTU.forward_flops() == 2 * 1920 * 1536 * (150 + 256) + 2 * 1920 * 1536 * (512 + 256)
    ragged = cases.Case("ragged", batch=3, frames=9, shortest=3)
    assert sorted(ragged.lengths()) == [3, 6, 9]  # type: ignore[arg-type]
    assert ragged.forward_flops() == cases.Case("as many frames", batch=2, frames=9).forward_flops()


def test_figures_of_a_row() -> None:
    assert row().best_peer() == "other"
    assert row().times_as_fast("torch") == 1.5
    assert row().times_as_fast("absent") is None
    assert row().gflops("crrl") == pytest.approx(50)
    assert row().percent_of_peak("crrl", PEAKS) == pytest.approx(25)
    assert row(dtype="bf16").percent_of_peak("crrl", PEAKS) == pytest.approx(2.5)
    assert row().percent_of_peak("crrl", {}) is None
    assert peak_of("bf16", {"plain": 20.0}) == ("plain", 20.0)


def test_who_cannot_be_held_to_an_instruction_set_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "isa", "plain")
    found = fill(gru.cpu_entry(cases.Case("small", batch=2, frames=3, hidden=4), "fp32", False), rounds=1)
    assert {"crrl", "torch"} <= found.calls_ms.keys()
    assert found.absent["ONNX Runtime"] == found.absent["OpenVINO"] == "cannot be held to CRRL_ISA=plain"


def test_peaks_are_measured_by_the_module_that_is_compiled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("needs g++ on Linux")
    assert all(gflops > 0 for gflops in machine.peak_gflops().values())
    monkeypatch.setattr(cpu, "isa", "plain")
    assert machine.peak_gflops().keys() == {"plain"}
    with pytest.raises(ValueError, match="at least one thread"):
        machine.peak_module().peak_gflops(0, 1.0)


def test_without_a_compiler_there_are_no_peaks_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(machine, "peak_module", missing)
    with pytest.warns(UserWarning, match=r"peak\.cpp cannot be compiled: no g\+\+"):
        assert machine.peak_gflops() == {}


def test_a_wrong_result_is_named() -> None:
    truth = [torch.ones(4), torch.ones(4)]
    runs = {
        "ours": [truth[0], truth[1] + 0.25],
        "torch": [truth[0], truth[1] - 0.1],
        "nan": [truth[0], truth[1] * torch.nan],
    }
    measured = {name: timing.errors(got, truth) for name, got in runs.items()}

    def wrong(name: str, limit: float, relative_to: str | None = None) -> str | None:
        return timing.wrong(name, Contender(lambda: runs[name], limit, relative_to), measured)

    assert wrong("torch", 0.2) is None
    assert wrong("ours", 3, relative_to="torch") is None
    assert "result 1 is off by 2.5e-01" in (wrong("ours", 2, relative_to="torch") or "")
    assert "nan" in (wrong("nan", 1e9) or "")


@pytest.mark.parametrize("series", [0, 2])
def test_a_peer_that_is_wrong_is_left_out_and_ours_is_refused(series: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARM_S", "SERIES_S", "SETTLE_S", "BURST_S"):
        monkeypatch.setattr(timing, name, 0.0)

    def filled(**values: float) -> Row:
        builds = {
            name: lambda value=value: Contender(lambda: [torch.full((3,), value)], 1e-5)  # type: ignore[misc]
            for name, value in values.items()
        }
        return fill(Entry(row(calls_ms={}), builds, lambda: [torch.ones(3)], series), rounds=2)

    found = filled(crrl=1, torch=1, other=torch.nan)
    assert [*found.calls_ms] == ["crrl", "torch"]
    assert found.absent == {"other": "wrong (other: result 0 is off by nan of its norm, allowed are 1.0e-05)"}
    assert (found.refused, found.broken) == (None, False)
    found = filled(crrl=2, torch=1)
    assert "crrl: result 0 is off" in (found.refused or "")
    assert found.broken
    assert [*found.calls_ms] == ["torch"]
    assert filled(**{"first": 1, "crrl, other": 2}).broken


def test_rounds_fit_the_time() -> None:
    assert timing.rounds_within(0, [1.0]) == timing.FEWEST
    assert timing.rounds_within(1e9, [1.0]) == timing.MOST
    assert timing.rounds_within(10, [0.5, 0.5]) == 9


@pytest.mark.parametrize("stepwise", [False, True])
def test_peers_agree_or_say_why_they_are_absent(stepwise: bool) -> None:
    shortest = None if stepwise else 2
    case = cases.Case("small", batch=3, frames=5, inputs=7, hidden=6, shortest=shortest, stepwise=stepwise)
    for backward in cases.truth(case):
        found = fill(gru.cpu_entry(case, "fp32", backward), rounds=1)
        assert {*found.calls_ms, *found.absent} == {*peers.ON_CPU} - {"torch fp32"}
        assert {"crrl", "torch"} <= found.calls_ms.keys()
        assert not any("wrong" in reason or not reason for reason in found.absent.values())
        assert max(found.errors.values()) < 1e-5


TINY = ("any", 4, 14)
ENTRIES = {
    "gather": lambda: operators.cpu_gather_entry("any", 6, 12),
    "info_nce": lambda: operators.cpu_info_nce_entry(12, 3, 8),
    "linear": lambda: operators.linear_entry(64, 20, "a few steps"),
    "stream": lambda: streaming.entry(streaming.STREAM, 2, 3, 1),
    "module": lambda: streaming.entry(streaming.MODULE, 1, 1, 1),
    "trained": lambda: streaming.entry(streaming.TRAINED, 2, 1, 1),
    "bf16": lambda: gru.cpu_entry(cases.Case("small", batch=3, frames=5, inputs=7, hidden=6), "bf16", True),
    "cml": lambda: training.cpu_step_entry("CML", partial(training.contrast_phase, hidden=8), TINY),
    "ser": lambda: training.cpu_step_entry("SER", partial(training.reconstruction_phase, hidden=8), TINY),
    "ser, bf16": lambda: training.cpu_bf16_step_entry("S", partial(training.reconstruction_phase, hidden=32), TINY),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_contender_of_a_row_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But peers that are not there, and those without the arithmetic of the row."""
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    monkeypatch.setattr(training, "set_up_process", lambda device: None)
    entry = ENTRIES[name]()
    found = fill(entry, rounds=1)
    assert (found.refused, found.failed, found.broken) == (None, None, False)
    assert {*found.absent} <= {"ONNX Runtime", "OpenVINO", "torch.compile"}
    assert not any("wrong" in reason for reason in found.absent.values())
    assert [*found.calls_ms] == [peer for peer in entry.builds if peer not in found.absent]


def test_a_skeleton_file_is_read_alike_by_everybody() -> None:
    (make,) = skeleton.entries()
    found = fill(make(), rounds=1)
    assert (found.refused, found.failed) == (None, None)
    assert {"crrl without C++", "line by line, all 12 numbers", "line by line, x y z alone"} <= found.calls_ms.keys()


def test_the_report_says_it_all(tmp_path: Path) -> None:
    machine = {"processor": "any", "gru_layer": {"fp32": "cpu"}, "openvino": None}
    refused = row(calls_ms={"torch": [1.0]}, bars=(), refused="crrl: result 0 is off")
    later = row(rank=-1, absent={"ONNX Runtime": "inference only"})
    Page("cpu", machine, [row(), later, refused], PEAKS).write(tmp_path)
    kept = json.loads((tmp_path / "cpu.json").read_text())
    first = kept["rows"][0]
    absent = {"ONNX Runtime": "inference only"}
    assert (first["absent"], first["best_peer"], first["times_as_fast"]) == (absent, "other", 0.8)
    assert first["contenders"]["crrl"]["median_ms"] == 20
    assert first["contenders"]["crrl"]["percent_of_peak"] == 25
    assert first["bars"][0]["reached"] == 1.5
    assert kept["peak_gflops"] == PEAKS
    text = (tmp_path / "cpu.md").read_text()
    for said in (
        "| GRU: a < b | crrl | 20 | at least 1× as fast as torch | 1.50× | reached |",
        *("| a < b | 20 | 30 | 16 | 50 | 25 | other 0.80× |", "| peak, avx512 | 200 GFLOP/s |"),
        *("| openvino | not here |", "| gru_layer, fp32 | cpu |", "- GRU, a < b: crrl: result 0 is off"),
        "- **ONNX Runtime**: inference only. In: GRU (a < b).",
    ):
        assert said in text, said
    assert len(ElementTree.parse(tmp_path / "cpu.svg").getroot()) == 3 + 3 * 2


def test_the_report_begins_with_the_rows_in_which_others_are_faster(tmp_path: Path) -> None:
    rows = [row(calls_ms={"crrl": [20.0], "torch": [peer]}, title=f"of {peer}") for peer in (19.0, 10.0, 21.0)]
    Page("cpu", {}, rows, PEAKS).write(tmp_path)
    lost = (tmp_path / "cpu.md").read_text().partition("## Where others are faster")[2].partition("## Bars")[0]
    assert [line.split(" | ")[0] for line in lost.strip().splitlines()[2:]] == ["| GRU: of 10.0", "| GRU: of 19.0"]


@pytest.mark.parametrize(("exit_status", "kept"), [(0, True), (1, False), (2, False)])
def test_a_run_that_was_stopped_or_failed_writes_over_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_status: int, kept: bool
) -> None:
    monkeypatch.setattr(conftest, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(conftest, "peak_gflops", lambda: PEAKS)
    run = conftest.Run(minutes=1)
    run.rows.append(row())
    config = SimpleNamespace(stash={conftest.RUN: run}, getoption=lambda name: tmp_path / "results")
    said = SimpleNamespace(section=lambda title: None, write_line=lambda line: None)
    conftest.pytest_terminal_summary(said, exit_status, config)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["results" if kept else "scratch"]


def test_peaks_are_the_best_of_a_run_and_rows_share_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = iter([{"avx2": 3.0, "plain": 1.0}, {"avx2": 2.0, "plain": 4.0}])
    shares: list[float] = []

    def filled(entry: Entry, *, share_s: float, **_: object) -> Row:
        shares.append(share_s)
        return entry.row

    monkeypatch.setattr(conftest, "peak_gflops", lambda: next(measured))
    monkeypatch.setattr(conftest, "fill", filled)
    run = conftest.Run(minutes=1)
    run.begin(3)
    for _ in range(3):
        run.measure("any", lambda: Entry(row(), {}, list), timing.again)
    run.write(tmp_path, went_through=True)
    assert run.peaks == {"avx2": 3.0, "plain": 4.0}
    assert shares == [pytest.approx(60 / left, abs=1) for left in (3, 2, 1)]


def test_pytest_bench_times_its_rows_as_benchmarks_and_writes_their_page(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    command = [sys.executable, "-m", "pytest", "bench/", "-k", "skeleton", "--rounds", "2", "-p", "no:cacheprovider"]
    kept = ["--results", str(tmp_path), "--benchmark-json", str(tmp_path / "benchmark.json")]
    # pytest-benchmark times nothing in a worker of pytest-xdist, as which the tests may run
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, *kept], cwd=machine.ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (benchmark,) = json.loads((tmp_path / "benchmark.json").read_text())["benchmarks"]
    assert benchmark["stats"]["rounds"] == 2
    (found,) = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert found["group"] == ".skeleton file"
    assert benchmark["extra_info"]["median_ms"].keys() == found["contenders"].keys()
