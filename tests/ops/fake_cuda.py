"""What crrl._cuda computes, by its definition, in float64 on memory of the host: proves its callers without a GPU."""

from __future__ import annotations

import ctypes
import itertools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

DTYPES = {"tf32": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Frames = tuple[int, int, int]


class FakeCuda:
    """Stands for the module crrl._cuda.

    Attributes:
        calls: (function, mode, chains) of each launch. wrong: added to every output. hangs: launches give up waiting.
    """

    targets, toolkit = ["sm_80", "sm_90a"], "13.0"

    def __init__(self) -> None:
        self.__file__ = __file__
        self.calls: list[tuple[str, str, int]] = []
        self.wrong, self.hangs = 0.0, False

    def problem(self) -> str | None:
        return None

    def gru_plan(
        self, mode: str, backward: bool, chains: int, batch: int, steps: int, hidden: int, device: int, *_: str
    ) -> Any:
        assert mode in DTYPES
        assert 1 <= chains <= 4
        reason = "" if hidden <= 1024 else "at most 1024 units"
        shape = {"blocks": 8, "units": 32, "rows": 8, "teams": 2, "shared": 0, "workspace": 64}
        return SimpleNamespace(variant="" if reason else "cluster", reason=reason, **shape)

    def gru_forward(self, mode: str, sizes: tuple[int, int, int], chains: list[Any], plan: Any, *rest: int) -> None:
        self._launch("forward", mode, len(chains), plan, rest)
        for chain in chains:
            forward_chain(DTYPES[mode], *sizes, *chain, self._error())

    def gru_backward(self, mode: str, sizes: tuple[int, int, int], chains: list[Any], plan: Any, *rest: int) -> None:
        self._launch("backward", mode, len(chains), plan, rest)
        for chain in chains:
            backward_chain(DTYPES[mode], *sizes, *chain, self._error())

    def _error(self) -> float:
        return float("nan") if self.hangs else self.wrong

    def _launch(self, name: str, mode: str, chains: int, plan: Any, rest: tuple[int, ...]) -> None:
        workspace, status, patience, device, stream = rest
        assert plan.variant
        assert workspace
        assert patience > 0
        assert (device, stream) == (0, 0)
        self.calls.append((name, mode, chains))
        if self.hangs:
            ctypes.c_int.from_address(status).value = 1


def at(address: int, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> Tensor:
    """The tensor that lies there."""
    strides = strides or tuple(itertools.accumulate((1, *shape[:0:-1]), int.__mul__))[::-1]
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * (elements * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


def maybe(address: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return at(address, dtype, shape).double() if address else torch.zeros(shape, dtype=torch.float64)


def visits(batch: int, steps: int, lengths: int, reverse: bool) -> list[tuple[Tensor, Tensor]]:
    """The rows that have a frame at each step, and which frame it is."""
    count = at(lengths, torch.int64, (batch,)) if lengths else torch.full((batch,), steps)
    rows = [(count > step).nonzero()[:, 0] for step in range(steps)]
    return [(r, count[r] - 1 - step if reverse else torch.full_like(r, step)) for step, r in enumerate(rows)]


def forward_chain(
    dtype: torch.dtype, batch: int, steps: int, hidden: int, gates: Frames, w_hh: int, b_hh: int, h0: int, lengths: int,
    y: Frames, h_n: int, reserve: Frames, reverse: bool, error: float,
) -> None:  # fmt: skip
    x = at(gates[0], dtype, (batch, steps, 3 * hidden), (*gates[1:], 1)).double()
    out = at(y[0], dtype, (batch, steps, hidden), (*y[1:], 1))
    kept = at(reserve[0], dtype, (batch, steps, 5 * hidden), (*reserve[1:], 1)) if reserve[0] else None
    w, b = at(w_hh, dtype, (3 * hidden, hidden)).double(), maybe(b_hh, dtype, (3 * hidden,))
    h = maybe(h0, dtype, (batch, hidden)).clone()
    out.zero_()
    if kept is not None:
        kept.fill_(torch.nan)[..., 4 * hidden :].zero_()
    for rows, frame in visits(batch, steps, lengths, reverse):
        r_x, z_x, n_x = x[rows, frame].chunk(3, 1)
        r_h, z_h, n_h = (h[rows] @ w.T + b).chunk(3, 1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        if kept is not None:
            kept[rows, frame] = torch.cat([r, z, n, n_h, h[rows]], 1).to(dtype)
        h[rows] = (h[rows] - n) * z + n
        out[rows, frame] = (h[rows] + error).to(dtype)
    at(h_n, dtype, (batch, hidden)).copy_(h + error)


def backward_chain(
    dtype: torch.dtype, batch: int, steps: int, hidden: int, w_hh: int, lengths: int, reserve: Frames, dy: Frames,
    dh_n: int, dgates: Frames, dh0: int, reverse: bool, error: float,
) -> None:  # fmt: skip
    kept = at(reserve[0], dtype, (batch, steps, 5 * hidden), (*reserve[1:], 1)).double()
    of_y = at(dy[0], dtype, (batch, steps, hidden), (*dy[1:], 1)).double()
    out = at(dgates[0], dtype, (batch, steps, 4 * hidden), (*dgates[1:], 1)).zero_()
    w, dh = at(w_hh, dtype, (3 * hidden, hidden)).double(), maybe(dh_n, dtype, (batch, hidden)).clone()
    for rows, frame in reversed(visits(batch, steps, lengths, reverse)):
        r, z, n, n_h, before = kept[rows, frame].chunk(5, 1)
        d = dh[rows] + of_y[rows, frame]
        dn = d * (1 - z) * (1 - n * n)
        dr, dz = dn * n_h * r * (1 - r), d * (before - n) * z * (1 - z)
        dh[rows] = d * z + torch.cat([dr, dz, dn * r], 1) @ w
        out[rows, frame] = (torch.cat([dr, dz, dn, dn * r], 1) + error).to(dtype)
    at(dh0, dtype, (batch, hidden)).copy_(dh + error)
