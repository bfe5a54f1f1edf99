"""Sequence Reconstructor (Section III-A, Eq. 1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from crrl.errors import CrrlError
from crrl.models.layers import Encoder
from crrl.nn import GRU
from crrl.reference.losses import reconstruction_loss
from crrl.reference.motion import take_frames


class Decoder(nn.Module):
    """Two-layer unidirectional GRU that unrolls one hint, repeated T times, into a sequence.

    Args:
        features: size of a hint. channels: J·3. dropout: between layers, in training.
        hidden_size: GRU units, followed by a linear projection to J·3; None: the GRU's hidden state, J·3 wide and
            within (-1, 1), is the output.
    """

    def __init__(self, features: int, channels: int, hidden_size: int | None, dropout: float = 0.2):
        super().__init__()
        self.gru = GRU(features, hidden_size or channels, num_layers=2, dropout=dropout, batch_first=True)
        self.output = nn.Linear(hidden_size, channels) if hidden_size else nn.Identity()

    def unroll(self, hints: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """The GRU's states [B, frames, H] from hints [B, features]; row b is valid in its first lengths[b] frames."""
        states, _ = self.gru.unroll(hints, frames, lengths=lengths)
        return states


class SequenceReconstructor(nn.Module):
    """An encoder and a decoder that recites the clip forward, in reverse, or both.

    Attributes:
        compiled: compile the decoder and its loss by torch.compile, as one graph for batches of any size. torch's own
            GRU would be unrolled frame by frame, so it stays outside, and only what follows it is compiled. If the
            compiler fails, a warning says so once and this becomes False.
    """

    compiled = False
    _tried = False

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        directions: Sequence[Literal["forward", "reverse"]] = ("forward", "reverse"),
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self._directions = directions

    def decode(self, h: Tensor, lengths: Tensor) -> Tensor:
        """The decoder's states [directions·B, T, H] for h [B, T, D]: from h_1 forward, from h_T in reverse.

        h_T is at each row's last valid frame. Both directions are decoded as one batch (Algorithm 1, lines 24 and 25).
        """
        last = lengths[:, None] - 1
        hints = [h[:, 0] if side == "forward" else take_frames(h, last)[:, 0] for side in self._directions]
        return self.decoder.unroll(torch.cat(hints), lengths.repeat(len(hints)), h.shape[1])

    def reconstruct(self, h: Tensor, lengths: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x̂ and the reversed x̂, [B, T, J·3] each, for h [B, T, D]; None for a direction that is not decoded."""
        return self.sequences(self.decode(h, lengths))

    def sequences(self, states: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The forward and the reverse sequences [B, T, J·3] of the decoder's states [directions·B, T, H]."""
        decoded = self.decoder.output(states).chunk(len(self._directions))
        by_direction = dict(zip(self._directions, decoded, strict=True))
        return by_direction.get("forward"), by_direction.get("reverse")

    def loss_r(self, x: Tensor, h: Tensor, lengths: Tensor) -> Tensor:
        """L_r (Eq. 1), a scalar, of reciting x [B, T, J·3], coordinates or velocity, from h [B, T, D]."""
        if self.compiled:
            try:
                if not self._tried:
                    self._try(x, h, lengths)
                return self._compiled_loss(x, h, lengths)
            except CrrlError:
                raise  # from a kernel, not from the compiler
            except Exception as error:
                self.compiled = False
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                warnings.warn(f"the decoder cannot be compiled, it runs eagerly: {reason}", RuntimeWarning, 2)
        return _loss_of_hints(self, x, h, lengths)

    def _try(self, x: Tensor, h: Tensor, lengths: Tensor) -> None:
        """Run one forward and backward pass and drop the results: the backward pass is compiled when it first runs."""
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            start = h.detach().requires_grad_()
            leaves = [start, *(weight for weight in self.decoder.parameters() if weight.requires_grad)]
            torch.autograd.grad(self._compiled_loss(x, start, lengths), leaves, allow_unused=True)
        self._tried = True

    def _compiled_loss(self, x: Tensor, h: Tensor, lengths: Tensor) -> Tensor:
        with torch._dynamo.config.patch(allow_rnn=True):  # otherwise torch refuses subclasses of torch.nn.GRU
            if self.decoder.gru.backend(h)[0] in ("torch", "reference"):
                return _compiled(_loss_of_states)(self, x, self.decode(h, lengths), lengths)
            return _compiled(_loss_of_hints)(self, x, h, lengths)


def _loss_of_states(model: SequenceReconstructor, x: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
    return reconstruction_loss(x, *model.sequences(states), lengths)


def _loss_of_hints(model: SequenceReconstructor, x: Tensor, h: Tensor, lengths: Tensor) -> Tensor:
    return _loss_of_states(model, x, model.decode(h, lengths), lengths)


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=True, fullgraph=True)
