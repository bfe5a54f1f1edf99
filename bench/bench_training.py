"""Whole training steps with --fused, with it but torch's GRU, and without it (the reference), from the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.cases import Run
from bench.rows import Row
from bench.timing import Contender
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

    def stepper(policy: str) -> tuple[Phase, Run]:
        phase = copy.deepcopy(start)
        optimizer = torch.optim.Adam([p for p in phase.module.parameters() if p.requires_grad], lr=0)

        def step() -> list[Tensor]:
            with ops.use_backends(policy):
                loss, _ = phase.loss(tensors.batch(index, phase.with_velocity))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            return [loss.detach(), *gradients(phase.module)]

        return phase, step

    phase, reference = stepper("reference")
    flops = gru_flops(phase.module, reference)
    runs = {"crrl": stepper("auto")[1], "torch.nn.GRU": stepper("gru_layer=torch")[1], "reference": reference}
    row = Row("training step, NW-UCLA size, B=32", name, flops=flops, bar="reference")
    # Losses and gradients of a whole step in fp32, each side's sums in an order of its own.
    compare(row, [Contender(peer, run, limit=1e-4) for peer, run in runs.items()], reference())


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def gru_flops(module: nn.Module, step: Run) -> float:
    """FLOP of the GRUs' matrix products in one call of `step`, on valid frames only; the rest of it adds little."""
    total = 0.0

    def count(gru: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> None:
        nonlocal total
        assert isinstance(gru, nn.GRU)
        x, lengths = args[0], kwargs.get("lengths")
        valid = x.shape[0] * x.shape[1] if lengths is None else int(lengths.sum())
        for name, weight in gru.named_parameters():
            if weight.ndim == 2:  # W_ih or W_hh: forward, then the gradients of the weight and of what it was given
                given = not name.startswith("weight_ih_l0") or x.requires_grad
                times = 1 + (torch.is_grad_enabled() and weight.requires_grad) * (1 + given)
                total += 2.0 * valid * weight.numel() * times

    grus = [part for part in module.modules() if isinstance(part, nn.GRU)]
    hooks = [gru.register_forward_hook(count, with_kwargs=True) for gru in grus]
    step()
    for hook in hooks:
        hook.remove()
    return total
