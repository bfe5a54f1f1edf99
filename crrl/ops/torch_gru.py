"""The GRU layer by torch's own kernels (cuDNN on a GPU); ragged rows as a packed sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl.ops.backends import Case
from crrl.reference.gru import Weights, check_lengths


def supports(case: Case) -> tuple[bool, str]:
    """Whether torch's GRU can serve `case`, and why."""
    return True, "cuDNN" if case.device == "cuda" else "torch's own GRU"


def gru_layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Weights],
    h0: Tensor | None = None,
    reverse: bool = True,
    frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer, computed by torch.gru.

    Raises:
        ValueError: a length is not in 1..T.
    """
    if frames is not None:
        x = x.expand(-1, frames, -1)
    if h0 is None:
        h0 = x.new_zeros(len(weights), len(x), weights[0][1].shape[1])
    if len(weights) == 2 and not reverse:
        # torch.gru has no such form: each direction is a forward GRU of its own.
        (y, h_n), (y_second, h_second) = (_run(x, lengths, weights[d : d + 1], h0[d : d + 1]) for d in range(2))
        return torch.cat([y, y_second], dim=2), torch.cat([h_n, h_second])
    return _run(x, lengths, weights, h0)


def _run(x: Tensor, lengths: Tensor | None, weights: Sequence[Weights], h0: Tensor) -> tuple[Tensor, Tensor]:
    """torch.gru with the second direction, if there is one, backwards in time."""
    flat = [tensor for direction in weights for tensor in direction if tensor is not None]
    # has_biases, num_layers, dropout, train, bidirectional
    settings = (weights[0][2] is not None, 1, 0.0, torch.is_grad_enabled(), len(weights) == 2)
    if lengths is None:
        return torch.gru(x, h0, flat, *settings, True)
    check_lengths(lengths, x.shape[1])
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    assert packed.sorted_indices is not None  # as enforce_sorted is False
    assert packed.unsorted_indices is not None
    data, h_n = torch.gru(packed.data, packed.batch_sizes, h0.index_select(1, packed.sorted_indices), flat, *settings)
    y, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=x.shape[1])
    return y, h_n.index_select(1, packed.unsorted_indices)
