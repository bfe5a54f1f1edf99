"""The restricted unpickler: what NumPy and Python write comes back, and nothing else is obeyed."""

from __future__ import annotations

import codecs
import functools
import os
import pickle
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data.readers.pickles import read_pickle
from crrl.errors import CrrlError

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

PROTOCOLS = range(6)

PLAIN = {
    "values": [
        1,
        -3,
        10**40,
        2.5,
        float("inf"),
        None,
        True,
        False,
        "text",
        "ünï\ncode",
        b"bytes \xff\x00",
        b"",
        1 + 2j,
    ],
    "containers": {"nested": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, [[{"a": ({"b": 1},)}]]]},
    7: "number as key",
    "bytearray": bytearray(b"\x00\xff" * 9),
}

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float16": np.ones((2, 5, 3), np.float16),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20)[::3],
    "empty": np.zeros((2, 0, 3)),
    "no axes": np.array(3.5),
    "big endian": np.arange(5, dtype=">i4"),
    "text": np.array(["S001", "S02"]),
    "bytes": np.array([b"a", b"bcd"]),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
}


def write(root: Path, content: bytes) -> Path:
    path = root / "labels.pkl"
    path.write_bytes(content)
    return path


def reread(root: Path, value: object, protocol: int = 4) -> Any:
    return read_pickle(write(root, pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    assert reread(tmp_path, PLAIN, protocol) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(tmp_path: Path, name: str, protocol: int) -> None:
    back = reread(tmp_path, {"keypoint": ARRAYS[name]}, protocol)["keypoint"]
    np.testing.assert_array_equal(back, ARRAYS[name])
    assert back.dtype.newbyteorder("=") == ARRAYS[name].dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scalar", [np.float64(2.5), np.int64(-7), np.float32(0.5), np.bool_(True), np.str_("name")])
def test_numpy_scalars_come_back_as_pythons(tmp_path: Path, scalar: Any, protocol: int) -> None:
    back = reread(tmp_path, [scalar, scalar], protocol)
    assert back == [scalar, scalar]
    assert type(back[0]) is type(scalar.item())


def test_what_is_there_twice_comes_back_twice(tmp_path: Path) -> None:
    array = np.arange(3)
    back = reread(tmp_path, [array, array, "name", "name"])
    assert back[0] is back[1]


@pytest.mark.parametrize("more", [b"\n", b"xyz", pickle.dumps({"label": 1})])
def test_what_stands_after_a_pickle_is_not_passed_over(tmp_path: Path, more: bytes) -> None:
    path = write(tmp_path, pickle.dumps({"label": 0}) + more)
    with pytest.raises(
        CrrlError, match=f"^{path} goes on after its pickle, by {len(more)} bytes: save it as one pickl"
    ):
        read_pickle(path)


def test_arrays_of_numpy_1_and_2_are_both_read(tmp_path: Path) -> None:
    content = pickle.dumps(ARRAYS["float32"], 2)
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    for core in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        renamed = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
            b"numpy.core.multiarray", core
        )
        np.testing.assert_array_equal(read_pickle(write(tmp_path, renamed)), ARRAYS["float32"])


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """(["S001", "S002"], [3, 4]) and an array of two float32, as Python 2 writes them with protocol 2."""
    names = b"]q\x01(U\x04S001q\x02U\x04S002q\x03e"
    labels = b"]q\x04(K\x03K\x04e"
    data = struct.pack("<2f", 1.5, -2.0)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x08U\x02f4K\x00K\x01\x87Rq\x09(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U" + bytes([len(data)]) + data + b"tb"
    )
    back = read_pickle(write(tmp_path, b"\x80\x02" + names + labels + array + b"\x87."))
    assert back[:2] == (["S001", "S002"], [3, 4])
    np.testing.assert_array_equal(back[2], np.array([1.5, -2.0], np.float32))


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self._call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


class Plain:
    """An object with a state."""

    def __init__(self) -> None:
        self.value = 1


def marker(root: Path) -> str:
    return f"touch {root / 'executed'}"


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "os.system": (lambda root: Call(os.system, marker(root)), "system"),
    "eval": (lambda root: Call(eval, f"open({str(root / 'executed')!r}, 'w')"), "eval"),
    "exec": (lambda root: Call(exec, "1"), "exec"),
    "functools.partial": (lambda root: functools.partial(os.system, marker(root)), "partial"),
    "getattr": (lambda root: Call(getattr, "x", "upper"), "getattr"),
    "nested in arguments": (lambda root: Call(complex, Call(os.system, marker(root)), 1), "system"),
    "nested in a list": (lambda root: [1, {"a": (Call(os.system, marker(root)),)}], "system"),
    "a class's instance": (lambda root: Plain(), "test_pickles|copy_reg|copyreg"),
    "a path": (lambda root: Path("x"), "pathlib"),
    "OrderedDict": (lambda root: OrderedDict(a=1), "OrderedDict"),
    "a fraction": (lambda root: Fraction(1, 2), "Fraction"),
    "a set": (lambda root: {1}, "set|ADDITEMS|EMPTY_SET"),
    "codecs.decode": (lambda root: Call(codecs.decode, b"00", "hex"), "decode"),
    "codecs.encode of another encoding": (lambda root: Call(codecs.encode, "a", "rot13"), "another encoding"),
    "numpy.load": (lambda root: Call(np.load, "x.npy"), "load"),
    "numpy.fromfile": (lambda root: Call(np.fromfile, "x"), "fromfile"),
    "an array of objects": (lambda root: np.array([1, None], object), "type 'O"),
    "an array of pickled calls": (lambda root: np.array([Call(os.system, marker(root))], object), "type 'O|system"),
    "an array of fields": (lambda root: np.zeros(2, [("a", "f4")]), "type 'V|fields"),
    "a datetime": (lambda root: np.array(["2020-01-01"], "M8[D]"), "type 'M8"),
    "a masked array": (lambda root: np.ma.masked_array([1], [True]), "numpy.ma"),
    "a tuple as key": (lambda root: {(1, 2): 3}, "keys"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_admitted_is_refused_by_its_name_and_not_run(tmp_path: Path, name: str, protocol: int) -> None:
    make, named = HOSTILE[name]
    path = write(tmp_path, pickle.dumps(make(tmp_path), protocol))
    with pytest.raises(
        CrrlError, match=rf"labels\.pkl holds .*({named}).*only plain values and NumPy arrays"
    ) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_the_hostile_pickle_would_have_made_its_file(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Call(os.system, marker(tmp_path))))
    assert (tmp_path / "executed").exists()


RAW = {
    "the function itself is given a state": b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__code__K\x01sb.",
    "slots of the function are set": b"\x80\x02cnumpy\ndtype\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
    "a dict is given a state": b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "numpy.ndarray is called": b"\x80\x02cnumpy\nndarray\nK\x02\x85R.",
    "a list is called": b"\x80\x02](K\x01tR.",
    "arguments are no tuple": b"\x80\x02cnumpy\ndtype\nK\x01R.",
    "an array of a class of its own": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R."
    ),
    "NEWOBJ": b"\x80\x02cnumpy\nndarray\nK\x02\x85\x81.",
    "OBJ": b"\x80\x02(cnumpy\nndarray\nK\x02o.",
    "INST": b"(ios\nsystem\n.",
    "INST of numpy": b"(inumpy\ndtype\n.",
    "EXT1": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pabc\n.",
    "a binary persistent id": b"\x80\x02K\x01Q.",
    "a buffer from outside": b"\x80\x05\x97.",
    "an unknown instruction": b"\x80\x02\xff.",
    "a dtype's fields": (
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"
        b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00a\x85}K\x04K\x04K\x00tb."
    ),
    "attributes by a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
    "a module's module": b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.",
}


