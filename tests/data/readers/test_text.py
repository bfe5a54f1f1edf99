"""Lines and numbers of text formats: what counts as one, and where an error says it is."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers.text import FEW, LARGEST, UNENDED, Line, numbers, read_lines, remarks_on, tell
from crrl.errors import CrrlError

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given
from hypothesis import strategies as st

PATH = Path("a.txt")


def rows(*texts: str) -> list[Line]:
    return [Line(number, text) for number, text in enumerate(texts, 3)]


@pytest.mark.parametrize(
    "content",
    [
        b"a\n\n b c \n",
        b"a\r\n\r\n b c \r\n",
        b"\xef\xbb\xbfa\n\n\tb c\n",
        b"a\r\r b c \r",
        b"a\r\r\n\r\r\nb c\r\r\n",
        b"a\r\n\nb c\n\x1a",
        b"a\n\nb c",
    ],
    ids=["Unix", "Windows", "with a byte order mark", "old Mac", "doubled by a transfer", "DOS", "unended"],
)
def test_lines_that_are_not_blank_keep_their_numbers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_lines(tmp_path / "a.txt") == [(1, "a"), (3, "b c")]


def test_only_a_line_break_breaks_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\u2028\x85b\nc\n", encoding="utf-8", newline="")
    assert [line.number for line in read_lines(tmp_path / "a.txt")] == [1, 2]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"1 2\n3 \r4\n", 2, "a carriage return inside of a line"),
        (b"1 2\n\r3 4\n", 2, "a carriage return inside of a line"),
        (b"1 2\n3\r\r4\r\n", 2, "a carriage return inside of a line"),
        (b"1 2\r\n3 \r4\r\n", 2, "a carriage return inside of a line"),
        (b"1 2\r3 \x0b4\r", 2, r"an unprintable character \(0x0b\)"),
        (b"1 2\n3 \x0c4\n", 2, r"an unprintable character \(0x0c\)"),
        (b"1 2\n3 \x1c4\n", 2, r"an unprintable character \(0x1c\)"),
        (b"1 2\n\n3\x004\n", 3, "a zero byte"),
        (b"1 2\n\x1a\n3 4\n", 2, r"an unprintable character \(0x1a\)"),
    ],
)
def test_what_may_have_been_a_sign_or_a_digit_is_no_space(
    tmp_path: Path, content: bytes, line: int, problem: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CrrlError, match=rf"a\.txt, line {line}: {problem}: correct that line, or restore the file"):
        read_lines(tmp_path / "a.txt")


def test_the_line_of_a_byte_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\nb\nc\xe9\nd\n")
    with pytest.raises(CrrlError, match=r"a\.txt, line 3: not UTF-8"):
        read_lines(tmp_path / "a.txt")


def test_a_last_line_without_its_break_is_told_and_refused_where_numbers_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"1 1.25\n2 1.5")
    lines = read_lines(path)
    assert remarks_on(lines) == [UNENDED]
    assert numbers(path, lines, 2).tolist() == [[1, 1.25], [2, 1.5]]
    path.write_bytes(b"1 1.25\n2")
    with pytest.raises(CrrlError, match=r"a\.txt, line 2: the file stops in the middle of a line: .* restore it"):
        numbers(path, read_lines(path), 2)
    path.write_bytes(b"1 1.25\n2 1.5\n")
    assert remarks_on(read_lines(path)) == []


def test_a_remark_is_one_warning_for_all_files() -> None:
    files = [Path(f"{name}.bvh") for name in "abc"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell([(files[0], "long"), (files[1], "odd"), (files[1], "long"), (files[2], "long")])
    assert [str(warning.message) for warning in caught] == ["a.bvh and 2 more files are long", "b.bvh is odd"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell([])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"absent\.txt: .*check the path"):
        read_lines(tmp_path / "absent.txt")


@pytest.mark.parametrize("more", [0, 2 * FEW])
@pytest.mark.parametrize("word", ["1", "-1.5", "+.5", "5.", "1e-5", "7.62852e-016", "-0"])
def test_decimal_numbers_are_read(word: str, more: int) -> None:
    assert numbers(PATH, rows(*["1 2"] * more, f"{word} 2"), 2)[more:].tolist() == [[float(word), 2.0]]


@pytest.mark.parametrize("more", [0, 2 * FEW])
@pytest.mark.parametrize(
    "word", ["nan", "inf", "-Infinity", "1e39", "1e999", "1_0", "0x1", "1,5", "1d5", "١", "1.2.3", "#"]
)
def test_what_is_no_number_is_named_with_its_line(word: str, more: int) -> None:
    with pytest.raises(CrrlError, match=r"a\.txt, line 4: '.*' is not a finite number"):
        numbers(PATH, rows("1 2", f"3 {word}", *["1 2"] * more), 2)


@pytest.mark.parametrize("character", ["\r", "\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
@pytest.mark.parametrize("text", ["3 {}4", "{}3 4", "3 4{}", "3{}4"])
def test_what_breaks_a_line_elsewhere_is_no_space_between_numbers(character: str, text: str) -> None:
    with pytest.raises(CrrlError, match=r"a\.txt, line 4: (an unprintable character|a carriage return)"):
        numbers(PATH, rows("1 2", text.format(character)), 2)


@given(data=st.data())
def test_one_changed_bit_never_goes_unsaid_as_other_numbers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Unless the line is refused, one number has another digit or point: none is lost, and no sign."""
    path = tmp_path_factory.getbasetemp() / "bit.txt"
    content = bytearray(b"-1.5 20 -3\n4 -55.25 6\n-7 8 -9.125\n")
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = numbers(path, read_lines(path), 3)
    except CrrlError:
        return
    expected = np.array([[-1.5, 20, -3], [4, -55.25, 6], [-7, 8, -9.125]])
    assert (found != expected).sum() <= 1
    assert (found * expected >= 0).all()


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["1 2", "3"], "line 4: 1 numbers, not 2"),
        (["1 2 3"], "line 3: 3 numbers, not 2"),
        (["1", "2"], "line 3: 1 numbers, not 2"),
        ([""], "line 3: 0 numbers, not 2"),
        (["1,5 2"], "line 3: '1,5' is not a finite number, a comma where a point should be"),
        *(([*["1 2"] * 5, row, *["1 2"] * 20], "line 8: a carriage return") for row in ("3 \r4", "\r3 4", "3\r4")),
    ],
)
def test_a_row_of_another_count_or_sign_is_named_with_its_line(texts: list[str], problem: str) -> None:
    with pytest.raises(CrrlError, match=rf"a\.txt, {problem}"):
        numbers(PATH, rows(*texts), 2)


