"""The model card of a run: what it says is the run's, and an evaluation renews its table alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import evaluate
from crrl.card import BEGIN, END, write_card
from crrl.runs import RunFolder


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run, tmp_path / "run")))


def test_an_evaluation_writes_what_the_run_is_and_how_good(run: RunFolder) -> None:
    card = run.card_path.read_text()
    assert "# crrl on folder (clips0), split default" in card
    assert "5 joints" in card
    assert "100 epochs of cml, then 60 epochs of ser" in card
    assert "at most 60 frames" in card
    means = json.loads((run.path / "evaluation-linear.json").read_text())["accuracy_percent"]
    numbers = " | ".join(f"{means[f'{who}, last epoch']['all']:.1f}" for who in ("crrl", "random encoder", "raw"))
    assert f"| linear: last epoch | folder, default: all (10) | {numbers} |" in card
    assert "best epoch" not in card, "that is chosen by the test clips"


def test_another_evaluation_changes_the_table_and_nothing_else(run: RunFolder) -> None:
    own = run.card_path.read_text().replace("not stated yet, state it here", "CC BY 4.0")
    run.card_path.write_text(own)
    evaluate.main([str(run.path), "--protocol", "knn"])
    card = run.card_path.read_text()
    assert "| knn: 1-NN | folder, default: all (10) | " in card
    assert "| linear: last epoch |" in card

    def without_table(text: str) -> str:
        return re.sub(f"{BEGIN}.*{END}", "", text, flags=re.DOTALL)

    assert without_table(card) == without_table(own)


def test_a_readme_of_somebody_s_own_stays(run: RunFolder) -> None:
    run.card_path.write_bytes(b"# Mine \xff\n")
    write_card(run)
    assert run.card_path.read_bytes() == b"# Mine \xff\n"


def test_a_run_that_was_not_evaluated_says_how(run: RunFolder) -> None:
    run.card_path.unlink()
    for path in run.path.glob("evaluation-*.json"):
        path.write_text("[]")
    write_card(run)
    assert "Not evaluated yet: `python -m crrl.evaluate" in run.card_path.read_text()
