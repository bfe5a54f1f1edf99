"""Figures are drawn from what the page computes, and without their libraries say which is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crrl.reproduction import drawings, figures, write_page
from crrl.reproduction.inspection import Inspected
from crrl.reproduction.plan import Plan, Run

Planner = Callable[..., Plan]
Filler = Callable[..., Path]
CLASSES = ("carry", "donning", "doffing")


def seen(run: Run, runs: Path, with_predictions: bool) -> Inspected:
    """In place of `inspect`: 12 clips of 3 classes, of which every doffing is taken for donning."""
    labels = np.arange(12) % 3
    features = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32) + labels[:, None]
    return Inspected(features, labels, CLASSES, np.minimum(labels, 1) if with_predictions else None)


@pytest.fixture
def filled(plan_of: Planner, fill: Filler, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Plan, Path]]:
    monkeypatch.setattr(drawings, "inspect", seen)

    def make(name: str) -> tuple[Plan, Path]:
        plan = plan_of(name, "nw-ucla", seeds=2)
        for run in plan.runs:
            runs = fill(run, "linear", 60.0)
        return plan, runs

    return make


def test_confusions_are_held_against_what_the_text_says(filled: Callable[..., tuple[Plan, Path]]) -> None:
    plan, runs = filled("figure6")
    text = write_page(plan, runs, runs / "out", "").read_text()
    assert "- SER: “doffing” classified as “donning”: paper 23 %, ours 100 %." in text
    assert "- CRRL: “carry” classified as “carry”: paper 93 %, ours 100 %." in text
    rows = (runs / "out" / "figure6-nw-ucla-cross-view.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 9
    assert "CML,doffing,donning,100.0" in rows


def test_features_are_projected_drawn_and_thinned(
    filled: Callable[..., tuple[Plan, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn.manifold", reason="scikit-learn is not installed", exc_type=ImportError)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setattr(drawings, "SHOWN_CLIPS", 5)
    plan, runs = filled("figure7")
    text = write_page(plan, runs, runs / "out", "").read_text()
    assert "](figure7-nw-ucla-cross-view.png)" in text
    rows = (runs / "out" / "figure7-nw-ucla-cross-view-crrl.csv").read_text().splitlines()
    assert rows[0] == "class,x,y"
    assert len(rows) == 6


def test_without_scikit_learn_the_features_are_kept(
    filled: Callable[..., tuple[Plan, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(features: object) -> None:
        raise figures.Missing("scikit-learn cannot be imported")

    monkeypatch.setattr(figures, "tsne", missing)
    plan, runs = filled("figure7")
    text = write_page(plan, runs, runs / "out", "").read_text()
    assert "No t-SNE of SER: scikit-learn cannot be imported" in text
    rows = (runs / "out" / "figure7-nw-ucla-cross-view-ser.csv").read_text().splitlines()
    assert rows[0].split(",")[:2] == ["class", "feature 0"]
    assert len(rows) == 13


@pytest.mark.parametrize("name", ["figure4", "figure6", "figure7", "figure8"])
def test_a_figure_of_nothing_says_that(plan_of: Planner, tmp_path: Path, name: str) -> None:
    plan = plan_of(name, "synthetic", datasets=["synthetic"])
    text = write_page(plan, tmp_path, tmp_path / "out", "").read_text()
    assert text.count("Not drawn: no run is finished.") == 2
    assert not list((tmp_path / "out").glob("*.png"))
