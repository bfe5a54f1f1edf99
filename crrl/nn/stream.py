"""A GRU that is called frame by frame: its weights packed once, and little around each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from crrl.ops.gru import operators

if TYPE_CHECKING:
    from crrl.nn.gru import GRU


class Stream:
    """A GRU called again and again for a few frames, its state carried by the caller; made by `GRU.stream()`.

    The results are those of the GRU, without gradient, up to rounding. Its weights are packed in the first call and
    again where one was replaced, moved or written to in place, which its address and version counter tell. A write
    through `.data`, or to an inference tensor, they do not: call `pack` after it.
    """

    def __init__(self, gru: GRU):
        self._gru = gru
        self._known: list[tuple[str, Tensor, int, int]] = []  # name, weight, its address and version as it was packed
        self._packed: operators.Packed | None = None

    def __call__(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the GRU returns for `input` and `hx`, and by itself where the kernels of the CPU do not serve.

        Args, Raises: as GRU.forward.
        """
        results = None
        if operators.takes_few(input, self._gru.batch_first) and (packed := self._current()) is not None:
            results = operators.infer_packed(input, hx, packed)
        return self._gru(input, hx) if results is None else results

    def pack(self) -> None:
        """Have the next call pack the weights anew."""
        self._packed = None

    def _current(self) -> operators.Packed | None:
        """The weights, packed as they are now; None: they cannot be."""
        gru = self._gru
        if gru.training and gru.dropout:
            return None
        if self._packed is not None and self._unchanged():
            return self._packed
        weights = gru.plain_weights()
        if weights is None:
            return None
        directions = 2 if gru.bidirectional else 1
        self._packed = operators.pack(weights, directions, gru.batch_first, gru.reverse)
        names = (name for group in gru._all_weights for name in group)
        flat = (weight for layer in weights for weight in layer)
        self._known = [(name, each, each.data_ptr(), _version(each)) for name, each in zip(names, flat, strict=True)]
        return self._packed

    def _unchanged(self) -> bool:
        now = self._gru._parameters
        return all(
            now.get(name) is weight and weight.data_ptr() == address and _version(weight) == version
            for name, weight, address, version in self._known
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
