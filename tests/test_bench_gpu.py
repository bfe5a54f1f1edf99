"""The bench on a GPU as far as it can be proved without one: arithmetic, page, stages, and the parity of its rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import gpu_check, gpu_exchange, groups, gru, operators, processes, report, timing, training
from bench.cases import Case, Run
from bench.machine import gpu_machine
from bench.report import Page
from bench.rows import Bar, Row, Stage
from bench.timing import Contender, Entry
from bench.training import CAPTURED, Training, contrast_phase, reconstruction_phase

CPU = torch.device("cpu")
SMALL = Case("small", batch=3, frames=5, inputs=7, hidden=6, shortest=2)
FLOOR, PEER = Bar("ours", 1.5), Bar("ours", 3.0, "theirs")


def row(**changes: object) -> Row:
    calls = {"ours": [0.010, 0.012, 0.9], "theirs": [0.042]}
    return Row("InfoNCE", "K=64", **{"calls_ms": calls, "bytes": 8e6, "bars": (FLOOR, PEER), **changes})  # type: ignore[arg-type]


def copy_row() -> Row:
    return Row(report.COPY, "4 GiB", calls_ms={"copy_": [2.0]}, bytes=2e9)


def test_floors_and_bars() -> None:
    speed = report.bandwidth([row(), copy_row()])
    assert speed == pytest.approx(1e12)
    assert row().floor_us(speed) == pytest.approx(8)
    assert (row().reached(FLOOR, speed), row().reached(PEER, speed)) == (pytest.approx(1.5), pytest.approx(3.5))
    assert row().holds(FLOOR, speed)
    assert not row().holds(FLOOR, 1.1 * speed)
    assert row().holds(PEER, None)
    assert not row().holds(Bar("ours", 3.6, "theirs"), None)


@pytest.mark.parametrize("bar", [FLOOR, Bar("nobody", 1.0), Bar("ours", 3.0, "nobody")])
def test_a_bar_whose_figure_is_missing_is_neither_reached_nor_missed(bar: Bar) -> None:
    assert row().holds(bar, None) is None
    assert row(calls_ms={}).holds(bar, 1e12) is None
    assert report.bandwidth([row()]) is None


def test_a_row_survives_json() -> None:
    made = row(absent={"torch.compile": "not here"}, predicted_us=4.0)
    assert Row.from_json(json.loads(json.dumps(made.as_json()))) == made


def test_the_page_says_it_all(tmp_path: Path) -> None:
    stages = [
        Stage("tests", False, 12.3, "1 failed, 2 passed", "E  assert 0"),
        Stage("sanitizer", None, detail="not | here"),
    ]
    broken = Row("steps", "CML", bars=(PEER,), failed="RuntimeError: out of luck")
    wrong = Row("steps", "SER", refused="ours: result 0 is off", absent={"theirs": "ValueError: no"})
    rows = [copy_row(), row(predicted_us=4), broken, wrong]
    Page("gpu", {"GPU": "any", "driver": None}, rows, stages=stages).write(tmp_path)
    text = (tmp_path / "gpu.md").read_text()
    for said in (
        *("| copy bandwidth | 1.00 TB/s", "| driver | not here |", "| tests | **failed** | 12 | 1 failed, 2 passed |"),
        *(
            "| sanitizer | not run | 0 | not / here |",
            "E  assert 0",
            "| ours | 12 | at least 3× as fast as theirs | 3.50× | reached |",
        ),
        *("| K=64 | 12 | 42 | 8 | 1.50× | 4 | 3.00× |", "steps, CML: RuntimeError: out of luck", "| not known |"),
        *("steps, SER: ours: result 0 is off", "- **theirs**: ValueError: no. In: steps (SER)."),
    ):
        assert said in text, said
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["rows"][1]["bars"][1]["holds"] is True
    assert kept["rows"][1]["contenders"]["ours"]["median_us"] == 12
    assert [stage["passed"] for stage in kept["stages"]] == [False, None]


def test_a_page_without_any_row_or_stage_is_written(tmp_path: Path) -> None:
    Page("gpu", {}, []).write(tmp_path)
    assert json.loads((tmp_path / "gpu.json").read_text())["copy_bytes_per_second"] is None


def test_who_is_wrong_or_breaks_is_not_timed_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def contender(value: float) -> Contender:
        return Contender(lambda: [torch.full((3,), value)], 1e-3, calls=2)

    def breaks() -> Contender:
        raise ValueError("no graph\nof this")

    monkeypatch.setattr(timing, "WARM_S", 0.0)
    monkeypatch.setattr(timing, "SERIES_S", 0.0)
    builds = {"ours": partial(contender, 1.0), "off": partial(contender, 1.1), "broken": breaks}
    found = timing.fill(Entry(row(calls_ms={}), builds, lambda: [torch.ones(3)], series=2))
    assert [len(calls) for calls in found.calls_ms.values()] == [2]
    assert found.absent.pop("off").startswith("wrong (off: result 0 is off by 1.0e-01")
    assert found.absent == {"broken": "ValueError: no graph"}
    late = timing.fill(Entry(row(calls_ms={}), builds, breaks, series=2))  # type: ignore[arg-type]
    assert late.failed == "ValueError: no graph"


def test_series_and_turns() -> None:
    said: list[int] = []
    run = timing.in_turn([lambda: said.append(1) or [], lambda: said.append(2) or []])  # type: ignore[func-returns-value]
    assert timing.series_s(run, 5) > 0
    assert said == [1, 2, 1, 2, 1]
    assert [timing.runs_within(s) for s in (1.0, timing.SERIES_S / 10, 0.0)] == [1, 10, timing.MOST_CALLS]


@pytest.fixture
def _no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph's replay is all its calls, one after the other; nothing is warmed up for long."""

    def replayed(runs: Sequence[Run]) -> Run:
        def replay() -> Sequence[Tensor]:
            results = [run() for run in runs]
            return results[0]

        return replay

    def uncaptured(*arguments: object, capture: bool = False) -> Training:
        return Training(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "replayed", replayed)
    monkeypatch.setattr(training, "Training", uncaptured)
    monkeypatch.setattr(timing, "WARM_S", 0.0)
    monkeypatch.setattr(timing, "SERIES_S", 0.0)


