"""Open GRUs that a GPU machine may have: Haste's, FlashRNN's and TorchRL's, each as one direction of one layer.

None of them runs both directions or several layers of these in one call: `stacked` does, reversing and joining as a
user would have to. A package that is not there raises ImportError when its layer is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Problem, Run, called, converted

Direction = Callable[[Tensor], Tensor]
"""x [B, T, I] to y [B, T, H], forwards in time."""

Make = Callable[[Sequence[Tensor], str], tuple[Direction, list[Tensor]]]
"""(w_ih, w_hh, b_ih, b_hh as torch.nn.GRU has them; the dtype) to a direction and the leaves that get gradients."""


def haste(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """Haste: a layer of its own, weights transposed, gates in the order z, r, n."""
    import haste_pytorch  # type: ignore[import-not-found]

    if dtype not in ("fp32", "fp64"):
        raise NotImplementedError("Haste takes float32 and float64")
    hidden, inputs = weights[1].shape[1], weights[0].shape[1]
    layer = haste_pytorch.GRU(inputs, hidden, batch_first=True)
    r, z, n = range(3)
    named = zip(("kernel", "recurrent_kernel", "bias", "recurrent_bias"), weights, strict=True)
    with torch.no_grad():
        for name, weight in named:
            gates = weight.view(3, hidden, *weight.shape[1:])[[z, r, n]]
            getattr(layer, name).copy_(gates.reshape(weight.shape).t() if weight.dim() == 2 else gates.flatten())
    return lambda x: layer(x)[0], list(layer.parameters())


def flashrnn(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """FlashRNN: the recurrence of W_ih x; gates (n of h, r, z) from h, and a bias each for these and for n of x."""
    from flashrnn import flashrnn as run  # type: ignore[import-not-found]

    w_ih, w_hh, b_ih, b_hh = (weight.detach() for weight in weights)
    hidden = w_hh.shape[1]
    of_x, of_h = b_ih.view(3, hidden), b_hh.view(3, hidden)
    bias = torch.stack([of_h[2], of_x[0] + of_h[0], of_x[1] + of_h[1], of_x[2]])[:, None]
    recurrent = w_hh.view(3, 1, hidden, hidden)[[2, 0, 1]]
    leaves = [tensor.clone().requires_grad_() for tensor in (w_ih, recurrent, bias)]
    name = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]

    def direction(x: Tensor) -> Tensor:
        gates = nn.functional.linear(x, leaves[0]).view(*x.shape[:2], 3, 1, hidden)
        states, _ = run(gates, leaves[1], leaves[2], function="gru", backend="cuda", dtype=name)
        return states[0][:, :, 0]  # type: ignore[no-any-return]

    return direction, leaves


def torchrl(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """TorchRL's Triton kernel, which resets rows where it is told to: here nowhere."""
    from torchrl.modules.tensordict_module._rnn_triton import gru_triton  # type: ignore[import-not-found]

    if dtype != "fp32":
        raise NotImplementedError("TorchRL's kernel takes float32 tensors")
    leaves = [weight.detach().clone().requires_grad_() for weight in weights]

    def direction(x: Tensor) -> Tensor:
        before = x.new_zeros(*x.shape[:2], leaves[1].shape[1])
        resets = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        return gru_triton(x, before, *leaves, resets)[0]  # type: ignore[no-any-return]

    return direction, leaves


PEERS: dict[str, Make] = {"Haste": haste, "FlashRNN": flashrnn, "TorchRL": torchrl}


def stacked(make: Make, p: Problem, dtype: str, backward: bool) -> Run:
    """All layers and directions by a peer: [y]; with backward [y, dx], the weights' gradients computed as well."""
    gru = converted(p, dtype)
    layers, leaves = [], []
    for layer in range(gru.num_layers):
        both = [make(_weights(gru, f"l{layer}{suffix}"), dtype) for suffix in ("", "_reverse")]
        layers.append([direction for direction, _ in both])
        leaves += [leaf for _, its in both for leaf in its]

    def forward(y: Tensor) -> list[Tensor]:
        for ahead, back in layers:
            y = torch.cat([ahead(y), back(y.flip(1)).flip(1)], 2)
        return [y]

    run = called(forward, leaves, p, dtype, backward)
    return lambda: run()[:2]


def _weights(gru: nn.GRU, name: str) -> list[Any]:
    return [getattr(gru, f"{kind}_{name}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
