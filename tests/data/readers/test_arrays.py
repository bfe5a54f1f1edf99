"""Bodies side by side, padding, names and the facts in them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers.arrays import (
    array_header,
    as_list,
    check_unique,
    described,
    join_bodies,
    map_array,
    ntu_facts,
    ntu_split,
    without_padding,
)
from crrl.data.readers.ntu import NTU60, NTU120
from crrl.errors import CrrlError

CLIP = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def test_bodies_are_joined_one_after_the_other() -> None:
    bodies = np.arange(1.0, 1 + 5 * 2 * 3 * 3).reshape(5, 2, 3, 3)
    joined = join_bodies(bodies)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined[:, :3], bodies[:, 0])
    np.testing.assert_array_equal(joined[:, 3:], bodies[:, 1])


def test_a_joint_at_the_origin_is_moved_off_it_where_its_body_is_there() -> None:
    bodies = np.ones((1, 2, 3, 3))
    bodies[0, 0, 1] = bodies[0, 1] = 0
    joined = join_bodies(bodies)
    np.testing.assert_allclose(joined[0, 1], [1e-6, 0, 0])
    assert not joined[0, 3:].any()


def test_present_joints_may_be_given() -> None:
    bodies = np.zeros((1, 1, 3, 3))
    joined = join_bodies(bodies, np.array([[[True, False, True]]]))
    assert joined.any(axis=2).tolist() == [[True, False, True]]
    assert not bodies.any()


def test_padding_is_what_follows_the_last_frame_that_shows_something() -> None:
    bodies = np.zeros((6, 2, 3, 3))
    bodies[[1, 3], 1, 2, 0] = 1
    assert len(without_padding(bodies)) == 4
    assert len(without_padding(bodies[:0])) == len(without_padding(0 * bodies)) == 0


def test_facts_are_read_from_names_as_ntu_gives_them() -> None:
    facts = ntu_facts(["S012C003P104R002A120.skeleton", "S001C002P003R001A001", "S001C002P003R001A001x", ""])
    assert {name: values.tolist() for name, values in facts.items()} == {
        "setups": [12, 1, -1, -1],
        "views": [3, 2, -1, -1],
        "subjects": [104, 3, -1, -1],
    }


@pytest.mark.parametrize(
    ("short", "name"),
    [
        *((short, "cross-subject") for short in ("xsub", "CS", "CSub")),
        *((short, "cross-view") for short in ("xview", "CV", "CView")),
        *((short, "cross-setup") for short in ("xset", "xsetup", "CSet", "CSetup")),
        *((short, "other") for short in ("", "sub", "xsub1", "cross-subject")),
    ],
)
def test_splits_of_ntu_are_called_as_its_own_reader_calls_them(short: str, name: str) -> None:
    assert ntu_split(short, "other") == ntu_split(short.upper(), "other") == name
    assert name in (*NTU60.official, *NTU120.official, "other")


def test_names_that_come_twice_are_refused() -> None:
    check_unique(Path("a.pkl"), ["x", "y"])
    with pytest.raises(CrrlError, match=r"a\.pkl names 'x' twice"):
        check_unique(Path("a.pkl"), ["x", "y", "x"])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("a\nb", r"unprintable character \(U\+000A\)"),
        ("\ud800", r"\(U\+D800\)"),
        ("x" * 256, "256 char"),
    ],
)
def test_names_that_cannot_be_one_are_refused(name: str, problem: str) -> None:
    with pytest.raises(CrrlError, match=rf"a\.pkl: the name of a clip, .* {problem}.*: rename it") as caught:
        check_unique(Path("a.pkl"), ["x", name])
    str(caught.value).encode()


def test_lists_are_lists_tuples_and_arrays_of_one_axis() -> None:
    assert [as_list(value) for value in ([1], (1, "a"), np.array(["a", "b"]), [])] == [[1], [1, "a"], ["a", "b"], []]
    assert [as_list(value) for value in (3, "ab", None, {}, np.array("a"), np.ones((2, 2)))] == [None] * 6


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (-1, "-1"),
        (True, "True"),
        (2.5, "2.5"),
        pytest.param(10**5000, "a int", id="a long number"),
        ("wa\nlk" * 99, "the text 'wa?lkwa?lkwa?lkwa?lkwa?l'"),
        ([1], "a list"),
        (np.ones((2, 3), np.float16), "float16 [2, 3]"),
    ],
)
def test_what_stands_where_something_else_should_is_described(value: object, words: str) -> None:
    assert described(value) == words


@pytest.mark.parametrize(("version", "length"), [(1, struct.pack("<H", 65535)), (2, struct.pack("<I", 2**32 - 1))])
def test_a_header_longer_than_any_is_refused_before_memory_is_taken_for_it(version: int, length: bytes) -> None:
    class Bounded(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 <= size < 100
            return super().read(size)

    with pytest.raises(ValueError, match=f"a header of {int.from_bytes(length, 'little'):,} bytes"):
        array_header(Bounded(b"\x93NUMPY" + bytes([version, 0]) + length + b"{'descr'"))


@pytest.mark.parametrize("version", [b"\0\0", b"\1\x9e", b"\2\1", b"\4\0"])
def test_a_version_that_is_none_is_refused(version: bytes) -> None:
    """NumPy reads it as if it were of version 2, whose header may be of 4 GB."""
    with pytest.raises(ValueError, match=r"an unknown version"):
        array_header(io.BytesIO(b"\x93NUMPY" + version + b"\xff\xff\xff\xff{'descr'"))


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_versions_of_a_header_are_read(version: tuple[int, int]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 3), np.float32), version)
    file.seek(0)
    assert array_header(file) == ((2, 3), False, np.float32)
    assert len(file.read()) == 24


def test_a_mapped_array_has_the_order_and_type_of_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(CLIP.astype(np.float64)))
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), CLIP)
    np.save(tmp_path / "empty.npy", CLIP[:0])
    assert map_array(tmp_path / "empty.npy").shape == (0, 5, 3)


def test_a_mapped_array_that_is_cut_short_or_too_long_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    content = (tmp_path / "a.npy").read_bytes()
    for changed in (content[:-1], content + b"\0", content[:60]):
        (tmp_path / "a.npy").write_bytes(changed)
        with pytest.raises(CrrlError, match=r"a\.npy is damaged or not a \.npy array"):
            map_array(tmp_path / "a.npy")
