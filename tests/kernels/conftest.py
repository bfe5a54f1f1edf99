"""Triton kernels run on the GPU where there is one, elsewhere in Triton's interpreter on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Memory that nobody has written is NaN, or the largest integer: a kernel that leaves some of its output shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _bfloat16_as_on_a_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter cuts bfloat16 off where a GPU rounds, and multiplies its matrices as if of integers."""
    if device.type == "cuda":
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is not installed")
    builder, tl = interpreter.InterpreterBuilder, interpreter.tl
    cast, dot = builder.cast_impl, builder.create_dot

    def rounded(self: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        bits = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(bits.reshape(source.data.shape), tl.bfloat16)

    def multiplied(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [rounded(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return dot(self, *wide, *rest)

    monkeypatch.setattr(builder, "cast_impl", rounded)
    monkeypatch.setattr(builder, "create_dot", multiplied)
