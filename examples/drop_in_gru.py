"""A model of your own that reads sequences by torch.nn.GRU, made faster in one line: crrl.nn.accelerate.

python examples/drop_in_gru.py
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn

from crrl.nn import accelerate, decelerate


class Classifier(nn.Module):
    """Any model: here rows of different lengths, read both ways, to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(51, 128, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [B, T, 51], lengths [B] to logits [B, 10]."""
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, states = self.gru(rows)
        return self.head(torch.cat([states[-2], states[-1]], dim=1))


def step(model: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, float]:
    """Logits, and the seconds of a step forward and backward."""
    model.zero_grad()
    since = time.perf_counter()
    logits = model(x, lengths)
    logits.logsumexp(1).sum().backward()
    return logits.detach(), time.perf_counter() - since


def main(batch: int = 32, frames: int = 60) -> int:
    """Say what was replaced, how far results differ, and what a step takes before and after."""
    torch.manual_seed(0)
    model = Classifier()
    x, lengths = torch.randn(batch, frames, 51), torch.randint(frames // 2, frames + 1, (batch,))
    before, slow = min((step(model, x, lengths) for _ in range(3)), key=lambda each: each[1])
    gradient = model.gru.weight_ih_l0.grad.clone()

    for name, swapped, reason in accelerate(model):  # the same object, the same parameters: an optimizer keeps working
        print(f"{name}: {'crrl.nn.GRU' if swapped else 'as it was'}, {reason}")
    after, fast = min((step(model, x, lengths) for _ in range(3)), key=lambda each: each[1])
    print(f"logits differ by {(after - before).abs().max():.1e}", end=", ")
    print(f"gradients by {(model.gru.weight_ih_l0.grad - gradient).abs().max():.1e}")
    print(f"a step takes {1000 * slow:.0f} ms before, {1000 * fast:.0f} ms after")

    decelerate(model)  # and back, for what knows torch.nn.GRU by its class
    return 0


if __name__ == "__main__":
    sys.exit(main())
