"""The operators on this CPU, each backend against the reference and the code one would write first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crrl import ops
from crrl.nn import GRU
from crrl.reference.motion import velocity


@pytest.mark.parametrize(("name", "channels", "longest"), [("NW-UCLA", 60, 50), ("NTU", 150, 60)])
def test_ragged_gather(compare: Callable[..., None], name: str, channels: int, longest: int) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(10, longest + 1, (1000,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    frames = torch.randn(int(offsets[-1]), channels)
    index = torch.randperm(1000)[:32]
    frames_max = int(lengths[index].max())

    def backend(choice: str) -> list[Tensor]:
        with ops.use_backends(f"ragged_gather={choice}"):
            x, v, _ = ops.ragged_gather(frames, offsets, index, frames_max, with_velocity=True)
        assert v is not None
        return [x, v]

    def collate() -> list[Tensor]:
        clips = [frames[offsets[i] : offsets[i + 1]] for i in index.tolist()]
        x = pad_sequence(clips, batch_first=True)
        return [x, velocity(x, lengths[index])]

    peers = {"cpu": lambda: backend("cpu"), "reference": lambda: backend("reference"), "per-clip collate": collate}
    compare(f"ragged gather + velocity, {name}, B=32", peers, tolerance=0)


@pytest.mark.parametrize(
    ("name", "channels", "shortest", "longest"), [("NW-UCLA, ragged", 60, 12, 50), ("NTU, full", 150, 60, 60)]
)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_encoder(
    compare: Callable[..., None], name: str, channels: int, shortest: int, longest: int, backward: bool
) -> None:
    torch.manual_seed(0)
    gru = GRU(channels, 256, num_layers=2, bidirectional=True, batch_first=True)
    lengths = torch.randint(shortest, longest + 1, (32,))
    lengths[0] = longest
    x = torch.randn(32, longest, channels)

    def backend(choice: str) -> list[Tensor]:
        with ops.use_backends(f"gru_layer={choice}"), torch.set_grad_enabled(backward):
            h, _ = gru(x, lengths=lengths)
            return [h, *torch.autograd.grad(h.square().mean(), list(gru.parameters()))] if backward else [h]

    peers = {choice: (lambda choice=choice: backend(choice)) for choice in ("cpu", "torch", "reference")}
    direction = "forward+backward" if backward else "forward"
    # fp32 sums in another order; the reference's own distance from fp64 is of this size.
    compare(f"encoder {direction}, {name}, B=32, H=256", peers, tolerance=2e-5)
