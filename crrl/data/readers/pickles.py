"""A restricted unpickler: lists, dicts, tuples, strings, numbers and NumPy arrays of numbers or text, nothing else.

A pickle is a program for a stack machine that may call anything it names. Here it may name only what NumPy's own
pickles name (protocols 0 to 5, NumPy 1 and 2, Python 2 and 3), and these names stand for functions of this file, which
check plain values and return plain values. Instructions that could do more are removed from the machine. Sizes are
limited by the file's: lengths, the sum of all arrays, the number of instructions, and the depth of nested lists.

The machine is Python's own `pickle._Unpickler`, not the C one, which allocates as much as a memo index asks for.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt

from crrl.errors import CrrlError
from crrl.files import HEAD, explain_damage, open_input, shown

_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16)|[SU][1-9]\d{0,5})")
_ADMITTED = """
    MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE PROTO FRAME GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_INSTRUCTIONS = {ord(code.code): code.name for code in pickletools.opcodes}
_FEW, _SHARE = 1_000_000, 4
"""Reads of a single byte (an instruction, a short length, ...) allowed for any file, and one more for so many bytes."""
_DEEPEST = 1000
_LARGEST_KEY = 2**32
"""Only integers below this may be keys of a dict: larger ones can be chosen to collide, which takes Python long."""


class Forbidden(pickle.UnpicklingError):
    """The pickle asks for something that is not allowed; the message says what."""


def read_pickle(path: Path) -> Any:
    """The content of a pickle of plain values and arrays.

    Raises:
        CrrlError: the file names something else (`os.system`, say), holds arrays of objects, or is damaged.
    """
    with (
        explain_damage(path, "damaged, cut short or not a pickle", "restore it"),
        open_input(path, "a pickle", "pickle") as file,
    ):
        head = file.read(HEAD)
        if head and head[0] not in _INSTRUCTIONS:
            raise CrrlError(f"{path} is not a pickle (it begins with {shown(head)!r}): give the file that is meant")
        file.seek(0)
        content = _Bounded(file, os.fstat(file.fileno()).st_size)
        try:
            value = _Unpickler(content).load()
        except Forbidden as error:
            raise CrrlError(
                f"{path} holds {error}: as a pickle can run any program, only plain values and NumPy arrays are read "
                f"from one; save it again without, or do not trust it"
            ) from error
        if content.left:
            raise CrrlError(f"{path} goes on after its pickle, by {content.left:,} bytes: save it as one pickle")
        return value


class _Bounded:
    """A file that refuses reads beyond its end, before memory is allocated for them, and too many reads of one byte."""

    def __init__(self, file: BinaryIO, size: int):
        self._read, self._read_line = file.read, file.readline
        self.size = self.left = size
        self._singles = _FEW + size // _SHARE

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError("it ends too early")
        self.left -= count
        if count == 1:
            self._singles -= 1
            if self._singles < 0:
                raise Forbidden("more instructions than data")
        return self._read(count)

    def readline(self) -> bytes:
        line = self._read_line()
        self.left -= len(line)
        return line


class _Name:
    """A name in the pickle: an object without attributes that a pickle could reach or change."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that the pickle creates empty, and fills later by its state."""


