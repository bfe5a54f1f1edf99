"""Training steps to be timed: the clips, both phases, a phase stepped on the same clips again, the decoder alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.cases import Run
from bench.straightforward import Contrast, Reconstruction, Stepper
from crrl import ops
from crrl.data import Batch, Clips, ClipTensors
from crrl.methods import METHODS
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.optim import FlatAdam, views
from crrl.training.phases import Phase
from crrl.training.ranks import Ranks
from crrl.training.step import Step

STEPS = 64
"""Steps between two beginnings of an epoch."""


def clip_tensors(joints: int, longest: int, device: torch.device) -> ClipTensors:
    """256 clips of 12 frames to the longest."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, longest + 1, (256,), generator=generator).tolist()
    clips = [torch.rand(length, joints, 3, generator=generator).numpy() * 2 - 1 for length in lengths]
    made = Clips.from_arrays(clips, labels=[0] * 256, names=[str(i) for i in range(256)], class_names=["any"])
    return ClipTensors(made, device)


class FixedTeacher:
    """Features of ones: a teacher computes its own once and for all, before training."""

    def __init__(self, features: int):
        self._features = features

    def features(self, batch: Batch) -> Tensor:
        return batch.x.new_ones(len(batch.x), self._features)


def contrast_phase(channels: int, hidden: int = 256) -> Phase:
    learner = ContrastiveMotionLearner(Encoder(channels, hidden, dropout=0), 64, 0.1, 0.999, 1.0)
    return Phase(METHODS["cml"][0], InformationFuser(learner=learner), Ranks())


def reconstruction_phase(channels: int, hidden: int = 256) -> Phase:
    encoder = Encoder(channels, hidden, dropout=0)
    reconstructor = SequenceReconstructor(encoder, Decoder(2 * hidden, channels, hidden, dropout=0))
    teacher = FixedTeacher(2 * hidden)
    return Phase(METHODS["crrl"][1], InformationFuser(reconstructor, 2.0), Ranks(), teacher)  # type: ignore[arg-type]


def moved(start: Phase, device: torch.device) -> Phase:
    """A copy on the device."""
    phase = copy.deepcopy(start)
    phase.module.to(device)
    return phase


def straightforward(start: Phase, tensors: ClipTensors, index: Tensor) -> Stepper:
    """The same step as it is written first, from a copy of the weights, where the clips lie."""
    module = moved(start, tensors.frames.device).module
    if module.learner is not None:
        return Contrast(module.learner, tensors, index)
    teacher = torch.ones(len(index), module.encoder.features, device=tensors.frames.device)
    return Reconstruction(module, teacher, tensors, index)


def decoded(model: SequenceReconstructor, x: Tensor, h: Tensor, lengths: Tensor) -> Run:
    """The decoder and L_r: the loss, and the gradients by h and the decoder's weights."""
    leaf, weights = h.detach().requires_grad_(), list(model.decoder.parameters())

    def run() -> list[Tensor]:
        loss = model.loss_r(x, leaf, lengths)
        return [loss.detach(), *torch.autograd.grad(loss, [leaf, *weights])]

    return run


class Training:
    """Steps of Adam at learning rate 0 from a copy of `start`, where the clips lie; a call is one step.

    Args:
        start: the phase. tensors: the clips. index: int64 [B], those of every batch. policy: of the backends.
        capture: replay each step as one CUDA graph. bf16: multiply matrices in bfloat16.
    """

    def __init__(
        self,
        start: Phase,
        tensors: ClipTensors,
        index: Tensor,
        policy: str,
        capture: bool = False,
        bf16: bool = False,
    ):
        phase, device = moved(start, tensors.frames.device), tensors.frames.device
        parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
        self.optimizer = FlatAdam(parameters, lr=0, follow=phase.follow, spare=len(phase.losses))
        rates = torch.tensor([self.optimizer.rates(0.0, 0.9, 1)]).repeat(STEPS, 1).to(device)
        self.step = Step(phase, self.optimizer, tensors, rates, Ranks(), capture, bf16)
        self.order, self.policy, self.share = index.repeat(STEPS).to(device), policy, Ranks().share(len(index))
        self._taken = STEPS

    def __call__(self) -> Sequence[Tensor]:
        """The loss of one step and all its gradients, in memory that the next one writes."""
        if self._taken == STEPS:
            self._taken = 0
            self.step.begin_epoch(self.order, 0)
            self.step.number.zero_()
        self._taken += 1
        with ops.use_backends(self.policy):
            self.step(self.share, full=True)
        return [self.step.loss, *views(self.optimizer.gradients, self.optimizer.parameters)]
