"""Training under bfloat16 autocast beside float32: the same batches give the same loss curve."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.data import Clips, ClipTensors
from crrl.methods import METHODS
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.ops import Case
from crrl.ops.gru import cpu as cpu_gru
from crrl.optim import FlatAdam
from crrl.training.phases import Phase
from crrl.training.ranks import Ranks
from crrl.training.step import Step

CHANNELS, STEPS = 30, 80


def clip_tensors() -> ClipTensors:
    """64 clips of 10 joints that swing, each with a frequency and a pose of its own, 12 to 30 frames."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for length in torch.randint(12, 31, (64,), generator=generator).tolist():
        pose, swing = torch.randn(2, 10, 3, generator=generator).mul(0.4).unbind()
        t = torch.arange(length)[:, None, None] * (0.1 + 0.4 * torch.rand(1, generator=generator))
        clips.append((pose + swing * t.sin()).float().numpy())
    made = Clips.from_arrays(clips, labels=[0] * 64, names=[str(i) for i in range(64)], class_names=["any"])
    return ClipTensors(made, torch.device("cpu"))


def contrast() -> Phase:
    learner = ContrastiveMotionLearner(Encoder(CHANNELS, 64, dropout=0), 64, 0.1, 0.999, 1.0)
    return Phase(METHODS["cml"][0], InformationFuser(learner=learner), Ranks())


def reconstruction() -> Phase:
    reconstructor = SequenceReconstructor(Encoder(CHANNELS, 64, dropout=0), Decoder(128, CHANNELS, 64, dropout=0))
    return Phase(METHODS["ser"][0], InformationFuser(reconstructor), Ranks())


def loss_curve(phase: Phase, tensors: ClipTensors, bf16: bool) -> Tensor:
    """The losses of STEPS steps of Adam, the weights in float32."""
    parameters = [p for p in phase.module.parameters() if p.requires_grad]
    optimizer = FlatAdam(parameters, lr=1e-3, follow=phase.follow, spare=len(phase.losses))
    rates = torch.tensor([optimizer.rates(1e-3, 0.9, step + 1) for step in range(STEPS)])
    step = Step(phase, optimizer, tensors, rates, Ranks(), bf16=bf16)
    order = torch.Generator().manual_seed(1)
    step.begin_epoch(torch.cat([torch.randperm(64, generator=order)[:16] for _ in range(STEPS)]), 0)
    losses = []
    for _ in range(STEPS):
        step(Ranks().share(16), full=True)
        losses.append(step.loss.clone())
    return torch.stack(losses)


@pytest.mark.parametrize("make", [contrast, reconstruction])
def test_a_run_in_bf16_follows_the_run_in_fp32(make: Callable[[], Phase]) -> None:
    able, reason = cpu_gru.supports(Case("cpu", torch.bfloat16))
    if not able:
        pytest.skip(reason)
    torch.manual_seed(0)
    tensors, start = clip_tensors(), make()
    with ops.use_backends("auto"):
        fp32, bf16 = (loss_curve(copy.deepcopy(start), tensors, narrow) for narrow in (False, True))
    assert fp32.max() - fp32.min() > 0.1 * fp32.mean()  # there is a curve to follow
    # Means over ten steps: 2^-8 is what one bfloat16 number is off by, and the runs part a little more each step.
    torch.testing.assert_close(bf16.view(-1, 10).mean(1), fp32.view(-1, 10).mean(1), rtol=0.02, atol=0)
