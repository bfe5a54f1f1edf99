"""Whole training steps with --fused, with it but torch's GRU, without it (the reference), and straightforwardly."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from bench.cases import Run, by_policy
from bench.rows import Row
from bench.steps import Training, clip_tensors, contrast_phase, decoded, reconstruction_phase, straightforward
from bench.timing import Contender
from crrl.train import set_up_process
from crrl.training.phases import Phase

BATCH = 32
CHANNELS = 60
"""NW-UCLA's 20 joints."""
CPU = torch.device("cpu")
POLICIES = {"crrl": "auto", "torch.nn.GRU": "gru_layer=torch", "reference": "reference"}
FP32 = 1e-4
"""Losses and gradients of a whole step, each side's sums in an order of its own."""


@pytest.mark.parametrize(("name", "make"), [("CML", contrast_phase), ("SER+IF", reconstruction_phase)])
def test_training_step(compare: Callable[..., None], name: str, make: Callable[[int], Phase]) -> None:
    set_up_process(CPU)
    torch.manual_seed(0)
    tensors, start, index = clip_tensors(20, 50, CPU), make(CHANNELS), torch.arange(BATCH)
    contenders = [Contender(peer, Training(start, tensors, index, policy), FP32) for peer, policy in POLICIES.items()]
    contenders.append(Contender("straightforward", straightforward(start, tensors, index), FP32))
    row = Row("training step, NW-UCLA size, B=32", name, bar="straightforward")
    compare(row, contenders, Training(start, tensors, index, "reference")())


@pytest.mark.parametrize(("name", "make"), [("CML", contrast_phase), ("SER+IF", reconstruction_phase)])
def test_training_step_in_bf16(compare: Callable[..., None], name: str, make: Callable[[int], Phase]) -> None:
    set_up_process(CPU)
    torch.manual_seed(0)
    tensors, start, index = clip_tensors(20, 50, CPU), make(CHANNELS), torch.arange(BATCH)
    contenders = [
        # Rounding operands to bfloat16 is the error of both: ours is to be no more than twice the other's.
        Contender("crrl", Training(start, tensors, index, "auto", bf16=True), 2, relative_to="torch.nn.GRU"),
        Contender("torch.nn.GRU", Training(start, tensors, index, "gru_layer=torch", bf16=True), 0.1),
        Contender("straightforward fp32", straightforward(start, tensors, index), FP32),
    ]
    row = Row("training step, NW-UCLA size, B=32, bf16", name, dtype="bf16", bar="straightforward fp32")
    compare(row, contenders, Training(start, tensors, index, "reference")())


def test_decoder(compare: Callable[..., None]) -> None:
    """The decoder and its loss, forward and backward: as it is, and by torch.compile."""
    torch.manual_seed(0)
    start = reconstruction_phase(CHANNELS).module.reconstructor
    batch = clip_tensors(20, 50, CPU).batch(torch.arange(BATCH))
    h = start.encoder(batch.x, batch.lengths).detach()

    def decoding(policy: str, compiled: bool = False) -> Run:
        part = copy.deepcopy(start)
        part.compiled = compiled
        return by_policy(decoded(part, batch.x, h, batch.lengths), policy)

    contenders = [
        Contender("crrl", decoding("auto"), FP32),
        Contender("torch.compile", decoding("auto", compiled=True), FP32),
        Contender("reference", decoding("reference"), FP32),
    ]
    compare(Row("decoder and loss, forward + backward", "NW-UCLA, B=32"), contenders, decoding("reference")())
