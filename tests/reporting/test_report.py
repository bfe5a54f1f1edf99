"""The command crrl.report: what its page holds, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crrl
from crrl.errors import CrrlError
from crrl.runs import RunFolder

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import report

HOSTILE = "</script><script>document.title='broken'</script>"
"""The name of a class of `bodies`."""


def data_of(page: Path) -> dict[str, Any]:
    """What the page's script draws."""
    (text,) = re.findall(r'<script type="application/json" id="page">(.*?)</script>', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path) -> Path:
    """The run, to be broken."""
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def refused(*arguments: object) -> str:
    """What is said of arguments that the command refuses; one line."""
    with pytest.raises(CrrlError) as error:
        report.main(list(map(str, arguments)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_page_says_what_evaluation_found(evaluated: Path, report_page: Path) -> None:
    text = report_page.read_text()
    rows = json.loads((evaluated / "evaluation-linear.json").read_text())["accuracy_percent"]
    for row, tests in rows.items():
        assert re.search(rf"<td>{re.escape(row)}</td><td class=\"number\">{tests['all']:.1f}</td>", text)
    assert f"{rows['crrl, last epoch']['all']:.1f} % of\nthe test clips are told right" in text
    assert "<td>cml.queue_size</td><td>64</td>" in text


def test_mistakes_are_those_of_the_linear_protocol(evaluated: Path, report_page: Path) -> None:
    (run,) = data_of(report_page)["runs"]
    labels, taken, tested = (np.array(run[name]) for name in ("labels", "predicted", "tested"))
    accuracy = json.loads((evaluated / "evaluation-linear.json").read_text())["accuracy_percent"]
    assert 100 * (labels == taken)[tested].mean() == pytest.approx(accuracy["crrl, last epoch"]["all"])
    assert sorted(run["mistakes"]) == np.flatnonzero(tested & (labels != taken)).tolist()
    assert tested.sum() == 9


def test_the_confusions_are_those_of_the_classifier_that_was_kept(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever protocol trained it, on whichever features; none is trained beside it."""
    from crrl import evaluate
    from crrl.reporting import findings

    monkeypatch.setattr(findings, "linear_scores", lambda *_: pytest.fail("a second classifier"))
    for options in (["logistic"], ["linear", "--features", "paper"]):
        evaluate.main([str(copy), "--device", "cpu", "--protocol", *options])
        found = findings.Findings(RunFolder(copy), None, torch.device("cpu"))
        file = f"evaluation-{options[0]}{'-features-paper' if len(options) > 1 else ''}.json"
        (exact, *_) = json.loads((copy / file).read_text())["accuracy_percent"].values()
        assert found.accuracy == pytest.approx(exact["all"])
        assert np.trace(found.confusions) == pytest.approx(exact["all"] / 100 * found.confusions.sum())
        assert found.classifier.endswith(f"(protocol {options[0]})")


def test_without_a_classifier_one_is_trained_and_that_is_said(copy: Path, tmp_path: Path) -> None:
    (copy / "classifier.safetensors").unlink()
    report.main([str(copy), "--out", str(tmp_path / "page.html")])
    rows = json.loads((copy / "evaluation-linear.json").read_text())["accuracy_percent"]
    text = (tmp_path / "page.html").read_text()
    assert f"since the run folder keeps none: {rows['crrl, last epoch']['all']:.1f} %" in text


@pytest.mark.parametrize(
    ("columns", "tested", "said"),
    [
        ((), 0, "Not scored: the clips have no labels: list some in a labels.csv"),
        (("file", "split"), 9, "Not scored: the clips have no labels: list some in a labels.csv"),
        (("file", "label", "split"), 0, "Not scored: folder, default, has no test clips: mark some test"),
    ],
    ids=["no list", "no labels", "no test side"],
)
def test_clips_that_cannot_be_scored_are_on_the_map(
    bodies: Path, evaluated: Path, tmp_path: Path, columns: tuple[str, ...], tested: int, said: str
) -> None:
    from crrl import train

    data = Path(shutil.copytree(bodies, tmp_path / "data"))
    with open(data / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (data / "labels.csv").unlink()
    if columns:
        sides = {} if tested else {"split": "train"}
        with open(data / "labels.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**row, **sides} for row in rows)
    options = ["--dataset", "folder", "--data", str(data), "--batch-size", "9", "--hidden-size", "8", "--no-evaluate"]
    train.main([*options, "--epochs-cml", "1", "--epochs-ser", "1", "--out", str(tmp_path / "run")])
    report.main([str(tmp_path / "run"), "--out", str(tmp_path / "page.html"), "--device", "cpu"])
    text, (run,) = (tmp_path / "page.html").read_text(), data_of(tmp_path / "page.html")["runs"]
    assert said in text
    assert "Confusion matrix" not in text
    assert (sum(run["tested"]), len(run["tested"]), run["predicted"], run["confusion"]) == (tested, 36, None, None)
    assert len({place for line in run["map"]["data"] for place in line["customdata"]}) == 36
    assert len(run["classes"]) == (3 if "label" in columns else 1)
    assert ("Training clips" if not tested else "Test clips") + ", and what the decoder recites" in text
    if not columns:  # beside a run that is scored
        report.main([str(tmp_path / "run"), str(evaluated), "--out", str(tmp_path / "both.html"), "--device", "cpu"])
        assert (tmp_path / "both.html").read_text().count("Confusion matrix") == 1


def test_neighbours_are_the_nearest_training_clips(evaluated: Path, report_page: Path, bodies: Path) -> None:
    data = data_of(report_page)
    (run,), (clips,) = data["runs"], data["sets"]
    features = crrl.load(evaluated).embed([np.load(bodies / name) for name in clips["names"]])
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = directions @ directions[:27].T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(run["cosines"], -np.sort(-cosines, axis=1)[:, :6], atol=2e-3)
    found = np.take_along_axis(cosines, np.array(run["neighbours"]), axis=1)
    np.testing.assert_allclose(found, run["cosines"], atol=2e-3)


def test_bones_are_drawn_and_missing_joints_marked(report_page: Path) -> None:
    (clips,) = data_of(report_page)["sets"]
    assert clips["joints"] == 20
    assert [2, 3] in clips["bones"]
    assert "Kinect v1, hips first" in report_page.read_text()
    assert max(clips["lengths"]) == 32


def test_recited_clips_have_their_lengths_and_the_scale_of_their_own(report_page: Path) -> None:
    (run,) = data_of(report_page)["runs"]
    recited = run["recited"]
    assert recited["own"]["lengths"] == recited["made"]["lengths"]
    assert [run["labels"][clip] for clip in recited["clips"]] == [0, 1, 2]
    assert recited["own"]["frames"] != recited["made"]["frames"]


def test_without_a_checkpoint_the_page_says_that_the_decoder_is_not_there(copy: Path, tmp_path: Path) -> None:
    (copy / "checkpoint.pt").unlink()
    report.main([str(copy), "--out", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert "Not shown: the decoder is in checkpoint.pt alone" in text
    assert data_of(tmp_path / "page.html")["runs"][0]["recited"] is None


def test_runs_of_one_data_set_share_its_clips_and_are_compared(evaluated: Path, copy: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report.main([str(evaluated), str(copy), "--out", str(page)])
    data = data_of(page)
    assert len(data["sets"]) == 1
    assert [run["set"] for run in data["runs"]] == [0, 0]
    assert page.read_text().count("plotly.js v") == 1
    assert f'<th class="number">{evaluated}</th><th class="number">{copy}</th>' in page.read_text()


def test_the_name_of_a_class_is_text(report_page: Path) -> None:
    assert HOSTILE not in report_page.read_text()
    assert data_of(report_page)["runs"][0]["classes"].count(HOSTILE) == 1


def test_a_run_without_evaluation_or_encoder_is_refused(copy: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "page.html")
    (copy / "evaluation-linear.json").unlink()
    assert "python -m crrl.evaluate" in refused(copy, *out)
    (copy / "encoder.safetensors").unlink()
    assert "no trained encoder yet" in refused(copy, *out)
    assert "holds no run" in refused(tmp_path, *out)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", b'{"phase": "cml"\n', "metrics.jsonl, line 1: no epoch's losses"),
        ("metrics.jsonl", b'{"phase": "cml", "loss": 1.0}\n{"loss": 1}\n', "line 2: no epoch's losses (it names no"),
        ("metrics.jsonl", b'{"phase": "cml", "loss": "low"}\n', "line 1: no epoch's losses (a number is missing"),
        ("metrics.jsonl", b"", "holds no epoch"),
        ("evaluation-linear.json", b"{}", "evaluation-linear.json is not an evaluation"),
        ("evaluation-linear.json", b"[1]", "evaluation-linear.json is not an evaluation"),
        ("evaluation-linear.json", b'{"accuracy_percent": {}, "test_clips": {}}', "is not an evaluation"),
        ("checkpoint.pt", b"PK", "checkpoint.pt is damaged"),
    ],
)
def test_damaged_files_are_named(copy: Path, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (copy / name).write_bytes(content)
    assert said in refused(copy, "--out", tmp_path / "page.html")


def test_a_place_that_cannot_be_written_is_refused_first(evaluated: Path, tmp_path: Path) -> None:
    assert "is a folder" in refused(evaluated, "--out", tmp_path)
    assert "is not a folder that you may write to" in refused(evaluated, "--out", tmp_path / "none" / "page.html")


@pytest.mark.parametrize("library", ["jinja2", "plotly", "sklearn"])
def test_a_missing_library_is_named_with_its_extra(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    said = refused(evaluated, "--out", tmp_path / "page.html")
    assert said.startswith(f"{library} cannot be imported")
    assert "pip install 'crrl[report]'" in said
