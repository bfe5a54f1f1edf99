"""Pages in a real browser: nothing is complained of, nothing fetched, and skeletons move."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))
from tests.reporting.browser import Browser, chromium, find


@pytest.fixture
def browser() -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with chromium(program) as browser:
        yield browser


DRAWN = """(() => {
  const canvas = document.querySelector("%s"), blank = document.createElement("canvas");
  Object.assign(blank, { width: canvas.width, height: canvas.height });
  return canvas.toDataURL() === blank.toDataURL() ? "" : canvas.toDataURL();
})()"""
"""What a canvas shows; "" where that is nothing."""
RED = """(() => {
  const canvas = document.querySelector("canvas"), copy = document.createElement("canvas");
  Object.assign(copy, { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d", { willReadFrequently: true });  // the browser warns of reading the canvas itself
  pen.drawImage(canvas, 0, 0);
  const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i] > 200 && pixels[i + 1] < 20 && pixels[i + 3] > 200) return true;
  return false;
})()"""
"""Whether anything in a canvas is red."""


def moves(browser: Browser, selector: str) -> bool:
    """Whether a canvas shows other pictures as time goes by."""
    first = browser.wait_for(DRAWN % selector)
    return bool(browser.wait_for(f"{DRAWN % selector} !== {json.dumps(first)}"))


def test_hovering_shows_a_clip_that_moves_and_clicking_its_neighbours(browser: Browser, report_page: Path) -> None:
    browser.open(report_page)
    browser.scroll_to("#map-0")
    place = browser.middle("#map-0 .point")
    browser.hover(*place)
    browser.wait_for("document.getElementById('hovered-words-0').textContent.includes('.npy')")
    assert moves(browser, "#hovered-0")
    assert browser.value("document.querySelectorAll('#neighbours-0 canvas').length") == 0
    browser.click(*place)
    browser.wait_for("document.querySelectorAll('#neighbours-0 canvas').length === 7")
    browser.scroll_to("#neighbours-0")
    assert moves(browser, "#neighbours-0 figure:nth-child(2) canvas")
    assert browser.value("document.title") == "crrl: run"
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_all_clips_of_the_page_are_drawn_once_they_are_seen(browser: Browser, report_page: Path) -> None:
    browser.open(report_page)
    browser.scroll_to("#recited-0")
    assert browser.value("document.querySelectorAll('#recited-0 canvas').length") == 6
    assert moves(browser, "#recited-0 .pair figure:nth-child(1) canvas")
    assert moves(browser, "#recited-0 .pair figure:nth-child(2) canvas")
    mistakes = browser.value("document.querySelectorAll('#mistakes-0 .pair').length")
    assert mistakes == browser.value("JSON.parse(document.getElementById('page').textContent).runs[0].mistakes.length")
    assert browser.complaints == []


def test_the_page_of_a_clip_moves_and_shows_missing_joints_in_red(
    browser: Browser, bodies: Path, tmp_path: Path
) -> None:
    from crrl import view

    page = tmp_path / "view.html"
    view.main([str(bodies / "0-0.npy"), "--out", str(page)])
    browser.open(page)
    assert moves(browser, "canvas")
    browser.wait_for(RED)
    assert browser.complaints == []
    assert browser.requests == [page.resolve().as_uri()]
