"""`python -m tests.reporting.pictures RUN --out FOLDER`: small pictures of a run's report, as a browser shows it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.reporting.browser import Browser, chromium, find

COLORS = 48


def take(browser: Browser, path: Path) -> None:
    """Keep what the window shows, in few colours."""
    from PIL import Image

    time.sleep(1)
    browser.screenshot(path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLORS).save(path, optimize=True)


def pictures(page: Path, out: Path, program: str) -> None:
    """Take pictures of a report: its map with a clip chosen, and its mistakes."""
    with chromium(program) as browser:
        browser.open(page, 1200, 860)
        browser.scroll_to("#map-0")
        place = browser.middle("#map-0 .point", 5)
        browser.hover(*place)
        browser.wait_for("document.getElementById('hovered-words-0').textContent.includes('·')")
        browser.click(*place)
        browser.wait_for("document.querySelectorAll('#neighbours-0 canvas').length > 1")
        take(browser, out / "report-map.png")
        browser.scroll_to("#mistakes-0")
        take(browser, out / "report-mistakes.png")
        assert not browser.complaints, browser.complaints


def main() -> int:
    """Write the report of a run, and its pictures."""
    from crrl import report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    program = find()
    if program is None:
        print("no Chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report.main([str(options.run), "--out", str(page)])
        pictures(page, options.out, program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
