"""The emulated GPU: what its primitives compute, that its orders find races, and that misuse is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
PATIENCE = 10**6
SEEDS = range(20)


@pytest.fixture(scope="session")
def module(build: Callable[..., ModuleType]) -> ModuleType:
    sources = [Path(__file__).with_name("primitives_module.cpp"), Path(__file__).parent / "host/primitives.cpp"]
    return build("crrl_cuda_primitives", sources)


@pytest.fixture
def gpu(module: ModuleType) -> Iterator[Any]:
    """The module, with all that tests set as it was at first."""

    def reset() -> None:
        module.set_schedule(0)
        module.set_fault(0, 0)
        module.set_device(9, 0, 132, 232448, True)

    reset()
    yield module
    reset()


# --- Numbers ---------------------------------------------------------------------------------------------------------

PATTERNS = np.arange(2**16, dtype=np.uint16)


def bfloat16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)


def hard(numbers: np.ndarray) -> np.ndarray:
    """Numbers in order, what lies halfway between neighbours, and the float32 numbers next to that; both signs."""
    numbers = numbers.astype(np.float64)
    halfway = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    values = [numbers.astype(np.float32), halfway, np.nextafter(halfway, np.inf), np.nextafter(halfway, -np.inf)]
    extreme = np.array([np.inf, np.nan, np.finfo(np.float32).max, np.finfo(np.float32).tiny, 1e-45, 0], np.float32)
    both = np.concatenate([*values, extreme])
    return np.concatenate([both, -both])


def assert_same_bits(found: np.ndarray, wanted: np.ndarray, nan: np.ndarray, nan_found: np.ndarray) -> None:
    assert nan.any()
    np.testing.assert_array_equal(nan_found, nan)
    np.testing.assert_array_equal(found[~nan], wanted[~nan])


def test_every_half_and_bfloat16_as_a_float(gpu: Any) -> None:
    half = PATTERNS.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(gpu.half_to_float(PATTERNS), half)  # NaN where NaN is
    brain = (PATTERNS.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(gpu.bfloat16_to_float(PATTERNS), brain)
    assert np.signbit(gpu.half_to_float(np.array([0x8000], np.uint16))).all()


def test_floats_to_half(gpu: Any) -> None:
    numbers = np.append(PATTERNS[:0x7C00].view(np.float16).astype(np.float32), np.float32(65536))
    x = hard(numbers)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    found = gpu.float_to_half(x)
    assert_same_bits(found, wanted.view(np.uint16), np.isnan(wanted), np.isnan(found.view(np.float16)))


def test_floats_to_bfloat16(gpu: Any) -> None:
    x = hard((PATTERNS[:0x7F80].astype(np.uint32) << 16).view(np.float32))
    found = gpu.float_to_bfloat16(x)
    assert_same_bits(found, bfloat16(x), np.isnan(x), np.isnan((found.astype(np.uint32) << 16).view(np.float32)))


def nearest_tf32(x: np.ndarray) -> np.ndarray:
    """10 bits of mantissa, exponents of float32, ties away from zero: in exact float64 arithmetic."""
    wide = np.abs(x.astype(np.float64))
    unit = 2.0 ** (np.maximum(np.frexp(wide)[1] - 1, -126) - 10)
    with np.errstate(over="ignore"):
        return np.copysign(np.floor(wide / unit + 0.5) * unit, x).astype(np.float32)


def test_floats_to_tf32(gpu: Any) -> None:
    finite = np.arange(0, 0x7F800000, 0x2000 * 7, dtype=np.uint32)  # every seventh TF32 number
    x = hard(np.unique(np.concatenate([finite, finite[:-7] + 0x2000])).view(np.float32))
    x = x[np.isfinite(x)]
    np.testing.assert_array_equal(gpu.float_to_tf32(x), nearest_tf32(x).view(np.uint32))
    assert gpu.float_to_tf32(np.float32(np.inf)) == 0x7F800000
    assert np.isnan(np.array(gpu.float_to_tf32(np.float32(np.nan)), np.uint32).view(np.float32))


# --- A warp's instructions -------------------------------------------------------------------------------------------

# PTX ISA, "Matrix Fragments for mma.m16n8k8" and "... m16n8k16": (row, column) of the i-th element a lane holds.


def a_of_k8(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + (8 if i in (1, 3) else 0), lane % 4 + (4 if i >= 2 else 0)


def b_of_k8(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 + 4 * i, lane // 4


def a_of_k16(lane: int, i: int) -> tuple[int, int]:
    row = lane // 4 if i in (0, 1, 4, 5) else lane // 4 + 8
    return row, lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_of_k16(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane // 4


def c_of(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 if i < 2 else lane // 4 + 8, lane % 4 * 2 + (i & 1)


def fragments(matrix: np.ndarray, count: int, place: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    return np.array([[matrix[place(lane, i)] for i in range(count)] for lane in range(32)])


def as_bits(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The bits of the numbers of this type that are nearest to x, and these numbers."""
    if kind == "tf32":
        near = nearest_tf32(x)
        return near.view(np.uint32), near
    if kind == "fp16":
        return x.astype(np.float16).view(np.uint16), x.astype(np.float16).astype(np.float32)
    return bfloat16(x), (bfloat16(x).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("kind", ["tf32", "fp16", "bf16"])
def test_products(gpu: Any, kind: str) -> None:
    rng = np.random.default_rng(0)
    k, a_of, b_of = (8, a_of_k8, b_of_k8) if kind == "tf32" else (16, a_of_k16, b_of_k16)
    for seed in SEEDS:
        gpu.set_schedule(seed)
        (a_bits, a), (b_bits, b) = (
            as_bits(rng.standard_normal(shape).astype(np.float32), kind) for shape in ((16, k), (k, 8))
        )
        c = rng.standard_normal((16, 8)).astype(np.float32)
        registers = [fragments(a_bits, k // 2, a_of), fragments(b_bits, k // 4, b_of)]  # 16 bits: two in a register
        a_registers, b_registers = (np.ascontiguousarray(x).view(np.uint32) for x in registers)
        error, found = gpu.mma(kind, a_registers, b_registers, fragments(c, 4, c_of))
        assert error is None
        np.testing.assert_allclose(found, fragments(c + a.astype(np.float64) @ b, 4, c_of), rtol=1e-5, atol=1e-5)


def test_tf32_products_drop_the_bits_that_tf32_has_not(gpu: Any) -> None:
    one = np.full((32, 4), np.float32(1.0).view(np.uint32) | 0x1FFF, np.uint32)
    _, found = gpu.mma("tf32", one, one[:, :2].copy(), np.zeros((32, 4), np.float32))
    np.testing.assert_array_equal(found, 8)


def test_shuffles(gpu: Any) -> None:
    mask, lane = np.indices((32, 32))
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error, found = gpu.shuffles()
        assert error is None
        np.testing.assert_array_equal(found, (lane ^ mask) + 100 * mask)


# --- Orders ----------------------------------------------------------------------------------------------------------


def reversed_blocks(blocks: int, threads: int) -> np.ndarray:
    return np.arange(blocks)[:, None] * 1000 + np.arange(threads)[::-1]


def test_a_block_that_synchronises_is_right_in_every_order(gpu: Any) -> None:
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error, found = gpu.reverse(True, 3, 256)
        assert error is None
        np.testing.assert_array_equal(found, reversed_blocks(3, 256))


def test_a_missing_sync_block_is_found(gpu: Any) -> None:
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error, found = gpu.reverse(False, 1, 256)
        assert error is None
        if not np.array_equal(found, reversed_blocks(1, 256)):
            assert np.isnan(found).any()  # what nobody had written yet
            return
    pytest.fail("no order showed the race")


def gathered(teams: int, blocks: int, threads: int, steps: int) -> np.ndarray:
    x = (np.arange(teams * blocks)[:, None] * 1000 + np.arange(threads)).astype(np.uint32)
    x = x.reshape(teams, blocks, threads)
    for _ in range(steps):
        sent = np.roll(x, -1, axis=2)
        for block in range(blocks):
            x = x * np.uint32(31) + sent[:, None, block]
    return x.reshape(teams * blocks, threads)


@pytest.mark.parametrize("way", ["cluster", "l2"])
def test_a_right_protocol_is_right_in_every_order(gpu: Any, way: str) -> None:
    teams = 2 if way == "cluster" else 1
    wanted = gathered(teams, 4, 64, 30)
    for seed in range(50):
        gpu.set_schedule(seed)
        error, status, found = gpu.gather(way, teams, 4, 64, 30, PATIENCE)
        assert (error, status) == (None, 0), seed
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "way",
    ["cluster, one buffer", "cluster, wrong parity", "cluster, no sync", "l2, one buffer", "l2, no sync"],
)
def test_a_broken_protocol_is_found(gpu: Any, way: str) -> None:
    wanted = gathered(1, 4, 64, 30)
    wrong = 0
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error, status, found = gpu.gather(way, 1, 4, 64, 30, PATIENCE)
        wrong += error is not None or status != 0 or not np.array_equal(found, wanted)
    assert wrong > 0


def test_a_large_team(gpu: Any) -> None:
    """As many threads as a real launch has: 16 blocks of 256."""
    error, status, found = gpu.gather("cluster", 1, 16, 256, 5, PATIENCE)
    assert (error, status) == (None, 0)
    np.testing.assert_array_equal(found, gathered(1, 16, 256, 5))


def test_the_same_seed_gives_the_same_run(gpu: Any) -> None:
    def run(seed: int) -> tuple[bytes, int]:
        gpu.set_schedule(seed)
        _, _, found = gpu.gather("l2, no sync", 1, 4, 64, 10, PATIENCE)
        return found.tobytes(), gpu.turns()

    assert run(7) == run(7)
    assert len({run(seed) for seed in SEEDS}) > 10


def test_shared_memory_is_nan_at_first(gpu: Any) -> None:
    error, found = gpu.unwritten(3)
    assert error is None
    assert np.isnan(found).all()


# --- Time and faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [10**3, 10**6, 10**15])
@pytest.mark.parametrize(("way", "fault"), [("cluster", (100, 0)), ("cluster", (1, 0)), ("l2", (0, 7))])
def test_a_lost_message_ends_in_a_timeout(gpu: Any, way: str, fault: tuple[int, int], patience: int) -> None:
    for seed in SEEDS:
        gpu.set_schedule(seed)
        gpu.set_fault(*fault)
        error, status, _ = gpu.gather(way, 1, 4, 64, 10, patience)
        assert (error, status) == (None, 1), seed
        error, status, _ = gpu.gather(way, 1, 4, 64, 10, patience)  # it was the only one
        assert (error, status) == (None, 0), seed


def test_no_time_passes_while_somebody_works(gpu: Any) -> None:
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error, waited = gpu.long_work(1000)
        assert (error, waited) == (None, 0)


# --- Misuse ----------------------------------------------------------------------------------------------------------

MISUSES = {
    "divergence": "divergence: ",
    "lane_gone": "lanes of its warp",
    "warp_skips_sync_block": "deadlock; .* wait at sync_block",
    "unbounded_wait": "wait for each other",
    "overrun": "wrote outside its shared memory",
    "send_outside": "sends to a place outside",
    "send_unaligned": "sends to a place outside .* or not aligned",
    "send_to_nobody": "sends to a block that the cluster has not",
    "expect_twice": "a second time in one phase",
    "no_init": "not initialised",
    "unaligned_load": "not aligned",
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_reported_in_every_order(gpu: Any, name: str) -> None:
    for seed in SEEDS:
        gpu.set_schedule(seed)
        error = gpu.misuse(name)
        assert error is not None
        with pytest.raises(RuntimeError, match=MISUSES[name]):
            raise RuntimeError(error)
        assert gpu.last_error() == error
    error, found = gpu.reverse(True, 2, 256)  # what was left behind is no trouble to others
    assert error is None
    np.testing.assert_array_equal(found, reversed_blocks(2, 256))
    assert gpu.last_error() == ""


def test_a_block_that_leaves_before_all_has_arrived_is_found(gpu: Any) -> None:
    errors = set()
    for seed in SEEDS:
        gpu.set_schedule(seed)
        errors.add((gpu.misuse("leaves_early") or "").split(": ")[-1])
    assert "sends to a block that has ended" in errors
    assert "ends its block while sends to it are under way" in errors


@pytest.mark.parametrize(
    ("launch", "error"),
    [
        ((0, 1, 32, 0, False), "no blocks"),
        ((1, 1, 0, 0, False), "1 to 1024 threads"),
        ((1, 1, 2048, 0, False), "1 to 1024 threads"),
        ((1, 1, 48, 0, False), "whole warps"),
        ((1, 1, 32, 232449, False), "more shared memory"),
        ((34, 17, 32, 0, False), "1 to 16 blocks"),
        ((6, 4, 32, 0, False), "not a multiple"),
        ((133, 1, 32, 0, True), "too many blocks"),
    ],
)
def test_a_launch_that_a_gpu_refuses(gpu: Any, launch: tuple[Any, ...], error: str) -> None:
    assert error in (gpu.launch(*launch) or "")


@pytest.mark.parametrize("launch", [(1, 1, 1024, 232448, False), (32, 16, 32, 0, False), (132, 1, 32, 0, True)])
def test_a_launch_that_just_fits(gpu: Any, launch: tuple[Any, ...]) -> None:
    assert gpu.launch(*launch) is None


def test_the_device(gpu: Any) -> None:
    assert gpu.device(0) == (None, 9, 0, 132, 232448, True)
    assert gpu.device(1)[0] is not None
    assert [gpu.clusters_at_once(n, 0) for n in (1, 8, 16, 17)] == [132, 16, 8, 0]
    assert gpu.clusters_at_once(8, 232449) == 0
    gpu.set_device(8, 0, 108, 166912, True)
    assert gpu.device(0) == (None, 8, 0, 108, 166912, True)
    assert gpu.clusters_at_once(8, 0) == 0
    assert "no clusters" in gpu.launch(8, 8, 32, 0, False)
    assert "too many blocks" in gpu.launch(109, 1, 32, 0, True)
    assert "more shared memory" in gpu.launch(1, 1, 32, 166913, False)
    assert gpu.launch(108, 1, 32, 166912, True) is None
    gpu.set_device(8, 0, 108, 166912, False)
    assert "cooperative" in gpu.launch(1, 1, 32, 0, True)
