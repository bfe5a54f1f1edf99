"""The exchange that the bench times, on the emulated GPU: every word comes, in whatever order threads and sends go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import gpu_exchange, timing
from bench.gpu_exchange import GATHER, KINDS, SCATTER, WAYS, Exchange
from bench.machine import NATIVE

CPU = torch.device("cpu")
L2 = "l2 "
CASES = [
    *(Exchange(through + way, itemsize, 4, 2, 5) for through in ("", L2) for way, itemsize in KINDS),
    *(Exchange(way, 4, 8, 1, 4) for way in WAYS),
    *(Exchange(through + GATHER, 2, 16, 1, 3) for through in ("", L2)),
    *(Exchange(way, 4, 2, 1, 5) for way in WAYS),
    *(Exchange(L2 + way, 4, 1, 1, 5) for way in (GATHER, SCATTER)),
]


@pytest.fixture(scope="module")
def emulated_exchange(build: Callable[..., ModuleType]) -> ModuleType:
    """bench/native/exchange.cu with its kernels on this processor."""
    sources = [NATIVE / "exchange.cu", NATIVE / "exchange_module.cpp", Path(__file__).parent / "host/primitives.cpp"]
    return build("crrl_bench_exchange", sources, ["CRRL_EMULATED"])


@pytest.fixture
def native(emulated_exchange: ModuleType) -> Iterator[ModuleType]:
    yield emulated_exchange
    emulated_exchange.set_fault()
    emulated_exchange.set_schedule(0)


def ended(native: ModuleType, case: Exchange) -> np.ndarray:
    return gpu_exchange.launcher(native, CPU, case)()[0].numpy().view(np.uint32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_thread_ends_with_what_it_should_under_any_schedule(native: ModuleType, case: Exchange) -> None:
    expected = gpu_exchange.proof(case)
    for seed in range(6):
        native.set_schedule(seed)
        assert np.array_equal(ended(native, case), expected), seed


@pytest.mark.parametrize("way", WAYS)
def test_what_gets_lost_ends_in_a_report(native: ModuleType, way: str) -> None:
    case = Exchange(way, 4, 4, 1, 4)
    native.set_fault(*((0, 6) if way.startswith(L2) else (400, 0)))
    with pytest.raises(RuntimeError, match=r"waited too long|sends to it are under way"):
        gpu_exchange.launcher(native, CPU, case)()


def test_what_it_cannot_do_is_said(native: ModuleType) -> None:
    alone = (Exchange(way, 4, 1, 1) for way in (GATHER, SCATTER))
    others = (("by post", 4, 4), (GATHER, 3, 4), (SCATTER, 2, 4), (L2 + GATHER, 4, 17))
    for case in (*(Exchange(way, itemsize, blocks, 1) for way, itemsize, blocks in others), *alone):
        with pytest.raises(RuntimeError, match="no such exchange"):
            gpu_exchange.launcher(native, CPU, case)()


def test_a_row_of_the_bench_is_proven_before_it_is_timed(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_exchange, "ROUNDS", 3)
    monkeypatch.setattr(timing, "WARM_S", 0.0)
    monkeypatch.setattr(timing, "SERIES_S", 0.0)
    entry = gpu_exchange.exchange_entry(CPU, SCATTER, 4, 4, teams=2, module=lambda: native)
    found = timing.fill(entry, rounds=1)
    assert (found.refused, found.failed, found.absent) == (None, None, {})
    assert list(found.calls_ms) == [SCATTER, L2 + SCATTER]
