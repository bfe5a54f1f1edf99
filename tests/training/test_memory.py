"""What a training takes, told before it is taken."""

from __future__ import annotations

import re
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crrl.config import Config
from crrl.errors import CrrlError
from crrl.methods import METHODS, Method
from crrl.models import Encoder
from crrl.optim import FlatSGD
from crrl.recipes import preset
from crrl.reproduction.plan import changed
from crrl.training import memory
from crrl.training.loop import MOST_STEPS, Schedule
from crrl.training.memory import check_memory, memory_of
from crrl.training.phases import build_module

CPU = torch.device("cpu")


def settings(**sizes: Any) -> Config:
    return changed(replace(preset(), method="crrl"), sizes)


def check(config: Config, batch: int = 8, frames: int = 10) -> None:
    check_memory(config, METHODS[config.method], 15, batch, frames, CPU)


@pytest.mark.parametrize(
    ("sizes", "option"),
    [
        ({"hidden_size": 10**6}, "--hidden-size 1000000"),
        ({"decoder_hidden": 2**20}, "--decoder-hidden 1048576"),
        ({"queue_size": 2**31}, "--queue-size 2147483648"),
    ],
)
def test_sizes_beyond_the_memory_are_refused_before_it_is_taken(sizes: dict[str, int], option: str) -> None:
    since = time.process_time()
    with pytest.raises(CrrlError, match=rf"^training with .*{option}.* GB of memory, but cpu has .*: give smaller"):
        check(settings(**sizes))
    assert time.process_time() - since < 5


def test_a_batch_beyond_the_memory_is_refused() -> None:
    check(settings())
    with pytest.raises(CrrlError, match="--batch-size 10000000"):
        check(settings(), batch=10**7, frames=100)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_taken_at_least_is_what_weights_gradients_and_momentum_take(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(settings(hidden_size=6, queue_size=5), method=method)
    most = 0
    for spec in METHODS[config.method]:
        module = build_module(spec, config, 15, Encoder(15, 6) if spec.start == "previous" else None)
        optimizer = FlatSGD([each for each in module.parameters() if each.requires_grad], lr=0.1, momentum=0.9)
        own = sum(each.nbytes for each in [*module.parameters(), *module.buffers()])
        most = max(most, own + optimizer.gradients.nbytes + optimizer.flat.nbytes)
    states = 8 * 10 * 4 * 6 * 4
    monkeypatch.setattr(memory, "memory_of", lambda device: most + states)
    check(config)
    monkeypatch.setattr(memory, "memory_of", lambda device: most + states - 1)
    with pytest.raises(CrrlError, match="GB of memory, but"):
        check(config)


def test_a_limit_of_the_process_or_its_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_of(CPU)
    assert whole > 1 << 28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    assert memory_of(CPU) >= whole
    limit.write_text("1234567\n")
    assert memory_of(CPU) == 1234567
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 2000))
    assert memory_of(CPU) == 1000


def test_more_steps_than_there_is_memory_for_are_refused() -> None:
    def schedule(epochs: int) -> Schedule:
        return Schedule(40, epochs, 8, True, "sgd", 0.1, "constant", 0.0, 0)

    assert schedule(MOST_STEPS // 5).steps == MOST_STEPS
    said = re.escape(f"1000001 epochs of 40 clips are 5000005 steps, more than {MOST_STEPS}: give fewer epochs")
    with pytest.raises(CrrlError, match=said):
        schedule(MOST_STEPS // 5 + 1)


def test_runs_side_by_side_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(hidden_size=64)
    phases = METHODS[config.method]
    monkeypatch.setattr(memory, "memory_of", lambda _: 5_000_000)
    check_memory(config, phases, 15, 8, 10, CPU)
    with pytest.raises(CrrlError, match=r"GB of memory, 9 side by side .* or fewer runs"):
        check_memory(config, phases, 15, 8, 10, CPU, together=9)
