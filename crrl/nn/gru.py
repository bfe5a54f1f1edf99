"""torch.nn.GRU on the kernels of crrl.ops, with lengths for padded rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from crrl.nn.stream import Stream
from crrl.ops import precision
from crrl.ops.backends import unobserved
from crrl.ops.gru import operators
from crrl.reference.gru import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Lengths = Tensor | Sequence[int] | NDArray[Any]

QUANTIZED = (
    "torch.ao.quantization knows torch.nn.GRU by its class and leaves crrl.nn.GRU in float; to quantize it, call "
    "crrl.nn.decelerate(model) first"
)


class GRU(nn.GRU):
    """torch.nn.GRU, computed by the fastest backend of crrl.ops.gru_layer, with one more argument: `lengths`.

    Same constructor, parameter names, results and errors as torch.nn.GRU. torch.nn.GRU itself serves if the backend is
    torch, and for an empty batch; `backend()` tells which backend serves, and why. Under autocast the results have the
    dtype that torch.nn.GRU gives them. The output may be changed in place before the backward pass.

    torch.export keeps each layer as one operator, for any batch and number of frames; torch.fx keeps the module as one
    call. torch.onnx.export and torch.jit.trace record torch's own operations.

    What differs: from the same seed, dropout between the layers draws other random numbers than torch.nn.GRU.
    torch.compile refuses torch.nn.GRU and its subclasses by default; under
    `torch._dynamo.config.patch(allow_rnn=True)` it compiles this class without graph breaks, and the graph keeps the
    backend it was traced with. torch.jit.script cannot compile it. torch.ao.quantization knows torch.nn.GRU by its
    class and leaves this class in float, with a warning. For both, `decelerate` the model first.
    """

    reverse: ClassVar[bool] = True
    """Whether the second direction runs backwards in time."""

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run all layers.

        Args:
            input: [T, B, I], or [B, T, I] if batch_first, any strides; [T, I], unbatched; or a PackedSequence.
            hx: [layers · D, B, H] ([layers · D, H] unbatched) initial states; None: zeros.
            lengths: B integers, the valid frames of each row, each in 1..T: a tensor of any integer dtype on any
                device, an array or a sequence; None: all frames. A row's results are those in a PackedSequence.

        Returns:
            output, [T, B, D·H], [B, T, D·H], [T, D·H] or a PackedSequence as the input was, 0 at padded frames; and
            h_n, of the shape of hx.

        Raises:
            ValueError: `lengths` given without a padded batch, or not B integers in 1..T.
            TypeError: input or hx is not a dense tensor, but for example an array or a nested tensor.
            ValueError, RuntimeError: torch.nn.GRU's own, if sizes, dtypes or devices do not fit.
            CrrlError: the policy forces a backend that cannot run.
        """
        if lengths is None and (results := self._infer(input, hx)) is not None:
            return results
        x = input.data if isinstance(input, PackedSequence) else input
        if not (_is_dense(x) and (hx is None or _is_dense(hx))) or isinstance(lengths, fx.Proxy):
            return self._record(input, hx, lengths)
        lengths = row_lengths(lengths)
        if lengths is not None and (x is not input or x.dim() != 3 or lengths.shape != self._state_shape(x)[1:2]):
            raise ValueError("lengths must be [B], one for each row of a padded batch")
        if lengths is None and self.reverse and self.backend(input)[0] == "torch":
            return super().forward(input, hx)
        weights = self._weights()
        if not self._fits(input, hx, weights):
            return self._refuse(input, hx, lengths)
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
        self, hint: Tensor, frames: int, hx: Tensor | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run all layers over one input that is repeated in every frame; the kernels project it once, not T times.

        Args:
            hint: [B, I], B at least 1. frames: T, at least 1. hx, lengths: as in forward.

        Returns:
            What forward returns for hint[:, None].expand(-1, T, -1) ([T, B, I] unless batch_first).

        Raises:
            ValueError: hint, hx, lengths or a weight has another shape, dtype or device than the layers take.
            TypeError: as in forward.
        """
        _check_dense(hint, hx, "hint")
        lengths = row_lengths(lengths)
        if frames < 1 or hint.dim() != 2 or (lengths is not None and lengths.shape != hint.shape[:1]):
            raise ValueError("unroll takes a hint [B, I], at least one frame, and one length a row")
        x, weights = hint[:, None], self._weights()
        if not self._fits(x if self.batch_first else hint[None], hx, weights):
            raise ValueError("the hint, hx or a weight has another shape, dtype or device than the layers take")
        outputs, h_n = self._layers(x, hx, lengths, weights, frames)
        y = outputs[-1]
        return (y if self.batch_first else y.transpose(0, 1).contiguous()), h_n

    def each_layer(self, x: Tensor, lengths: Lengths) -> list[Tensor]:
        """The output [B, T, D·H] of every layer, 0 at padded frames, for x [B, T, I] and B `lengths`, as in forward.

        Raises:
            ValueError: x, lengths or a weight has another shape, dtype or device than the layers take.
            TypeError: as in forward.
        """
        _check_dense(x, None, "x")
        rows, weights = row_lengths(lengths), self._weights()
        if rows is None or x.dim() != 3 or rows.shape != x.shape[:1] or not self._fits(x, None, weights):
            raise ValueError("x, lengths or a weight have another shape, dtype or device than the layers take")
        return self._layers(x, None, rows, weights)[0]

    def backend(self, input: Tensor | PackedSequence | None = None) -> tuple[str, str]:
        """The name of the backend that serves `input` (None: a tensor like the weights), and the reason.

        It depends on the device and dtype of `input`, on autocast and on the policy (crrl.ops.use_backends). If that is
        auto, it also depends on rows and frames: torch's own GRU is faster for one frame with gradients, for example.

        Raises:
            CrrlError: the policy forces a backend that cannot run.
        """
        if input is None:
            input = next(self.parameters())
        if isinstance(input, PackedSequence) or not self.reverse:
            return operators.gru_backend(input.data, self.hidden_size)
        return operators.gru_module_backend(input, self.hidden_size, self.batch_first)

    def stream(self) -> Stream:
        """This GRU for calls of a few frames each, without gradients; the caller carries the state (see Stream)."""
        return Stream(self)

    def _infer(self, input: Tensor | PackedSequence, hx: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The results for an ordinary batch if nothing observes the call; None: `forward` must look closer."""
        if isinstance(input, PackedSequence) or (self.training and self.dropout) or not unobserved():
            return None
        weights = self.plain_weights()
        if weights is None:
            return None
        return operators.infer(input, hx, weights, 2 if self.bidirectional else 1, self.batch_first, self.reverse)

    def plain_weights(self) -> list[list[Tensor]] | None:
        """The weights of all directions for each layer, straight from `_parameters`; None: one is not there, or not of
        class Tensor or Parameter."""
        step, names = 2 if self.bidirectional else 1, self._all_weights
        try:
            weights = [
                [cast(Tensor, self._parameters[name]) for group in names[i : i + step] for name in group]
                for i in range(0, len(names), step)
            ]
        except KeyError:  # parametrized
            return None
        plain = all(type(tensor) in (Tensor, nn.Parameter) for layer in weights for tensor in layer)
        return weights if plain else None

    def _forward_packed(
        self, packed: PackedSequence, hx: Tensor | None, weights: list[list[Weights]]
    ) -> tuple[PackedSequence, Tensor]:
        """Pad, run and pack again: rows stay sorted in between, and states are permuted by the packing's indices."""
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
        """Every layer's output, and the states of all layers, over x [B, T, I], or [B, 1, I] repeated `frames` times.

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
        h_n = torch.cat(finals) if len(finals) > 1 else finals[0]
        if x.device.type != "cpu" or h_n.dtype == dtype:
            return outputs, h_n
        # Under autocast torch's CPU GRU returns the dtype of the state; cuDNN's does not.
        return [output.to(dtype) for output in outputs], h_n.to(dtype)

    def _weights(self) -> list[list[Weights]]:
        """By layer and direction; read by name each time: functional_call and parametrizations replace attributes."""
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [[self._direction(f"l{layer}{suffix}") for suffix in suffixes] for layer in range(self.num_layers)]

    def _direction(self, name: str) -> Weights:
        w_ih, w_hh = getattr(self, f"weight_ih_{name}", None), getattr(self, f"weight_hh_{name}", None)
        biases = (None, None)
        if self.bias:
            biases = getattr(self, f"bias_ih_{name}", None), getattr(self, f"bias_hh_{name}", None)
        return cast("Weights", (w_ih, w_hh, *biases))  # any of them may be None; _fits checks

    def _state_shape(self, input: Tensor | PackedSequence) -> tuple[int, ...]:
        """The shape that hx must have for this input."""
        states = self.num_layers * (2 if self.bidirectional else 1)
        if isinstance(input, PackedSequence):
            return (states, int(input.batch_sizes[0]), self.hidden_size)
        if input.dim() == 2:
            return (states, self.hidden_size)
        return (states, input.size(0 if self.batch_first else 1), self.hidden_size)

    def _fits(self, input: Tensor | PackedSequence, hx: Tensor | None, weights: list[list[Weights]]) -> bool:
        """Whether sizes, dtypes and devices are those that the layers take, and there is a frame to compute."""
        x = input.data if isinstance(input, PackedSequence) else input
        dims = (2,) if isinstance(input, PackedSequence) else (2, 3)
        if x.dim() not in dims or x.size(-1) != self.input_size or x.numel() == 0:
            return False
        if hx is not None and hx.shape != self._state_shape(input):
            return False
        device, dtypes = x.device, precision.AUTOCAST_DTYPES if precision.autocasts(x) else (x.dtype,)
        tensors: list[Any] = [] if hx is None else [hx]
        gates, channels = 3 * self.hidden_size, self.input_size
        for layer in weights:
            shapes = (gates, channels), (gates, self.hidden_size), (gates,), (gates,)
            for direction in layer:
                given = direction if self.bias else direction[:2]
                if not all(_is_dense(w) and w.shape == shape for w, shape in zip(given, shapes, strict=False)):
                    return False
                tensors += given
            channels = len(layer) * self.hidden_size
        return all(tensor.dtype in dtypes and tensor.device == device for tensor in tensors)

    def _refuse(
        self, input: Tensor | PackedSequence, hx: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Leave arguments that do not fit to torch.nn.GRU: mostly it raises its own error; an empty batch it serves."""
        output, h_n = super().forward(input, hx)
        if h_n.numel() and (lengths is not None or not self.reverse):
            raise RuntimeError("a weight has another shape than the layers take")  # torch broadcasts biases
        return output, h_n

    def _record(self, input: Any, hx: Any, lengths: Any) -> tuple[Tensor | PackedSequence, Tensor]:
        """Record this module as one call in the graph of torch.fx, which does so by itself for modules of torch.nn."""
        given = {name: value for name, value in (("hx", hx), ("lengths", lengths)) if value is not None}
        proxies = [value for value in (input, *given.values()) if isinstance(value, fx.Proxy)]
        if not proxies:
            _check_dense(input.data if isinstance(input, PackedSequence) else input, hx)
        tracer: Any = proxies[0].tracer
        if not (
            path := tracer.path_of_module(self)
        ):  # it is not part of a model: tracing goes into torch.nn.GRU, and fails there as it would for that
            return super().forward(input, hx)
        return tracer.create_proxy("call_module", path, (input,), given)  # type: ignore[no-any-return]

    def __prepare_scriptable__(self) -> nn.Module:
        """Raise a clear error when torch.jit.script calls this: it cannot compile `forward`."""
        swap = "call crrl.nn.decelerate(model) first, or " if type(self) is GRU else ""
        name = type(self).__qualname__
        raise RuntimeError(
            f"torch.jit.script cannot compile {name}: {swap}record the model by torch.jit.trace or torch.export"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "qconfig":  # torch.ao.quantization sets it on every module
            warnings.warn(QUANTIZED, stacklevel=2)


def _is_dense(tensor: Any) -> TypeGuard[Tensor]:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_nested


def _check_dense(input: Any, hx: Any, name: str = "input") -> None:
    """Raise TypeError unless `input`, and `hx` if it is not None, are dense tensors."""
    for place, tensor in ((name, input), *([] if hx is None else [("hx", hx)])):
        if not isinstance(tensor, Tensor):
            kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
            raise TypeError(f"{place} must be a torch.Tensor, not {kind}: torch.as_tensor makes one")
        if tensor.is_nested:
            raise TypeError(
                f"{place} must be a dense tensor, not a nested one: pad it (torch.nested.to_padded_tensor) and give "
                "its lengths, or pack it (torch.nn.utils.rnn.pack_sequence)"
            )
        if not _is_dense(tensor):
            raise TypeError(f"{place} must be a dense tensor, not of {tensor.layout}: .to_dense() makes one")


def row_lengths(lengths: Lengths | None) -> Tensor | None:
    """`lengths` as int64 [B]; None stays None.

    Raises:
        ValueError: they are not integers.
    """
    if lengths is None or (isinstance(lengths, Tensor) and lengths.dtype == torch.int64):
        return lengths
    if np.ma.is_masked(lengths):
        raise ValueError("lengths must be integers, one for each row: some of these are masked")
    try:
        tensor = lengths if isinstance(lengths, Tensor) else torch.tensor(lengths)  # a copy: arrays may change
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"lengths must be integers, one for each row: {error}") from error
    if tensor.numel() == 0:  # an empty list becomes float32
        return tensor.to(torch.int64)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise ValueError(f"lengths must be integers, one for each row, not {tensor.dtype}")
    return tensor.to(torch.int64)
