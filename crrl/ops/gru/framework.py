"""The GRU layer by torch's own kernels (cuDNN on a GPU); ragged rows become a packed sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl.ops.backends import Case, tracer
from crrl.reference.gru import Weights, check_lengths
from crrl.reference.motion import reverse as reverse_rows
from crrl.reference.motion import take_frames, valid_frames


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

    Lengths on a GPU or in a recorded graph are not checked: reading them would wait for the device, and could not be
    captured.

    Raises:
        ValueError: a length on the CPU is not in 1..T.
    """
    if frames is not None:
        x = x.expand(-1, frames, -1)
    if h0 is None:
        h0 = x.new_zeros(len(weights), x.shape[0], weights[0][1].shape[1])
    if len(weights) == 2 and not reverse:
        # torch.gru has no such form: each direction is a forward GRU of its own.
        (y, h_n), (y_second, h_second) = (_run(x, lengths, weights[d : d + 1], h0[d : d + 1]) for d in range(2))
        return torch.cat([y, y_second], dim=2), torch.cat([h_n, h_second])
    return _run(x, lengths, weights, h0)


def _run(x: Tensor, lengths: Tensor | None, weights: Sequence[Weights], h0: Tensor) -> tuple[Tensor, Tensor]:
    """torch.gru with the second direction, if there is one, backwards in time."""
    flat = [tensor for direction in weights for tensor in direction if tensor is not None]
    # a recorded graph serves both cases: torch.jit.trace records it again without gradients, and compares
    train = torch.is_grad_enabled() or tracer() is not None
    # has_biases, num_layers, dropout, train, bidirectional
    settings = (weights[0][2] is not None, 1, 0.0, train, len(weights) == 2)
    if lengths is None:
        return torch.gru(x, h0, flat, *settings, True)
    if lengths.device.type != "cpu" or torch.compiler.is_compiling() or tracer():
        return run_padded(x, lengths, weights, h0)  # a graph serves any lengths; packing would fix these
    check_lengths(lengths, x.shape[1])
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    assert packed.sorted_indices is not None  # as enforce_sorted is False
    assert packed.unsorted_indices is not None
    data, h_n = torch.gru(packed.data, packed.batch_sizes, h0.index_select(1, packed.sorted_indices), flat, *settings)
    y, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=x.shape[1])
    return y, h_n.index_select(1, packed.unsorted_indices)


def run_padded(x: Tensor, lengths: Tensor, weights: Sequence[Weights], h0: Tensor) -> tuple[Tensor, Tensor]:
    """`_run` without packing: each direction runs forward over padded rows, the second over reversed rows.

    A row's padding then comes last in both directions, so it reaches none of its frames.
    """
    valid = valid_frames(lengths, x.shape[1])[:, :, None]
    x = torch.where(valid, x, 0)  # NaN in padding must reach no gradient
    outputs, finals = [], []
    for direction, weight in enumerate(weights):
        rows = reverse_rows(x, lengths) if direction else x
        y, _ = _run(rows, None, [weight], h0[direction : direction + 1].contiguous())
        finals.append(take_frames(y, lengths[:, None] - 1)[:, 0])
        outputs.append(torch.where(valid, reverse_rows(y, lengths) if direction else y, 0))
    return torch.cat(outputs, dim=2), torch.stack(finals)