ENTRIES: dict[str, Callable[[], Entry]] = {
    "copy": lambda: operators.copy_entry(CPU, 10_000),
    "info_nce": lambda: operators.info_nce_entry(CPU, 12, "fp32", 4.0, (FLOOR,), batch=3, features=8),
    "adam": lambda: operators.optimizer_entry(CPU, True, 3.0, channels=6, hidden=4),
    "sgd": lambda: operators.optimizer_entry(CPU, False, 3.0, channels=6, hidden=4),
    "gather": lambda: operators.gather_entry(CPU, "any", 6, 12, 3.0, clips=20, batch=4),
    "gru": lambda: gru.ragged_entry(CPU, False, 3.0, SMALL),
    "gru backward": lambda: gru.ragged_entry(CPU, True, 3.0, SMALL),
    "decoder": lambda: training.decoder_entry(CPU, False, 3.0, (3, 4, 6, 5)),
    "cml": lambda: training.step_entry(CPU, "CML", partial(contrast_phase, hidden=8), ("any", 4, 14), 3.0, batch=6),
    "side by side": lambda: training.together_entry(CPU, partial(contrast_phase, hidden=8), ("any", 4, 14), batch=6),
    "ser": lambda: training.step_entry(CPU, "S", partial(reconstruction_phase, hidden=8), ("any", 4, 14), 3.0, batch=6),
}