class _Dtype:
    """The dtype of an array under construction: a pickle could change NumPy's own, which all arrays share."""

    def __init__(self, code: object):
        name = _text(code)
        if not _DTYPE.fullmatch(name):
            raise Forbidden(f"an array of type {name[:20]!r}")
        self.value = np.dtype(name)

    def set_state(self, state: object) -> None:
        """(version, byte order, subarray, names, fields, then sizes and flags, which must be those of the name)."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Forbidden("an array type with fields")
        written = cast(Any, self.value.__reduce__())[2]
        if (state[0], *state[5:]) != (written[0], *written[5 : len(state)]):
            raise Forbidden("an array type with other sizes than its name says")
        self.value = self.value.newbyteorder(cast(Literal["<", ">", "|", "="], _text(state[1])))


class _Dispatch(dict[int, Callable[[Any], None]]):
    """The allowed instructions by their code."""

    def __missing__(self, code: int) -> NoReturn:
        raise Forbidden(f"the instruction {_INSTRUCTIONS.get(code, hex(code))}")


class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    metastack: list[list[Any]]
    memo: dict[int, Any]
    readline: Callable[[], bytes]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: _Bounded):
        super().__init__(cast(Any, file), encoding="latin1")  # Python 2's strings were bytes
        self._file = file
        self._budget = 2 * file.size  # every byte once as text that is turned into bytes, once in an array
        self._makers: dict[str, Callable[..., object]] = {
            "_codecs.encode": self._encode,
            "builtins.bytes": lambda: b"",
            "builtins.bytearray": self._byte_array,
            "builtins.complex": lambda real, imaginary: complex(float(real), float(imaginary)),
            "numpy.dtype": lambda code, *align_and_copy: _Dtype(code),
            "numpy.multiarray._reconstruct": _empty_array,
            "numpy.multiarray.scalar": lambda dtype, raw: self._array((), dtype, raw, "C").item(),
            "numpy.numeric._frombuffer": lambda raw, dtype, shape, order: self._array(shape, dtype, raw, order),
        }

    dispatch = _Dispatch(
        {code: act for code, act in pickle._Unpickler.dispatch.items() if _INSTRUCTIONS.get(code) in _ADMITTED.split()}
    )

    def find_class(self, module: str, name: str) -> Any:
        text = re.sub(r"^numpy\._?core\.", "numpy.", f"{module}.{name}").replace("__builtin__.", "builtins.", 1)
        if text not in self._makers and text != "numpy.ndarray":
            raise Forbidden(f"the name {f'{module}.{name}'[:60]!r}")
        return _Name(text)

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack[-1]
        if not isinstance(name, _Name) or name.text not in self._makers or not isinstance(arguments, tuple):
            raise Forbidden("a call of something that is not a function")
        self.stack[-1] = self._makers[name.text](*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.set_state(state)
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.__setstate__(cast(Any, (1, *self._checked(shape, dtype, raw, bool(fortran)))))
        else:
            raise Forbidden(f"a state for a {type(target).__name__}")

    def load_frame(self) -> None:
        """Check the length only: the content of a frame is read like any other."""
        if int.from_bytes(self.read(8), "little") > self._file.left:
            raise EOFError("it ends too early")

    def load_mark(self) -> None:
        if len(self.metastack) == _DEEPEST:
            raise Forbidden(f"lists or tuples nested more than {_DEEPEST} deep")
        self.metastack.append(self.stack)
        self.stack = []
        self.append = self.stack.append

    def load_put(self) -> None:
        """A memo index in decimal digits, limited because it becomes a key of a dict."""
        number = int(self.readline())
        if not 0 <= number < _LARGEST_KEY:
            raise Forbidden("a memory slot with too large a number")
        self.memo[number] = self.stack[-1]

    def load_bytearray8(self) -> None:
        """Read before allocating; Python's own method allocates first."""
        size = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(size)))

    def load_setitems(self) -> None:
        """Keys are text or small numbers: others can take long to compare, or overflow the C stack."""
        items = self.pop_mark()
        self._set_items(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if type(target) is not dict or not all(map(_is_key, keys)):
            raise Forbidden("a dict whose keys are neither text nor small whole numbers")
        target.update(zip(keys, items[1::2], strict=True))

    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.MARK[0]] = load_mark
    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise Forbidden("more data than it has bytes")

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes as protocols 0 to 2 write them."""
        if not isinstance(text, str) or encoding != "latin1":
            raise Forbidden("a text in another encoding")
        self._spend(len(text))
        return text.encode("latin1")

    def _byte_array(self, content: object = b"") -> bytes:
        raw = _bytes(content)
        self._spend(len(raw))
        return raw

    def _array(self, shape: object, dtype: object, raw: object, order: object) -> npt.NDArray[Any]:
        counts, kind, fortran, data = self._checked(shape, dtype, raw, order == "F")
        return np.ndarray(counts, kind, data, order="F" if fortran else "C")

    def _checked(
        self, shape: object, dtype: object, raw: object, fortran: bool
    ) -> tuple[tuple[int, ...], np.dtype[Any], bool, bytes]:
        """The state of an array, whose data must fill its shape exactly."""
        if not isinstance(dtype, _Dtype):
            raise Forbidden("an array of no type")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 16:
            raise ValueError("an array's shape is not a list of counts")
        data = _bytes(raw)
        self._spend(len(data))
        if len(data) != math.prod(shape) * dtype.value.itemsize:
            raise ValueError("an array's data do not fill its shape")
        return shape, dtype.value, fortran, data


def _is_key(key: object) -> bool:
    return isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < _LARGEST_KEY)


def _empty_array(kind: object, shape: object, code: object) -> _Array:
    if not isinstance(kind, _Name) or kind.text != "numpy.ndarray":
        raise Forbidden("an array of another class")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _text(value: object) -> str:
    if not isinstance(value, str | bytes):
        raise Forbidden("an array type without a name")
    return value if isinstance(value, str) else value.decode("latin1")


def _bytes(value: object) -> bytes:
    """Bytes, or a string of Python 2 as bytes; an array of objects has a list here, which is refused."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("latin1")
    raise Forbidden("an array of objects")
