"""Safetensors files of tensors and facts about them, with a SHA-256 that detects any change since writing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from crrl.errors import CrrlError
from crrl.facts import build
from crrl.files import write_file

T = TypeVar("T")

NO_HASH = "0" * 64
"""The placeholder of a file's SHA-256 while that is computed."""


def write_sealed(path: Path, mark: str, version: int, tensors: Mapping[str, Tensor], facts: Any) -> None:
    """Write tensors, and `facts`, a dataclass of plain values, under the name `mark`; equal input gives equal bytes."""
    said = {"format": version, "sha256": NO_HASH, **asdict(facts)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, {mark: json.dumps(said)})
    content = content.replace(NO_HASH.encode(), hashlib.sha256(content).hexdigest().encode(), 1)
    write_file(path, lambda file: file.write(content))


def facts_of(content: bytes, mark: str, version: int, kind: type[T]) -> T | None:
    """The facts, a dataclass of type `kind`, in a file by `write_sealed`; None if it has another mark or version.

    Raises:
        ValueError: the content has changed since it was written, or a fact is not valid.
    """
    size = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    said = json.loads(about.get(mark, "{}"))
    number, digest = said.pop("format", None), said.pop("sha256", None)
    if number != version or digest is None:
        return None
    blank = content.replace(str(digest).encode(), NO_HASH.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise ValueError("its content has changed since it was written")
    try:
        return build(kind, said)
    except CrrlError as error:
        raise ValueError(str(error)) from error


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the names, shapes or dtypes of the tensors are not those of `expected`."""
    if _shapes(tensors) != _shapes(expected):
        raise ValueError("its weights do not have the names or shapes that it states")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
