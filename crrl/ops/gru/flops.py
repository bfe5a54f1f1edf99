"""FLOP formulas of the GRU's matrix products for torch.utils.flop_counter, which counts 0 where it has none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

Shape = Sequence[int]

_COUNTER = "torch.utils.flop_counter"


def _layer(x: Shape, weights: Sequence[Shape], frames: int, batch_first: bool) -> tuple[int, int]:
    """FLOP of W_ih x and of W_hh h over all directions and frames, padded ones too; a repeated x counts once a row."""
    matrices = [shape for shape in weights if len(shape) == 2]
    batch, given = x[:2] if batch_first else x[1::-1]
    inputs, states = (sum(rows * columns for rows, columns in matrices[which::2]) for which in range(2))
    return 2 * batch * given * inputs, 2 * batch * frames * states


def _forward(
    x: Shape, lengths: Shape | None, h0: Shape | None, weights: Sequence[Shape], frames: int, batch_first: bool,
    *others: bool, **_: Any,
) -> int:  # fmt: skip
    return sum(_layer(x, weights, frames, batch_first))


def _pair(
    x: Shape, v: Shape, lengths: Shape | None, weights: Sequence[Shape], key_weights: Sequence[Shape],
    batch_first: bool, *others: bool, **_: Any,
) -> int:  # fmt: skip
    frames = x[1 if batch_first else 0]
    return sum((*_layer(x, weights, frames, batch_first), *_layer(v, key_weights, frames, batch_first)))


def _backward(
    dy: Shape, dh_n: Shape, x: Shape, lengths: Shape | None, h0: Shape | None, weights: Sequence[Shape],
    reserve: Shape, frames: int, batch_first: bool, reverse: bool, needs_dx: bool, **_: Any,
) -> int:  # fmt: skip
    inputs, states = _layer(x, weights, frames, batch_first)
    return (1 + needs_dx) * inputs + 2 * states


def _register(counter: ModuleType) -> None:
    for name, formula in {"gru_layer": _forward, "gru_layer_backward": _backward, "gru_layer_pair": _pair}.items():
        counter.register_flop_formula(getattr(torch.ops.crrl, name))(formula)


class _WhenImported(MetaPathFinder):
    """Registers the formulas once the counter is imported. Importing it here would import Triton where installed."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _then(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        _register(module)

    return execute_and_register


def register() -> None:
    """Make FlopCounterMode count crrl::gru_layer, its backward and crrl::gru_layer_pair, which must be defined."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _WhenImported())
