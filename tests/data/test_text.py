"""Lines and numbers of text formats: what counts as one, and where an error says it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crrl.data.text import Line, numbers, read_lines
from crrl.errors import CrrlError

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given
from hypothesis import strategies as st

PATH = Path("a.txt")


def rows(*texts: str) -> list[Line]:
    return [Line(number, text) for number, text in enumerate(texts, 3)]


@pytest.mark.parametrize("content", [b"a\n\n b c \n", b"a\r\n\r\n b c \r\n", b"\xef\xbb\xbfa\n\n\tb c\n"])
def test_lines_that_are_not_blank_keep_their_numbers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_lines(tmp_path / "a.txt") == [(1, "a"), (3, "b c")]


def test_only_a_line_break_breaks_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\x0b\x0c\x1c\u2028b\nc\n", encoding="utf-8", newline="")
    assert [line.number for line in read_lines(tmp_path / "a.txt")] == [1, 2]


def test_the_line_of_a_byte_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\nb\nc\xe9\nd\n")
    with pytest.raises(CrrlError, match=r"a\.txt, line 3: not UTF-8"):
        read_lines(tmp_path / "a.txt")


def test_a_last_line_without_its_break_is_refused_unless_that_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1.25\n1.5")
    with pytest.raises(CrrlError, match=r"a\.txt, line 2: the file stops in the middle of a line: .* line break"):
        read_lines(tmp_path / "a.txt")
    assert len(read_lines(tmp_path / "a.txt", whole=False)) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"absent\.txt: .*check the path"):
        read_lines(tmp_path / "absent.txt")


@pytest.mark.parametrize("word", ["1", "-1.5", "+.5", "5.", "1e-5", "7.62852e-016", "-0"])
def test_decimal_numbers_are_read(word: str) -> None:
    assert numbers(PATH, rows(f"{word} 2"), 2).tolist() == [[float(word), 2.0]]


@pytest.mark.parametrize(
    "word", ["nan", "inf", "-Infinity", "1e39", "1e999", "1_0", "0x1", "1,5", "1d5", "١", "1.2.3", "#"]
)
def test_what_is_no_number_is_named_with_its_line(word: str) -> None:
    with pytest.raises(CrrlError, match=r"a\.txt, line 4: '.*' is no finite number"):
        numbers(PATH, rows("1 2", f"3 {word}"), 2)


@pytest.mark.parametrize(
    ("texts", "line", "count"), [(["1 2", "3"], 4, 1), (["1 2 3"], 3, 3), (["1", "2"], 3, 1), ([""], 3, 0)]
)
def test_another_count_is_named_with_its_line(texts: list[str], line: int, count: int) -> None:
    with pytest.raises(CrrlError, match=rf"a\.txt, line {line}: {count} numbers, not 2"):
        numbers(PATH, rows(*texts), 2)


def test_what_stands_before_the_numbers_is_passed_over() -> None:
    assert numbers(PATH, rows("lfemur 1 2", "lfemur 3 4"), 2, after="lfemur").tolist() == [[1, 2], [3, 4]]


def test_rows_without_numbers_and_no_rows_are_empty_arrays() -> None:
    assert numbers(PATH, rows("", ""), 0).shape == (2, 0)
    assert numbers(PATH, [], 3).shape == (0, 3)


@given(table=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_numbers_come_back(table: list[list[float]]) -> None:
    found = numbers(PATH, rows(*[" ".join(map(repr, row)) for row in table]), 3)
    np.testing.assert_array_equal(found, table)