@pytest.mark.parametrize("name", RAW)
def test_no_way_around_the_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(CrrlError, match=r"labels\.pkl holds .*only plain values"):
        read_pickle(write(tmp_path, RAW[name]))


def test_a_dtype_of_a_pickle_does_not_change_the_one_all_arrays_share(tmp_path: Path) -> None:
    made = b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x89\x87R"
    state = b"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    read_pickle(write(tmp_path, made + state + b"."))
    assert np.dtype("f4").byteorder == "="


BOMBS = {
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "a bytearray longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc.",
    "a bytearray longer than the file and its frame": (
        b"\x80\x05\x95" + struct.pack("<Q", 13) + b"\x96" + struct.pack("<Q", 2**36) + b"abc."
    ),
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
    "text longer than the file": b"\x80\x02X" + struct.pack("<I", 2**31) + b"abc.",
    "a negative length": b"\x80\x02T" + struct.pack("<i", -5) + b"abc.",
    "a long of 2 GB": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "an array of 10^18 items": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01\x8a\x08"
        + struct.pack("<q", 10**18)
        + b"\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R\x89C\x04abcdtb."
    ),
    "10^12 texts of no length": (
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\nX\x02\x00\x00\x00S0\x89\x88\x87R\x8a\x06"
        + (10**12).to_bytes(6, "little")
        + b"\x85X\x01\x00\x00\x00CtR."
    ),
    "a bytearray by its length": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    "the same bytes in a million arrays": (
        b"\x80\x03C\xf0"
        + b"a" * 240
        + b"q\x01cnumpy.core.numeric\n_frombuffer\nq\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87Rq\x03]"
        + b"h\x02(h\x01h\x03K\xf0\x85X\x01\x00\x00\x00CtRa" * 20000
        + b"."
    ),
    "a deep tuple hashed": b"\x80\x04})" + b"\x85" * 200000 + b"K\x01s.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_take_memory(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CrrlError, match=r"labels\.pkl (is damaged|holds)"):
        read_pickle(write(tmp_path, BOMBS[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_memo_index_is_no_size_of_a_table(tmp_path: Path) -> None:
    """Python's C unpickler would make a table of 64 GB."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_pickle(write(tmp_path, b"\x80\x02K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.")) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_text_that_refers_to_itself_is_only_as_large_as_the_file(tmp_path: Path) -> None:
    """Lists of ten times the list before: a billion references, yet ten lists."""
    value: list[object] = ["x"]
    for _ in range(9):
        value = [value] * 10
    assert len(reread(tmp_path, value)) == 10


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer, not a pickle: fetch .* git lfs pull"),
        (b"404: Not Found", "is the answer of a server, not a pickle: download the file again"),
        (b"hello", r"is damaged, cut short or not a pickle"),
        (b"vector", r"is not a pickle \(it begins with 'vector'\): give the file that is meant"),
    ],
)
def test_another_kind_of_file_is_named_for_what_it_is(tmp_path: Path, content: bytes, problem: str) -> None:
    """Of the many kinds, which test_files has."""
    with pytest.raises(CrrlError, match=rf"labels\.pkl {problem}") as caught:
        read_pickle(write(tmp_path, content))
    assert "trust" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.pkl")
    with pytest.raises(CrrlError, match=r"labels\.pkl is not a regular file, but a pipe"):
        read_pickle(tmp_path / "labels.pkl")


def long(number: int) -> bytes:
    """A number of up to 255 bytes as protocol 2 writes it."""
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


SAME_HASH = [number * (2**61 - 1) for number in range(1, 30_000)]

SLOW = {
    "lists in each other": b"\x80\x02" + b"(" * 10_000_000,
    "lists in each other in a frame": b"\x80\x04\x95" + struct.pack("<Q", 10_000_000) + b"(" * 10_000_000,
    "empty lists": b"\x80\x02(" + b"]" * 10_000_000 + b"l.",
    "nothing put and taken": b"\x80\x02" + b"N0" * 5_000_000 + b"N.",
    "memo": b"\x80\x02N" + b"\x94" * 10_000_000 + b".",
    "keys of one hash": b"\x80\x02}(" + b"".join(long(number) + b"N" for number in SAME_HASH) + b"u.",
    "negative keys of one hash": b"\x80\x02}(" + b"".join(long(-number) + b"N" for number in SAME_HASH) + b"u.",
    "keys of one hash, one by one": b"\x80\x02}" + b"".join(long(number) + b"Ns" for number in SAME_HASH) + b".",
    "keys of one hash in a dict": b"\x80\x02(" + b"".join(long(number) + b"N" for number in SAME_HASH) + b"d.",
    "fractions as keys": b"\x80\x02}(" + b"".join(b"G" + struct.pack(">d", n / 7) + b"N" for n in range(999)) + b"u.",
    "places of one hash": b"\x80\x02N" + b"".join(b"p%d\n" % number for number in SAME_HASH) + b".",
}


@pytest.mark.parametrize("name", SLOW)
def test_what_is_made_to_take_time_is_refused(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    path = write(tmp_path, SLOW[name])
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CrrlError, match=r"labels\.pkl holds (more|lists or tuples|a dict|a memory slot)"):
        read_pickle(path)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_small_values_are_read(tmp_path: Path, protocol: int) -> None:
    names, labels = [f"S001C001P001R001A{number:06}" for number in range(100_000)], [n % 120 for n in range(100_000)]
    assert reread(tmp_path, (names, labels), protocol) == (names, labels)


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 30])
def test_a_truncated_pickle_is_one_line(tmp_path: Path, kept: int) -> None:
    content = pickle.dumps(ARRAYS["float32"], 4)
    with pytest.raises(CrrlError, match=r"labels\.pkl is damaged, cut short or not a pickle .*: restore it$"):
        read_pickle(write(tmp_path, content[:kept]))


def test_a_missing_pickle_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"absent\.pkl: .*check the path"):
        read_pickle(tmp_path / "absent.pkl")


@given(content=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_give_values_or_the_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(content)
    modules = set(sys.modules)
    with suppress(CrrlError):
        read_pickle(path)
    # Python imports the decoder of an encoding when it first meets it.
    assert not [name for name in set(sys.modules) - modules if not name.startswith("encodings.")]


@given(
    array=npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.float16]), npst.array_shapes(max_dims=4, min_side=0)
    )
)
@settings(max_examples=50)
def test_any_array_comes_back(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "array.pkl"
    path.write_bytes(pickle.dumps(array, 4))
    np.testing.assert_array_equal(read_pickle(path), array)


def test_an_array_type_of_another_version_sizes_or_flags_than_its_name_has_is_refused(tmp_path: Path) -> None:
    """NumPy would take them over, for all arrays of the process."""
    content = pickle.dumps(np.ones(3, np.float32), protocol=2)
    written = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    assert written in content
    others = (b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x01t", b"J\x00\x00\x00\x00J\xff\xff\xff\xffK\x00t")
    assert content.count(b"(K\x03X") == 1
    for changed in (*(content.replace(written, other) for other in others), content.replace(b"(K\x03X", b"(K\x02X")):
        (tmp_path / "a.pkl").write_bytes(changed)
        with pytest.raises(CrrlError, match="an array type with other sizes than its name says"):
            read_pickle(tmp_path / "a.pkl")
