"""The other operators on this CPU, each backend against the reference and the code one would write first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.rows import Row
from bench.timing import Contender
from crrl import ops
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

    runs = {"crrl": lambda: backend("cpu"), "reference": lambda: backend("reference"), "per-clip collate": collate}
    contenders = [Contender(peer, run, limit=0) for peer, run in runs.items()]
    compare(Row("ragged gather + velocity", f"{name}, B=32"), contenders, backend("reference"))
