"""A GRU that is called frame by frame: its weights are packed once, and each call has little overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from crrl.ops.gru import operators

if TYPE_CHECKING:
    from crrl.nn.gru import GRU


class Stream:
    """A GRU called again and again for a few frames; the caller carries its state. Made by `GRU.stream()`.

    The results are those of the GRU, without gradient, up to rounding. The weights are packed in the first call, and
    again once one is replaced, moved or written to in place, which its address and version counter show. They do not
    show a write through `.data` or to an inference tensor: call `pack` after one.
    """

    def __init__(self, gru: GRU):
        self._gru = gru
        self._known: list[tuple[str, Tensor, int, int]] = []  # name, weight, its address and version when packed
        self._packed: operators.Packed | None = None

    def __call__(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the GRU returns for `input` and `hx`; the GRU itself computes it where packed weights do not serve.

        Args, Raises: as GRU.forward.
        """
        results = None
        if operators.takes_few(input, self._gru.batch_first) and (packed := self._current()) is not None:
            results = operators.infer_packed(input, hx, packed)
        return self._gru(input, hx) if results is None else results

    def pack(self) -> None:
        """Make the next call pack the weights again."""
        self._packed = None

    def _current(self) -> operators.Packed | None:
        """The current weights, packed; None: they cannot be."""
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
