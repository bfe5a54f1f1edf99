"""The GRU layer by torch's own kernels (cuDNN on a GPU), on a packed sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl.ops.backends import Case
from crrl.reference.gru import Weights


def supports(case: Case) -> tuple[bool, str]:
    """Whether torch's GRU can serve `case`, and why."""
    if case.device == "cuda":
        return True, "cuDNN on a packed sequence"
    return True, "torch's GRU on a packed sequence"


def gru_layer(
    x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """crrl.reference.gru.gru_layer, computed by torch.gru."""
    hidden = weights[0][1].shape[1]
    flat = [tensor for direction in weights for tensor in direction if tensor is not None]
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    assert packed.sorted_indices is not None  # as enforce_sorted is False
    assert packed.unsorted_indices is not None
    if h0 is None:
        h0 = x.new_zeros(len(weights), len(x), hidden)
    data, h_n = torch.gru(
        packed.data, packed.batch_sizes, h0.index_select(1, packed.sorted_indices), flat,
        weights[0][2] is not None, 1, 0.0, torch.is_grad_enabled(), len(weights) == 2,
    )  # fmt: skip
    y, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=x.shape[1])
    return y, h_n.index_select(1, packed.unsorted_indices)
