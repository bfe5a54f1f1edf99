"""Threads of a CPU that take a chain through time together, each some of the units: when, and that bits stay."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from crrl.ops import cpu
from crrl.ops.gru import layer
from crrl.reference.gru import Weights

native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")

KINDS = [(dtype, name) for dtype in (torch.float32, torch.bfloat16) for name in cpu.GRU_ISAS[dtype == torch.bfloat16]]
THREADS = (3, 16)
SHAPES = {  # lengths, frames, H, directions
    "one row": ([6], 6, 512, 1),
    "ragged rows": ([7, 3, 5], 7, 1000, 2),
    "more rows than a tile has": ([2, 1] * 17, 2, 1024, 1),
}


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.dtype, str]:
    """Force an instruction set for a dtype; skips where the processor has not got it."""
    dtype, name = request.param
    best, isas = native.gru_isa(bf16=dtype == torch.bfloat16), cpu.GRU_ISAS[dtype == torch.bfloat16]
    if best is None or isas.index(name) < isas.index(best):
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setattr(cpu, "isa", name)
    return dtype, name


def crew_of(shape: str, kind: tuple[torch.dtype, str], threads: int) -> int:
    lengths, frames, hidden, directions = SHAPES[shape]
    size, _, _ = native.gru_crew(len(lengths), frames, hidden, directions, kind[0] == torch.bfloat16, threads, kind[1])
    return int(size)


def results(shape: str, dtype: torch.dtype, repeated: bool) -> list[Tensor]:
    """Outputs, the same without gradient, and the gradients of x, h0 and all weights."""
    lengths, frames, hidden, directions = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return (torch.rand(*size, generator=generator) - 0.5).mul(0.2).to(dtype).requires_grad_()

    x, h0 = draw(len(lengths), 1 if repeated else frames, 9), draw(directions, len(lengths), hidden)
    weights: list[Weights] = [
        (draw(3 * hidden, 9), draw(3 * hidden, hidden), draw(3 * hidden), draw(3 * hidden)) for _ in range(directions)
    ]
    given = torch.tensor(lengths)
    y, h_n = layer.gru_layer(x, given, weights, h0, frames=frames)
    leaves = [x, h0, *(tensor for each in weights for tensor in each if tensor is not None)]
    gradients = torch.autograd.grad([y, h_n], leaves, [torch.ones_like(y), torch.ones_like(h_n)])
    with torch.no_grad():
        inferred = layer.gru_layer(x, given, weights, h0, frames=frames)
    return [y, h_n, *inferred, *gradients]


@pytest.mark.parametrize("repeated", [False, True], ids=["frames", "one frame repeated"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_crew_gives_the_bits_of_one_thread(
    shape: str, repeated: bool, kind: tuple[torch.dtype, str], on_threads: Callable[..., list[Any]]
) -> None:
    alone, *others = on_threads(lambda: results(shape, kind[0], repeated), (1, *THREADS))
    assert crew_of(shape, kind, 1) == 1 < max(crew_of(shape, kind, threads) for threads in THREADS)
    for other in others:
        assert all(torch.equal(got, want) for got, want in zip(other, alone, strict=True))


def test_few_rows_and_large_layers_are_taken_by_crews_and_many_rows_of_small_layers_are_not(
    kind: tuple[torch.dtype, str],
) -> None:
    dtype, isa = kind

    def crew(rows: int, hidden: int, directions: int, threads: int) -> int:
        return int(native.gru_crew(rows, 60, hidden, directions, dtype == torch.bfloat16, threads, isa)[0])

    assert crew(1, 512, 1, 4) == 4
    assert crew(1, 256, 2, 2) == 1  # a direction for each
    assert crew(256, 128, 2, 4) == 1
    assert crew(8, 32, 1, 16) == 1  # 32 units are not shared


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("hidden", [128, 256, 1024])
def test_more_threads_are_never_expected_to_take_longer(rows: int, hidden: int, kind: tuple[torch.dtype, str]) -> None:
    times = [
        native.gru_crew(rows, 60, hidden, 2, kind[0] == torch.bfloat16, threads, kind[1])[2]
        for threads in (1, 2, 4, 8, 16, 32)
    ]
    assert all(more <= 1.25 * fewer for fewer, more in pairwise(times))  # a crew is taken where it is clearly faster


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"hidden": 0}, {"threads": 0}, {"directions": 3}, {"isa": "sse"}])
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    given = {"batch": 1, "frames": 1, "hidden": 8, "directions": 1, "bf16": False, "threads": 1}
    with pytest.raises(ValueError, match=r"out of range|named sse"):
        native.gru_crew(**(given | wrong))
