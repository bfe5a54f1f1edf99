"""How long training will take, from a few trial steps of each phase."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from crrl.config import Config
from crrl.data import ClipTensors
from crrl.methods import PhaseSpec
from crrl.models import Encoder
from crrl.training.loop import Schedule
from crrl.training.phases import Phase, build_module
from crrl.training.ranks import Ranks
from crrl.training.step import Step

STEPS = 4
"""Trial steps of each phase; the first allocates memory and is not timed."""


def phase_seconds(
    spec: PhaseSpec, config: Config, schedule: Schedule, tensors: ClipTensors, train: torch.Tensor, yaw: float
) -> float:
    """Seconds that a phase takes on a CPU, in one process; the random state is restored.

    The teacher is left out: its features are computed once, in little time.

    Args:
        train: int64 [N], the training clips. yaw: how far clips are turned, in degrees.
    """
    with torch.random.fork_rng([]):
        previous = Encoder(tensors.channels, config.encoder.hidden_size) if spec.start == "previous" else None
        alone, ranks = replace(spec, teacher=False), Ranks()
        module = build_module(alone, config, tensors.channels, previous).train()
        phase = Phase(alone, module, ranks, None, yaw, config.cml.velocity_scale, config.takes)
        optimizer, clips = schedule.make_optimizer(phase), min(schedule.batch_size, len(train))
        rates = schedule.rates(optimizer, steps=1).float().repeat(STEPS, 1)
        step = Step(phase, optimizer, tensors, rates, ranks, False, config.precision == "bf16")
        step.begin_epoch(train[torch.randint(len(train), (STEPS * clips,))], 0)
        times = []
        for _ in range(STEPS):
            begin = time.perf_counter()
            step(ranks.share(clips), full=False)
            times.append(time.perf_counter() - begin)
    return schedule.steps * min(times[1:])