@pytest.mark.usefixtures("_no_graphs")
@pytest.mark.parametrize("name", ENTRIES)
def test_every_contender_of_a_row_is_right(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    entry = ENTRIES[name]()
    found = timing.fill(entry, rounds=1)
    assert (found.refused, found.failed, found.absent) == (None, None, {})
    assert list(found.calls_ms) == list(entry.builds)
    assert max(found.errors.values()) < 1e-5  # on the CPU all of them are exact


def test_the_decoder_is_compiled_in_a_row_of_its_own() -> None:
    assert [*training.decoder_entry(CPU, True, 3.0, (3, 4, 6, 5)).builds] == ["crrl, torch.compile", "crrl, eager"]


def test_bytes_of_the_rows() -> None:
    assert operators.queue_bytes(65_536, 32, 512, 4) == 4 * 512 * (65_536 + 96)
    numbers = sum(tensor.numel() for tensor in operators.optimizer_tensors(CPU, 150, 256)[0])
    assert numbers == pytest.approx(2.3e6, rel=0.02)


def test_every_prediction_is_a_rows() -> None:
    made = [entry for group in groups.GPU.values() for entry in group(torch.device("meta"))]
    centre, grid, exchange, peers = 1 + 3 + 3 * 2, 2 * 9, 3 * 3 + 2, 2 * 4 + 2
    assert len(made) == 5 + 4 + 3 + 5 + centre + exchange + grid + 1 + peers
    assert set(groups.PREDICTED.values()) <= {value for entry in made for value in entry.args}


def test_an_entry_that_cannot_be_made_is_a_row_that_says_so() -> None:
    def entry() -> Entry:
        raise RuntimeError("no memory")

    assert groups.run_row("steps", partial(entry)).failed == "RuntimeError: no memory"


def test_a_command_and_its_children_end_with_its_time() -> None:
    done = processes.run([sys.executable, "-c", "print('said'); import time; time.sleep(60)"], 2.0)
    assert (done.code, done.output) == (None, "said\n")
    stage = gpu_check.stage_of("tests", done, True, "")
    assert stage.passed is False
    assert stage.detail.startswith("stopped after")
    ended = processes.run(
        [sys.executable, "-c", "import os; print(os.environ['A']); raise SystemExit(3)"], 30, {"A": "b"}
    )
    assert (ended.code, ended.output) == (3, "b\n")


def test_pytests_last_words_are_counted() -> None:
    output = "5 passed in a name\n===== 1 failed, 12 passed, 3 skipped, 40 deselected in 5.02s =====\n"
    assert processes.counted(output) == {"failed": 1, "passed": 12, "skipped": 3, "deselected": 40}
    assert processes.described({}) == "no test reported"
    assert processes.counted("nothing") == {}


@pytest.fixture
def check(tmp_path: Path) -> gpu_check.Check:
    return gpu_check.Check(deadline=1e18, folder=tmp_path, machine={"commit": "abc-dirty"})


def test_stages_run_on_whatever_becomes_of_one(monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check) -> None:
    def passes(check: gpu_check.Check) -> Stage:
        return Stage("passes", True, 1.0, "3 passed")

    def breaks(check: gpu_check.Check) -> Stage:
        raise OSError("no such tool")

    def missing(check: gpu_check.Check) -> Stage:
        return Stage("missing", None, detail="not on this machine")

    monkeypatch.setattr(gpu_check, "STAGES", {"passes": passes, "breaks": breaks, "missing": missing})
    assert not gpu_check.run_stages(["breaks", "passes", "missing"], check)
    assert [stage.passed for stage in check.stages] == [False, True, None]
    text = (check.folder / "gpu.md").read_text()
    assert "OSError: no such tool" in text
    assert "| commit | abc-dirty |" in text
    check.stages.clear()
    assert gpu_check.run_stages(["passes", "missing"], check)


def finished(code: int | None, output: str) -> Callable[..., processes.Finished]:
    return lambda *arguments: processes.Finished(code, output, 1.0)


RIGHT = "all of it is right"


@pytest.mark.parametrize(
    ("code", "output", "passed"),
    [
        (0, f"{RIGHT}\n========= ERROR SUMMARY: 0 errors", True),
        (0, f"{RIGHT}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", True),
        (86, f"{RIGHT}\n========= RACECHECK SUMMARY: 3 hazards displayed (1 error, 2 warnings)", False),
        (0, "tf32, l2: off by 1.0\n========= ERROR SUMMARY: 0 errors", False),
        (0, RIGHT, False),
        (None, RIGHT, False),
    ],
)
def test_the_checkers_of_the_cuda_gru_want_a_clean_verdict_on_right_results(
    monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check, code: int | None, output: str, passed: bool
) -> None:
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: "/any/compute-sanitizer")
    monkeypatch.setattr(gpu_check, "run", finished(code, output))
    for stage in (gpu_check.memcheck_gru, gpu_check.racecheck_gru):
        assert stage(check).passed is passed
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: None)
    assert gpu_check.racecheck_gru(check).passed is None


