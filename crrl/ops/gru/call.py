"""What the kernels of crrl::gru_layer share: the sizes of a call and the layout of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def sizes(x: Tensor, weights: Sequence[Tensor], batch_first: bool) -> tuple[int, int, int]:
    """D, B, H of a call of crrl::gru_layer.

    Raises:
        ValueError: these cannot be the weights of one or two directions, or x does not have three dimensions.
    """
    count = len(weights)
    per_direction = 4 if count == 8 or (count == 4 and weights[2].ndim == 1) else 2
    if count not in (2, 4, 8) or weights[1].ndim != 2 or x.ndim != 3:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in weights)
        raise ValueError(
            "a GRU layer takes x of three dimensions and, for each of one or two directions, w_ih [3H, I], w_hh [3H, H]"
            f" and both biases [3H] or neither, not x {list(x.shape)} and {shapes or 'no weights'}"
        )
    return count // per_direction, x.shape[0 if batch_first else 1], weights[1].shape[1]


def output_shape(x: Tensor, weights: Sequence[Tensor], frames: int, batch_first: bool) -> tuple[int, int, int]:
    """The shape of y."""
    directions, batch, hidden = sizes(x, weights, batch_first)
    return (batch, frames, directions * hidden) if batch_first else (frames, batch, directions * hidden)


def readable(tensor: Tensor) -> Tensor:
    """`tensor`, made contiguous if the channels of a frame are not adjacent; the kernels take any other strides."""
    return tensor if tensor.ndim != 3 or tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()
