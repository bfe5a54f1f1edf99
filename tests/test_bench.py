"""The bench's arithmetic, its parity check and its report; what it times is its own business."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

# As in bench/conftest.py: pytest alone does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import cases, conftest, machine, peers, report, timing
from bench.machine import peak_of
from bench.rows import Row
from crrl.ops import cpu

PEAKS = {"avx512": 200.0, "avx2": 100.0, "amx_bf16": 2000.0}


def row(**changes: object) -> Row:
    settings = {
        "flops": 1e9,
        "bar": "torch",
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
    runs, absent = peers.gather(cases.problem(cases.Case("small", batch=2, frames=3, hidden=4)), "fp32", False)
    assert {"crrl", "torch"} <= runs.keys()
    assert absent["ONNX Runtime"] == absent["OpenVINO"] == "cannot be held to CRRL_ISA=plain"
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    assert machine.peak_gflops().keys() == {"plain"}


def test_a_wrong_result_is_named() -> None:
    truth = [torch.ones(4), torch.ones(4)]
    runs = {
        "ours": [truth[0], truth[1] + 0.25],
        "torch": [truth[0], truth[1] - 0.1],
        "nan": [truth[0], truth[1] * torch.nan],
    }
    measured = {name: timing.errors(got, truth) for name, got in runs.items()}

    def wrong(name: str, limit: float, relative_to: str | None = None) -> str | None:
        return timing.wrong(timing.Contender(name, lambda: runs[name], limit, relative_to), measured)

    assert wrong("torch", 0.2) is None
    assert wrong("ours", 3, relative_to="torch") is None
    assert "result 1 is off by 2.5e-01" in (wrong("ours", 2, relative_to="torch") or "")
    assert "nan" in (wrong("nan", 1e9) or "")


def test_a_peer_that_is_wrong_is_left_out_and_ours_is_not() -> None:
    def of(name: str, value: float) -> timing.Contender:
        return timing.Contender(name, lambda: [torch.full((3,), value)], limit=1e-5)

    expected = [torch.ones(3)]
    found = row()
    usual = conftest.judge(found, [of("crrl", 1), of("torch", 1), of("other", torch.nan)], expected)
    assert list(usual) == ["crrl", "torch"]
    assert found.absent == {"other": "wrong (other: result 0 is off by nan of its norm, allowed are 1.0e-05)"}
    assert found.refused is None
    with pytest.raises(AssertionError, match=r"crrl: result 0 is off .* nothing is timed"):
        conftest.judge(found, [of("crrl", 2), of("torch", 1)], expected)
    assert found.refused


def test_rounds_fit_the_time() -> None:
    assert timing.rounds_within(0, [1.0]) == timing.FEWEST
    assert timing.rounds_within(1e9, [1.0]) == timing.MOST
    assert timing.rounds_within(10, [0.5, 0.5]) == 9


@pytest.mark.parametrize("stepwise", [False, True])
def test_peers_agree_or_say_why_they_are_absent(stepwise: bool) -> None:
    case = cases.Case(
        "small", batch=3, frames=5, inputs=7, hidden=6, shortest=None if stepwise else 2, stepwise=stepwise
    )
    for backward in cases.truth(case):
        runs, absent = peers.gather(cases.problem(case), "fp32", backward)
        assert {*runs, *absent} == {*peers.PEERS} - {"torch fp32"}
        assert {"crrl", "torch"} <= runs.keys()
        assert all(absent.values())
        for run in runs.values():
            assert max(timing.errors(run(), cases.truth(case)[backward])) < 1e-5


def test_the_report_says_it_all(tmp_path: Path) -> None:
    machine = {"processor": "any", "gru_layer": {"fp32": "cpu"}, "openvino": None}
    refused = row(calls_ms={}, bar=None, refused="crrl: result 0 is off")
    later = row(rank=-1, absent={"ONNX Runtime": "inference only"})
    report.write(tmp_path, machine, PEAKS, [row(), later, refused])
    kept = json.loads((tmp_path / "cpu.json").read_text())
    first = kept["rows"][0]
    assert (first["absent"], first["best_peer"], first["times_as_fast"]) == (
        {"ONNX Runtime": "inference only"},
        "other",
        0.8,
    )
    assert first["peers"]["crrl"]["median_ms"] == 20
    assert kept["peak_gflops"] == PEAKS
    text = (tmp_path / "cpu.md").read_text()
    for said in ("**1.50×**", "other 0.80×", "| openvino | not installed |", "crrl: result 0 is off", "inference only"):
        assert said in text
    assert len(ElementTree.parse(tmp_path / "cpu.svg").getroot()) == 3 + 3 * 2


def test_the_report_begins_with_the_rows_in_which_others_are_faster(tmp_path: Path) -> None:
    rows = [row(calls_ms={"crrl": [20.0], "torch": [peer]}, title=f"of {peer}") for peer in (19.0, 10.0, 21.0)]
    report.write(tmp_path, {}, PEAKS, rows)
    lost = (tmp_path / "cpu.md").read_text().partition("## Where others are faster")[2].partition("## Headlines")[0]
    assert [line.split(" | ")[0] for line in lost.strip().splitlines()[2:]] == ["| GRU: of 10.0", "| GRU: of 19.0"]


@pytest.mark.parametrize(("status", "kept"), [(0, True), (1, False), (2, False)])
def test_a_run_that_was_stopped_or_failed_writes_over_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kept: bool
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(conftest.report, "write", lambda folder, *_: folders.append(folder))
    monkeypatch.setattr(conftest, "machine", dict)
    monkeypatch.setattr(conftest.Session, "measure_peaks", lambda self: None)
    session = conftest.Session(0.0, 1, rows=[row()])
    config = SimpleNamespace(stash={conftest.SESSION: session}, getoption=lambda name: tmp_path)
    said = SimpleNamespace(section=lambda title: None, write_line=lambda line: None)
    conftest.pytest_terminal_summary(said, status, config)  # type: ignore[arg-type]
    assert folders == [tmp_path if kept else conftest.SCRATCH]