@pytest.mark.parametrize(
    ("code", "output", "passed"),
    [
        (0, "========= ERROR SUMMARY: 0 errors\n9 passed in 3s", True),
        (86, "========= ERROR SUMMARY: 2 errors\n9 passed in 3s", False),
        (0, "9 passed in 3s", False),
        (0, "========= ERROR SUMMARY: 0 errors\n9 skipped in 3s", False),
        (None, "", False),
    ],
)
def test_the_memory_checker_passes_only_with_a_clean_verdict_on_tests_that_ran(
    monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check, code: int | None, output: str, passed: bool
) -> None:
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: "/any/compute-sanitizer")
    monkeypatch.setattr(gpu_check, "run", finished(code, output))
    assert gpu_check.sanitizer(check).passed is passed
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: None)
    assert gpu_check.sanitizer(check).passed is None


def test_a_group_that_is_ended_leaves_its_rows_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check
) -> None:
    def run(command: Sequence[str], limit_s: float) -> processes.Finished:
        group, path = command[-2:]
        Path(path).write_text(json.dumps([Row("any", group).as_json()]))
        return processes.Finished(None if group == "steps" else 0, "the end", 1.0)

    monkeypatch.setattr(gpu_check, "run", run)
    stage = gpu_check.bench(check)
    assert (stage.passed, stage.detail) == (False, "steps: time was up")
    assert [found.title for found in check.rows] == list(groups.GPU)


def test_stages_of_tests_and_of_the_build(monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check) -> None:
    monkeypatch.setattr(gpu_check, "run", finished(1, "1 failed, 2 passed in 3s"))
    assert (gpu_check.tests(check).passed, gpu_check.kernels(check).detail) == (False, "1 failed, 2 passed")
    assert gpu_check.build(check).passed is None
    monkeypatch.setattr(gpu_check, "run", finished(0, "2 passed in 3s"))
    assert gpu_check.tests(check).passed
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    assert "no pybind11 and setuptools" in gpu_check.build(check).detail


def test_the_cuda_build_is_for_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check) -> None:
    assert [gpu_exchange.target(c) for c in ((8, 0), (8, 9), (9, 0), (10, 0))] == ["8.0", "8.9", "9.0a", "10.0a"]
    said: list[object] = []

    def run(*arguments: object) -> processes.Finished:
        said.extend(arguments)
        return processes.Finished(1, "error: no such header", 1.0)

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check.torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: "/any/nvcc")
    stage = gpu_check.build_cuda(check)
    assert (stage.passed, stage.tail) == (False, "error: no such header")
    assert {"CRRL_CPU": "0", "CRRL_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0a"} in said
    monkeypatch.setattr(gpu_exchange.shutil, "which", lambda *arguments, **settings: None)
    assert gpu_check.build_cuda(check).passed is None


def test_what_the_doctor_says_is_on_the_page(monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check) -> None:
    output = (
        "machine\n  cuda:0  NVIDIA H200, sm_90, 132 SMs, 140 GiB\nself-check of the GPU kernels\n"
        "  cuda:0  gru_layer   tf32     passed  its self-check passed now\n"
        "  cuda:0  info_nce    float32  off     its self-check in float32 failed: it raised RuntimeError\n"
    )
    monkeypatch.setattr(gpu_check, "run", finished(0, output))
    gpu_check.run_stages(["doctor"], check)
    text = (check.folder / "gpu.md").read_text()
    assert "| doctor | passed | 1 | 1 of 2 self-checks passed; not info_nce float32 |" in text
    assert "## What doctor printed" in text


