"""What the tests of kernels share: forcing an instruction set, and running on several numbers of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from crrl.ops import cpu


@pytest.fixture(params=cpu.FLOAT_ISAS)
def float_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force an instruction set; skips where the processor has not got it."""
    native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    isas = cpu.GRU_ISAS[False]
    if isas.index(request.param) < isas.index(native.gru_isa(bf16=False)):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(cpu, "isa", request.param)
    return str(request.param)


@pytest.fixture
def on_threads() -> Callable[[Callable[[], Any]], list[Any]]:
    """on_threads(run, threads): what it returns on so many threads each, 1, 2 and 5 unless told."""

    def run_on_each(run: Callable[[], Any], threads: Sequence[int] = (1, 2, 5)) -> list[Any]:
        before, results = torch.get_num_threads(), []
        try:
            for count in threads:
                torch.set_num_threads(count)
                results.append(run())
        finally:
            torch.set_num_threads(before)
        return results

    return run_on_each
