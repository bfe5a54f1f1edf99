"""Dataclasses of plain values, built from JSON: every field must be present and of its type."""

from __future__ import annotations

import types
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from crrl.errors import CrrlError
from crrl.files import read_json, shown

T = TypeVar("T")

LARGEST = 2**63
"""Integers must be smaller than this, because tensors count in int64."""


def read_facts(path: Path, kind: type[T], remedy: str) -> T:
    """Build the dataclass `kind` from the JSON file `path`.

    Raises:
        CrrlError: the file is missing, damaged or of another version; names the file and ends with `remedy`.
    """
    value = read_json(path)
    try:
        return build(kind, value)
    except CrrlError as error:
        raise CrrlError(f"{path} is damaged or of another version ({error}): {remedy}") from error


def build(kind: type[T], value: Any) -> T:
    """The inverse of `dataclasses.asdict` followed by JSON: lists become tuples, and strings become paths.

    Args:
        kind: a dataclass whose fields are int, float, str, bool, None, Path, Literal of strings, a tuple or list of
            these, a union of these, or such a dataclass.

    Raises:
        CrrlError: a field is unknown, missing, of another type or out of range, or the dataclass refuses it.
    """
    if not isinstance(value, dict):
        raise CrrlError(f"{shown(repr(value))} is not of type {kind.__name__}")
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if value.keys() != names:
        raise CrrlError(f"unknown or missing: {', '.join(sorted(map(shown, value.keys() ^ names)))}")
    hints = get_type_hints(kind)
    return kind(**{name: _field(name, hints[name], item) for name, item in value.items()})


def _field(name: str, hint: Any, item: Any) -> Any:
    try:
        return _value(hint, item)
    except TypeError as error:
        choices = get_args(hint) if get_origin(hint) is Literal else [getattr(hint, "__name__", hint)]
        wanted = ("one of " if len(choices) > 1 else "of type ") + ", ".join(map(str, choices))
        raise CrrlError(f"{name} is {shown(repr(item))}: it must be {wanted}") from error


def _value(hint: Any, item: Any) -> Any:
    """`item` as the type `hint`; raises TypeError if it is of another type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for each in inner:
            with suppress(TypeError):
                return _value(each, item)
        raise TypeError
    if is_dataclass(hint):
        return build(hint, item)  # type: ignore[arg-type]
    if origin is Literal and isinstance(item, str) and item in inner:
        return item
    if origin in (list, tuple) and isinstance(item, list):
        kinds = inner[:1] * len(item) if origin is list or inner[-1] is ... else inner
        if len(kinds) == len(item):
            return origin(_value(kind, each) for kind, each in zip(kinds, item, strict=True))
    if hint is Path and type(item) is str and "\0" not in item:
        return Path(item)
    fits = type(item) is hint or (hint is float and type(item) is int)
    if fits and (type(item) is not int or abs(item) < LARGEST):
        return item
    raise TypeError