def test_a_run_goes_on_with_what_others_of_the_same_sources_found(
    monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "STAGES", {"bench": lambda check: Stage("bench", False, detail="no time")})
    check.memory = tmp_path / "memory" / "found.json"
    check.keep([row(), copy_row()])
    check.stages = [Stage("tests", True, 1.0, "3 passed", said="words")]
    check.write()
    later = gpu_check.Check(1e18, tmp_path, check.machine, memory=check.memory)
    later.recall()
    assert (later.rows, later.stages) == (check.rows, check.stages)
    later.keep([row(predicted_us=7.0)])
    assert [found.predicted_us for found in later.rows] == [None, 7.0]
    assert not gpu_check.run_stages(["bench"], later)
    assert [stage.name for stage in later.stages] == ["tests", "bench"]
    monkeypatch.setattr(gpu_check, "sources", lambda: "others")
    other = gpu_check.Check(1e18, tmp_path, check.machine, memory=check.memory)
    other.recall()
    assert other.rows == []


def test_groups_run_in_their_time_and_leave_what_follows_from_them(
    monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check
) -> None:
    limits: dict[str, float] = {}

    def run_group(group: str, limit_s: float) -> tuple[processes.Finished, list[Row]]:
        limits[group] = limit_s
        steps = [(training.CML, 0.3), (training.SER, 0.4)] if group == "steps" else []
        rows = [Row(training.step_group("NTU"), name, calls_ms={CAPTURED: [ms]}) for name, ms in steps]
        return processes.Finished(0, "", 1.0), rows

    monkeypatch.setattr(gpu_check, "run_group", run_group)
    check.groups = ("steps", "gru_peers")
    assert gpu_check.bench(check).detail == "3 rows"
    assert limits == {"steps": 110, "gru_peers": 150}
    assert check.rows[-1].group == "pretraining"
    check.deadline = 0.0
    gpu_check.bench(check)
    assert limits["steps"] == 1.0


def test_pretraining_runs_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, check: gpu_check.Check) -> None:
    def run(command: Sequence[str], limit_s: float) -> processes.Finished:
        Path(command[-1]).write_text(json.dumps([Row("pretraining", "any", calls_ms={"any": [75e3]}).as_json()]))
        return processes.Finished(0, "", 80.0)

    monkeypatch.setattr(gpu_check, "run", run)
    stage = gpu_check.pretrain(check)
    assert (stage.passed, stage.detail, check.rows[-1].title) == (True, "75.0 s", "any")
    assert set(gpu_check.ON_REQUEST) <= set(gpu_check.STAGES)


def test_the_page_shows_the_errors_of_grus(tmp_path: Path) -> None:
    wrong = Row("GRU encoder, tf32", "B=1: forward", errors={"ours": 0.5, "cuDNN": 3e-4}, refused="ours: off")
    Page("gpu", {}, [wrong]).write(tmp_path)
    text = (tmp_path / "gpu.md").read_text()
    assert "| GRU encoder, tf32: B=1: forward | ours | 5.0e-01 | cuDNN 3.0e-04 | **refused** |" in text
    assert "GRU encoder, tf32, B=1: forward: ours: off" in text


def test_the_machine_is_described_where_there_is_no_gpu_too() -> None:
    facts = gpu_machine("abc")
    assert {"GPU", "driver", "torch", "triton", "CUDA of torch", "Python", "commit", "date"} <= facts.keys()
    assert facts["commit"] == "abc"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU is told")
def test_without_a_gpu_it_says_so_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_check.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    for arguments in (["nothing"], ["bench", "--groups", "gru,nothing"]):
        with pytest.raises(SystemExit):
            gpu_check.main(arguments)


def test_the_memory_checker_is_given_every_kernel() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/kernels", "-k", gpu_check.SANITIZED]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout
    for name in ("test_ema.py", "test_motion.py", "test_optim.py"):
        assert name in found
    for name in (r"sizes_that_it_chooses", r"test_enqueue\[.*\b5-0\b", r"test_enqueue\[.*\b5-7\b"):
        assert re.search(rf"test_infonce\.py::.*{name}", found)
