"""A GRU that is called frame by frame: its weights packed once, and little around each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from crrl.ops.gru import operators


class Stream:
    """A GRU called again and again for a few frames, its state carried by the caller; made by `GRU.stream()`.

    The results are those of the GRU, without gradient, up to rounding. Its weights are packed in the first call and
    again where one was replaced, moved or written to in place, which its address and version counter tell. A write
    through `.data`, or to an inference tensor, they do not: call `pack` after it.
    """

    def __init__(self, run: Callable[..., Any], weights: Callable[[], list[list[Tensor]] | None], **flags: Any):
        self._run, self._weights, self._flags = run, weights, flags
        self._known: list[tuple[int, int]] = []
        self._packed: operators.Packed | None = None

    def __call__(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the GRU returns for `input` and `hx`, and by itself where the kernels of the CPU do not serve.

        Args, Raises: as GRU.forward.
        """
        results = None
        if operators.takes_few(input, self._flags["batch_first"]) and (weights := self._weights()) is not None:
            known = [(tensor.data_ptr(), _version(tensor)) for layer in weights for tensor in layer]
            if known != self._known:
                self.pack()
                self._known = known
            if self._packed is None:
                self._packed = operators.pack(weights, **self._flags)
            results = operators.infer_packed(input, hx, self._packed)
        return self._run(input, hx) if results is None else results

    def pack(self) -> None:
        """Have the next call pack the weights anew."""
        self._packed = None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
