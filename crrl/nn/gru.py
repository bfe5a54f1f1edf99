"""torch.nn.GRU over the kernels of crrl.ops, with lengths for padded rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from crrl.ops import operators, precision
from crrl.reference.gru import Weights


class GRU(nn.GRU):
    """torch.nn.GRU, computed by the fastest backend of crrl.ops.gru_layer, with one more argument: `lengths`.

    Same constructor, parameter names, results and errors as torch.nn.GRU. Where the backend is torch, and for an empty
    batch, it is torch.nn.GRU itself; `backend()` says which backend serves, and why. Under autocast the results have
    the dtype that torch.nn.GRU gives them.

    What differs: dropout between the layers draws other random numbers than torch.nn.GRU from the same seed, and
    torch.jit.script does not take it (torch.jit.trace does). torch.compile, which refuses torch.nn.GRU and all its
    subclasses until told otherwise, compiles it under `torch._dynamo.config.patch(allow_rnn=True)`, without graph
    breaks unless torch itself packs ragged rows; the graph keeps the backend it was traced with. Export models for
    other runtimes (ONNX) under `crrl.ops.use_backends("gru_layer=torch")`.
    """

    reverse: ClassVar[bool] = True
    """Whether the second direction runs backwards in time."""

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run all layers.

        Args:
            input: [T, B, I], or [B, T, I] when batch_first, any strides; [T, I], unbatched; or a PackedSequence.
            hx: [layers · D, B, H] ([layers · D, H] unbatched) initial states, zeros when None.
            lengths: int64 [B] on any device, valid frames per row, each in 1..T; None: all of them. Each row gives what
                it gives in a PackedSequence.

        Returns:
            output, [T, B, D·H], [B, T, D·H], [T, D·H] or a PackedSequence as the input was, 0 at padded frames; and
            h_n, of the shape of hx.

        Raises:
            ValueError: `lengths` given without a padded batch, or not B of them in 1..T.
            ValueError, RuntimeError: torch.nn.GRU's own, where sizes, dtypes or devices do not fit.
            CrrlError: the policy forces a backend that cannot run.
        """
        x = input.data if isinstance(input, PackedSequence) else input
        if lengths is not None and (x is not input or x.dim() != 3 or lengths.shape != self._state_shape(x)[1:2]):
            raise ValueError("lengths must be [B], one for each row of a padded batch")
        if lengths is None and self.reverse and operators.gru_backend(x, self.hidden_size)[0] == "torch":
            return super().forward(input, hx)
        weights = self._weights()
        if not self._fits(input, hx, weights):
            return super().forward(input, hx)  # it raises, in its own words, or serves an empty batch
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, weights)
        if input.dim() == 2:
            outputs, h_n = self._layers(input[None], None if hx is None else hx[:, None], None, weights)
            return outputs[-1][0], h_n[:, 0]
        outputs, h_n = self._layers(input if self.batch_first else input.transpose(0, 1), hx, lengths, weights)
        if self.batch_first:
            return outputs[-1], h_n
        return outputs[-1].transpose(0, 1).contiguous(), h_n  # contiguous as torch's is: callers take views of it

    def unroll(
        self, hint: Tensor, frames: int, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run all layers over one input repeated in every frame; the kernels project it once, not T times.

        Args:
            hint: [B, I], B at least 1. frames: T, at least 1. hx, lengths: as in forward.

        Returns:
            What forward returns for hint[:, None].expand(-1, T, -1) ([T, B, I] unless batch_first).

        Raises:
            ValueError: hint, hx or lengths have another shape, dtype or device than the layers take.
        """
        if frames < 1 or hint.dim() != 2 or (lengths is not None and lengths.shape != hint.shape[:1]):
            raise ValueError("unroll takes a hint [B, I], at least one frame, and one length a row")
        x, weights = hint[:, None], self._weights()
        if not self._fits(x if self.batch_first else hint[None], hx, weights):
            raise ValueError("the hint or hx has another shape, dtype or device than the layers take")
        outputs, h_n = self._layers(x, hx, lengths, weights, frames)
        y = outputs[-1]
        return (y if self.batch_first else y.transpose(0, 1).contiguous()), h_n

    def each_layer(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """The output [B, T, D·H] of every layer, 0 at padded frames, for x [B, T, I] and lengths int64 [B].

        Raises:
            ValueError: x or lengths have another shape, dtype or device than the layers take.
        """
        weights = self._weights()
        if x.dim() != 3 or lengths.shape != x.shape[:1] or not self._fits(x, None, weights):
            raise ValueError("x or lengths have another shape, dtype or device than the layers take")
        return self._layers(x, None, lengths, weights)[0]

    def backend(self, input: Tensor | PackedSequence | None = None) -> tuple[str, str]:
        """The name of the backend that serves `input` (None: a tensor like the weights), and why.

        It depends on the device and dtype of `input`, on autocast and on the policy (crrl.ops.use_backends).

        Raises:
            CrrlError: the policy forces a backend that cannot run.
        """
        if input is None:
            input = next(self.parameters())
        return operators.gru_backend(input.data, self.hidden_size)

    def _forward_packed(
        self, packed: PackedSequence, hx: Tensor | None, weights: list[list[Weights]]
    ) -> tuple[PackedSequence, Tensor]:
        """Pad, run, pack again: the rows stay sorted in between, the states go through the packing's indices."""
        rows = PackedSequence(packed.data, packed.batch_sizes)
        x, lengths = pad_packed_sequence(rows, batch_first=True)
        if hx is not None and packed.sorted_indices is not None:
            hx = hx.index_select(1, packed.sorted_indices)
        outputs, h_n = self._layers(x, hx, lengths, weights)
        data = pack_padded_sequence(outputs[-1], lengths, batch_first=True).data
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
        return PackedSequence(data, *packed[1:]), h_n

    def _layers(
        self,
        x: Tensor,
        hx: Tensor | None,
        lengths: Tensor | None,
        weights: list[list[Weights]],
        frames: int | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Every layer's output, and the states of all, over x [B, T, I], or [B, 1, I] repeated `frames` times.

        hx: [layers · D, B, H].
        """
        dtype = (x if hx is None else hx).dtype
        outputs, finals = [], []
        for layer, layer_weights in enumerate(weights):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            directions = len(layer_weights)
            h0 = None if hx is None else hx[layer * directions : (layer + 1) * directions]
            x, h_n = operators.gru_layer(x, lengths, layer_weights, h0, self.reverse, None if layer else frames)
            outputs.append(x)
            finals.append(h_n)
        if x.device.type != "cpu":
            return outputs, torch.cat(finals)
        # Under autocast torch's CPU GRU returns the dtype of the state; cuDNN's does not.
        return [output.to(dtype) for output in outputs], torch.cat(finals).to(dtype)

    def _weights(self) -> list[list[Weights]]:
        """Per layer, per direction. By name each time: functional_call and parametrizations replace the attributes."""
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [[self._direction(f"l{layer}{suffix}") for suffix in suffixes] for layer in range(self.num_layers)]

    def _direction(self, name: str) -> Weights:
        w_ih, w_hh = getattr(self, f"weight_ih_{name}"), getattr(self, f"weight_hh_{name}")
        biases = (getattr(self, f"bias_ih_{name}"), getattr(self, f"bias_hh_{name}")) if self.bias else (None, None)
        return (w_ih, w_hh, *biases)

    def _state_shape(self, input: Tensor | PackedSequence) -> tuple[int, ...]:
        """What hx must be for this input."""
        states = self.num_layers * (2 if self.bidirectional else 1)
        if isinstance(input, PackedSequence):
            return (states, int(input.batch_sizes[0]), self.hidden_size)
        if input.dim() == 2:
            return (states, self.hidden_size)
        return (states, input.size(0 if self.batch_first else 1), self.hidden_size)

    def _fits(self, input: Tensor | PackedSequence, hx: Tensor | None, weights: list[list[Weights]]) -> bool:
        """Whether sizes, dtypes and devices are those that a layer takes, and there is a frame to compute."""
        x = input.data if isinstance(input, PackedSequence) else input
        dims = (2,) if isinstance(input, PackedSequence) else (2, 3)
        if x.dim() not in dims or x.size(-1) != self.input_size or x.numel() == 0:
            return False
        if hx is not None and hx.shape != self._state_shape(input):
            return False
        device, dtypes = x.device, precision.AUTOCAST_DTYPES if precision.autocasts(x) else (x.dtype,)
        tensors = [hx, *(tensor for layer in weights for direction in layer for tensor in direction)]
        return all(tensor is None or (tensor.dtype in dtypes and tensor.device == device) for tensor in tensors)
