"""Bars in a log file are lines."""

from __future__ import annotations

import pytest

from crrl.bars import bar


def test_where_stderr_is_no_terminal_a_bar_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(4, "cml", "clip", every=0) as shown:
        for _ in range(4):
            shown.update()
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0].startswith("cml 0%, 0 of 4 [")
    assert lines[-1].startswith("cml 100%, 4 of 4 [")


def test_lines_come_only_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(1000, "cml", "clip", every=60) as shown:
        for _ in range(1000):
            shown.update()
    assert len(capsys.readouterr().err.splitlines()) == 2, "the first and the last"


def test_what_lasts_less_than_its_delay_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(0, "features of other takes", "take", leave=False, delay=1):
        pass
    assert capsys.readouterr().err == ""
