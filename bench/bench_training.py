"""Whole training steps with and without --fused, from the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crrl import ops
from crrl.data import Batch, Clips, ClipTensors
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.training.phases import ContrastPhase, Phase, ReconstructionPhase


def clip_tensors() -> ClipTensors:
    """256 clips of the size of NW-UCLA's: 20 joints, 12 to 50 frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, 51, (256,), generator=generator).tolist()
    clips = [torch.rand(length, 20, 3, generator=generator).numpy() * 2 - 1 for length in lengths]
    made = Clips.from_arrays(clips, labels=[0] * 256, names=[str(i) for i in range(256)], class_names=["any"])
    return ClipTensors(made, torch.device("cpu"))


def contrast_phase() -> Phase:
    return ContrastPhase(ContrastiveMotionLearner(Encoder(60, dropout=0), 64, 0.1, 0.999, 1.0))


def reconstruction_phase() -> Phase:
    class FixedTeacher:
        def features(self, batch: Batch) -> Tensor:
            return torch.ones(len(batch.x), 512)

    reconstructor = SequenceReconstructor(Encoder(60, dropout=0), Decoder(512, 60, 256, dropout=0))
    return ReconstructionPhase(InformationFuser(reconstructor, 2.0), FixedTeacher())  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "make"), [("CML", contrast_phase), ("SER+IF", reconstruction_phase)])
def test_training_step(compare: Callable[..., None], name: str, make: Callable[[], Phase]) -> None:
    torch.manual_seed(0)
    tensors, start, index = clip_tensors(), make(), torch.arange(32)

    def stepper(policy: str) -> Callable[[], list[Tensor]]:
        phase = copy.deepcopy(start)
        optimizer = torch.optim.Adam([p for p in phase.module.parameters() if p.requires_grad], lr=0)

        def step() -> list[Tensor]:
            with ops.use_backends(policy):
                loss, _ = phase.loss(tensors.batch(index, phase.with_velocity))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            return [loss.detach(), *gradients(phase.module)]

        return step

    peers = {"fused": stepper("auto"), "reference": stepper("reference")}
    compare(f"{name} step, NW-UCLA size, B=32", peers, tolerance=1e-4)


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
