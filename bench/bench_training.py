"""Whole training steps with --fused, with it but torch's GRU, without it (the reference), and straightforwardly."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.cases import Run
from bench.rows import Row
from bench.straightforward import Contrast, Reconstruction, Stepper
from bench.timing import Contender
from crrl import ops
from crrl.data import Batch, Clips, ClipTensors
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.optim import FlatAdam, views
from crrl.train import set_up_process
from crrl.training.phases import ContrastPhase, Phase, ReconstructionPhase
from crrl.training.ranks import Ranks
from crrl.training.step import Step

BATCH = 32


def clip_tensors() -> ClipTensors:
    """256 clips of the size of NW-UCLA's: 20 joints, 12 to 50 frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, 51, (256,), generator=generator).tolist()
    clips = [torch.rand(length, 20, 3, generator=generator).numpy() * 2 - 1 for length in lengths]
    made = Clips.from_arrays(clips, labels=[0] * 256, names=[str(i) for i in range(256)], class_names=["any"])
    return ClipTensors(made, torch.device("cpu"))


class FixedTeacher:
    """Features of ones: a teacher without dropout computes its own once and for all, before training."""

    def features(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch.x), 512)


def contrast_phase() -> ContrastPhase:
    return ContrastPhase(ContrastiveMotionLearner(Encoder(60, dropout=0), 64, 0.1, 0.999, 1.0), Ranks())


def reconstruction_phase() -> ReconstructionPhase:
    reconstructor = SequenceReconstructor(Encoder(60, dropout=0), Decoder(512, 60, 256, dropout=0))
    return ReconstructionPhase(InformationFuser(reconstructor, 2.0), FixedTeacher())  # type: ignore[arg-type]


def straightforward(phase: Phase, tensors: ClipTensors, index: Tensor) -> Stepper:
    module = copy.deepcopy(phase.module)
    if isinstance(module, ContrastiveMotionLearner):
        return Contrast(module, tensors, index)
    assert isinstance(module, InformationFuser)
    return Reconstruction(module, torch.ones(len(index), 512), tensors, index)


def stepper(start: Phase, tensors: ClipTensors, index: Tensor, policy: str, bf16: bool = False) -> Run:
    """A step of Adam at learning rate 0 from `start`, by the backends of this policy: the loss and all gradients."""
    phase = copy.deepcopy(start)
    parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
    optimizer = FlatAdam(parameters, lr=0, follow=phase.follow, spare=len(phase.losses))
    rates = torch.tensor([optimizer.rates(0.0, 0.9, 1)])
    step = Step(phase, optimizer, tensors, rates, Ranks(), bf16=bf16)

    def run() -> list[Tensor]:
        step.begin_epoch(index, 0)
        step.number.zero_()
        with ops.use_backends(policy):
            step(Ranks().share(len(index)), full=True)
        return [step.loss, *views(optimizer.gradients, parameters)]

    return run


POLICIES = {"crrl": "auto", "torch.nn.GRU": "gru_layer=torch", "reference": "reference"}
FP32 = 1e-4
"""Losses and gradients of a whole step, each side's sums in an order of its own."""


@pytest.mark.parametrize(("name", "make"), [("CML", contrast_phase), ("SER+IF", reconstruction_phase)])
def test_training_step(compare: Callable[..., None], name: str, make: Callable[[], Phase]) -> None:
    set_up_process(torch.device("cpu"))
    torch.manual_seed(0)
    tensors, start, index = clip_tensors(), make(), torch.arange(BATCH)
    contenders = [Contender(peer, stepper(start, tensors, index, policy), FP32) for peer, policy in POLICIES.items()]
    contenders.append(Contender("straightforward", straightforward(start, tensors, index), FP32))
    row = Row("training step, NW-UCLA size, B=32", name, bar="straightforward")
    compare(row, contenders, stepper(start, tensors, index, "reference")())


@pytest.mark.parametrize(("name", "make"), [("CML", contrast_phase), ("SER+IF", reconstruction_phase)])
def test_training_step_in_bf16(compare: Callable[..., None], name: str, make: Callable[[], Phase]) -> None:
    set_up_process(torch.device("cpu"))
    torch.manual_seed(0)
    tensors, start, index = clip_tensors(), make(), torch.arange(BATCH)
    contenders = [
        # Rounding operands to bfloat16 is the error of both: ours is to be no more than twice the other's.
        Contender("crrl", stepper(start, tensors, index, "auto", bf16=True), 2, relative_to="torch.nn.GRU"),
        Contender("torch.nn.GRU", stepper(start, tensors, index, "gru_layer=torch", bf16=True), 0.1),
        Contender("straightforward fp32", straightforward(start, tensors, index), FP32),
    ]
    row = Row("training step, NW-UCLA size, B=32, bf16", name, dtype="bf16", bar="straightforward fp32")
    compare(row, contenders, stepper(start, tensors, index, "reference")())


def test_decoder(compare: Callable[..., None]) -> None:
    """The decoder and its loss, forward and backward: as it is, and by torch.compile."""
    torch.manual_seed(0)
    start = reconstruction_phase().module.reconstructor
    batch = clip_tensors().batch(torch.arange(BATCH))
    h = start.encoder(batch.x, batch.lengths).detach()

    def decoding(policy: str, compiled: bool) -> Run:
        part, hints = copy.deepcopy(start), h.clone().requires_grad_()
        part.compiled = compiled

        def run() -> list[Tensor]:
            with ops.use_backends(policy):
                loss = part.loss_r(batch.x, hints, batch.lengths)
                return [loss.detach(), *torch.autograd.grad(loss, [hints, *part.decoder.parameters()])]

        return run

    contenders = [
        Contender("crrl", decoding("auto", compiled=False), FP32),
        Contender("torch.compile", decoding("auto", compiled=True), FP32),
        Contender("reference", decoding("reference", compiled=False), FP32),
    ]
    compare(Row("decoder and loss, forward + backward", "NW-UCLA, B=32"), contenders, decoding("reference", False)())
