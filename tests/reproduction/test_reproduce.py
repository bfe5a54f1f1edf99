"""The command, end to end on a folder of small clips: a table, a figure of the same runs, a run that was cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import reproduce
from crrl.errors import CrrlError
from crrl.reproduction import TARGETS
from crrl.reproduction import paper as tables


def quick(target: str, clip_folder: Path, runs: Path) -> int:
    arguments = ["--dataset", "folder", "--data", str(clip_folder), "--quick", "--runs", str(runs), "--device", "cpu"]
    return reproduce.main([target, *arguments])


def test_a_table_its_figure_and_a_run_that_was_cut_off(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick("table4", clip_folder, tmp_path) == 0
    page = tmp_path / "pages" / "table4.md"
    assert capsys.readouterr().out == f"page: {page}\n"
    (crrl,) = tmp_path.glob(f"{clip_folder.name}-default-crrl-paper-quick-seed0-*")
    accuracy = json.loads((crrl / "evaluation-linear.json").read_text())["accuracy_percent"]["crrl, last epoch"]["all"]
    assert f"| CRRL (Ours) | – · {accuracy:.1f} · – |" in page.read_text()
    assert "quick: 2 epochs" in page.read_text()

    whole = TARGETS["figure6"].rows[-1]
    monkeypatch.setitem(TARGETS, "figure6", tables.Target("Figure 6", tables.NW_UCLA, (whole,)))
    assert quick("figure6", clip_folder, tmp_path) == 0
    captured = capsys.readouterr()
    assert "2 runs, 0 of them to do" in captured.err
    rows = (tmp_path / "pages" / f"figure6-{clip_folder.name}-default.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    right = [float(row.split(",")[3]) for row in rows[1:] if row.split(",")[1] == row.split(",")[2]]
    assert sum(right) / 2 == pytest.approx(accuracy), "5 test clips of each class"

    weights = (crrl / "encoder.safetensors").read_bytes()
    (crrl / "encoder.safetensors").unlink()
    (crrl / "evaluation-linear.json").unlink()
    assert quick("table4", clip_folder, tmp_path) == 0
    assert "2 runs, 1 of them to do" in capsys.readouterr().err
    assert (crrl / "encoder.safetensors").read_bytes() == weights
    assert f"– · {accuracy:.1f} · –" in page.read_text()


def test_several_protocols_are_a_page_each_of_the_same_runs(
    clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CML and SER are trained side by side in one process, then CRRL."""
    arguments = ["--dataset", "folder", "--data", str(clip_folder), "--quick", "--together", "2", "--device", "cpu"]
    command = ["table6-parts", *arguments, "--runs", str(tmp_path), "--protocol", "linear", "knn"]
    assert reproduce.main(command) == 0
    captured = capsys.readouterr()
    pages = [tmp_path / "pages" / f"{name}.md" for name in ("table6-parts", "table6-parts-knn")]
    assert captured.out == "".join(f"page: {page}\n" for page in pages)
    assert "3 runs, 3 of them to do" in captured.err
    assert len([*tmp_path.glob("*-together.log")]) == 1
    for page, reading in zip(pages, ("linear, last epoch", "knn, 1-NN"), strict=True):
        assert f"## {reading}, all test clips (quick" in page.read_text()
    (crrl,) = tmp_path.glob("*-crrl-*")
    assert sorted(path.name for path in crrl.glob("evaluation-*")) == ["evaluation-knn.json", "evaluation-linear.json"]


def test_figures_are_not_measured_another_way(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match="figure4 is drawn as it is"):
        reproduce.main(["figure4", "--protocol", "knn", "--runs", str(tmp_path / "runs")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--together", "0"], "--together is 0"),
        (["--seeds", "1000000000"], "--seeds is 1000000000: it must be from 1 to 1000"),
        (["--jobs", "1000000000"], "--jobs is 1000000000: it must be from 1 to 256"),
        (["--quick", "--seeds", "2"], "smoke test of 1 seed"),
        (["--dataset", "nw-ucla"], "no data set for table4 was found"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_made(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRRL_DATA", raising=False)
    with pytest.raises(CrrlError, match=message):
        reproduce.main(["table4", *arguments, "--runs", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