def test_what_stands_before_the_numbers_is_passed_over() -> None:
    assert numbers(PATH, rows("lfemur 1 2", "lfemur 3 4"), 2, after="lfemur").tolist() == [[1, 2], [3, 4]]


@given(text=st.text("0123456789+-.eE \t", max_size=12))
def test_rows_are_read_alike_fast_and_slowly(text: str) -> None:
    """A few rows go the slow way, more the fast one, if all are as they should be."""

    def outcome(count: int) -> list[float] | str:
        try:
            return numbers(PATH, rows(*[text] * count), 2)[-1].tolist()
        except CrrlError as error:
            return str(error)

    slow, fast = outcome(FEW), outcome(FEW + 1)
    assert slow == fast
    if not isinstance(fast, str):
        assert fast == [float(word) for word in text.split()]
        assert max(map(abs, fast)) <= LARGEST


def test_rows_without_numbers_and_no_rows_are_empty_arrays() -> None:
    assert numbers(PATH, rows("", ""), 0).shape == (2, 0)
    assert numbers(PATH, [], 3).shape == (0, 3)


@given(table=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_numbers_come_back(table: list[list[float]]) -> None:
    found = numbers(PATH, rows(*[" ".join(map(repr, row)) for row in table]), 3)
    np.testing.assert_array_equal(found, table)
