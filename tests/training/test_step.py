"""One training step in place: it never looks at a device's numbers, moves on by itself, and repeats to the bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.config import Config, ContrastConfig, EncoderConfig, ReconstructionConfig
from crrl.data import Batch, Clips, ClipTensors
from crrl.methods import METHODS, PhaseSpec
from crrl.models import Encoder
from crrl.optim import FlatAdam, FlatOptimizer
from crrl.training import fast_paths
from crrl.training.phases import Phase, build_module
from crrl.training.ranks import Ranks
from crrl.training.step import Step

LENGTHS = [7, 3, 12, 5, 9, 1, 4, 8]


SETTINGS = Config(
    encoder=EncoderConfig(hidden_size=6, dropout=0),
    cml=ContrastConfig(queue_size=10, momentum_encoder=0.99, momentum_mlp=0.9),
    ser=ReconstructionConfig(decoder_hidden=5, distill_weight=1.0),
)


class FixedTeacher:
    def features(self, batch: Batch) -> Tensor:
        return batch.x.new_ones(len(batch.x), 12)


def start(spec: PhaseSpec, yaw: float = 0.0, takes: bool = False) -> Phase:
    module = build_module(spec, SETTINGS, 9, previous=Encoder(9, 6, dropout=0))
    teacher = FixedTeacher() if spec.teacher else None
    return Phase(spec, module, Ranks(), teacher, yaw, takes=takes)  # type: ignore[arg-type]


SPECS = sorted({spec for phases in METHODS.values() for spec in phases}, key=str)
"""Every phase of every method."""
every_phase = pytest.mark.parametrize("spec", SPECS, ids=str)


def clips() -> Clips:
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, (length, 3, 3)).astype(np.float32) for length in LENGTHS]
    names = [str(i) for i in range(len(LENGTHS))]
    return Clips.from_arrays(arrays, labels=[0] * len(LENGTHS), names=names, class_names=["any"])


def make(phase: Phase, device: str = "cpu", max_norm: float = 0.0) -> tuple[Step, FlatOptimizer]:
    phase.module.to(device)
    parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
    optimizer = FlatAdam(parameters, follow=phase.follow, spare=len(phase.losses), max_norm=max_norm)
    rates = torch.tensor([optimizer.rates(1e-2, 0.9, step) for step in range(1, 7)])
    tensors = ClipTensors(clips(), torch.device(device))
    return Step(phase, optimizer, tensors, rates.to(device), Ranks()), optimizer


@every_phase
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_no_number_of_a_device_is_looked_at(spec: PhaseSpec, max_norm: float) -> None:
    """On the meta device there are no numbers: whatever asked for one would raise."""
    with ops.use_backends("gru_layer=torch"):
        step, _ = make(start(spec, yaw=45, takes=True), "meta", max_norm)
        step.begin_epoch(torch.zeros(8, dtype=torch.int64, device="meta"), 0)
        step(Ranks().share(4), full=True)
    assert step.loss.is_meta


@every_phase
def test_a_step_is_the_gradient_and_the_optimizers_step(spec: PhaseSpec) -> None:
    torch.manual_seed(0)
    phase = start(spec)
    twin = copy.deepcopy(phase)
    step, _ = make(phase)
    step.begin_epoch(torch.tensor([5, 2, 0, 7, 1, 3, 4, 6]), 4)
    state = torch.get_rng_state()
    step(Ranks().share(4), full=True)
    parameters = [parameter for parameter in twin.module.parameters() if parameter.requires_grad]
    torch.set_rng_state(state)  # the same augmentations
    loss, _ = twin.loss(ClipTensors(clips(), torch.device("cpu")).batch(torch.tensor([1, 3, 4, 6]), True), None)  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam(parameters, lr=1e-2).step()
    torch.testing.assert_close(step.loss, loss.detach())
    torch.testing.assert_close(step.sums[0], 4 * loss.detach().double(), check_dtype=False)
    for got, want in zip(phase.module.parameters(), twin.module.parameters(), strict=True):
        if got.requires_grad:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@every_phase
def test_it_finds_its_clips_and_rates_by_itself(spec: PhaseSpec) -> None:
    torch.manual_seed(0)
    step, optimizer = make(start(spec))
    order = torch.tensor([5, 2, 0, 7, 1, 3, 4, 6])
    step.begin_epoch(order, 0)
    place = step.order.data_ptr()
    weights = [optimizer.flat.clone()]
    for _ in range(2):
        step(Ranks().share(4), full=True)
        weights.append(optimizer.flat.clone())
    assert (int(step.number), int(step.position)) == (2, 8)
    step.begin_epoch(order.flip(0), 0)
    assert (step.order.data_ptr(), int(step.position)) == (place, 0)
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.contrast], ids=str)
def test_the_keys_follow_after_each_step_and_enter_the_queue(spec: PhaseSpec) -> None:
    torch.manual_seed(0)
    phase = start(spec)
    step, _ = make(phase)
    model = phase.module.learner
    assert model is not None
    before, queue = [key.clone() for key in model.key_encoder.parameters()], model.queue.clone()
    step.begin_epoch(torch.arange(8), 0)
    step(Ranks().share(4), full=True)
    for key, old, query in zip(model.key_encoder.parameters(), before, model.query_encoder.parameters(), strict=True):
        torch.testing.assert_close(key, 0.99 * old + 0.01 * query)
    assert int(model.pointer) == 4
    assert torch.equal(model.queue[4:], queue[4:])
    assert not torch.equal(model.queue[:4], queue[:4])


@pytest.mark.parametrize(
    ("device", "fused", "switch", "expected"),
    [
        ("cpu", True, "auto", ("eager", "eager")),
        ("cpu", True, "on", ("compiled", "eager")),
        ("cuda", False, "auto", ("eager", "eager")),
        ("cuda", False, "off", ("eager", "eager")),
        ("cuda", True, "auto", ("compiled", "captured")),
        ("cuda", True, "off", ("eager", "eager")),
        ("cuda", True, "on", ("compiled", "captured")),
    ],
)
def test_fast_paths_are_chosen_forced_and_forbidden(
    device: str, fused: bool, switch: str, expected: tuple[str, str]
) -> None:
    config = Config(fused=fused, compile=switch)  # type: ignore[arg-type]
    paths = fast_paths(config, torch.device(device))
    assert (paths["decoder"][0], paths["step"][0]) == expected
    assert all(reason for _, reason in paths.values())
