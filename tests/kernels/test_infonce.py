"""InfoNCE over a queue, its gradient and the enqueue (Eq. 6) against the reference in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gpu_floors import LAUNCHES
from crrl.reference import contrast

pytest.importorskip("triton", reason="Triton is not installed")

from crrl.kernels import infonce
from crrl.kernels.infonce import Launch, info_nce, launch_sizes

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FLOATS = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.usefixtures("_poisoned")


def tensors(batch: int, keys: int, channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, D] of any length, k [B, D] near it and a queue [K, D], both normalised."""
    generator = torch.Generator().manual_seed(batch + keys + channels)
    q, noise = torch.randn(2, batch, channels, generator=generator)
    queue = F.normalize(torch.randn(keys, channels, generator=generator), dim=1)
    return (3 * q).to(DEVICE, dtype), F.normalize(q + noise, dim=1).to(DEVICE, dtype), queue.to(DEVICE, dtype)


def reference(q: Tensor, k: Tensor, queue: Tensor, temperature: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    q, k, queue = (tensor.detach().to("cpu", dtype) for tensor in (q, k, queue))
    loss = contrast.info_nce(q.requires_grad_(), k, queue, temperature)
    return loss.detach().double(), torch.autograd.grad(loss, q)[0].double()


def check(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.07) -> tuple[Tensor, Tensor]:
    """The loss and dq are as near to the truth as the reference in float32, but for the rounding of dq to q's dtype."""
    loss, dq = info_nce(q, k, queue, temperature)
    assert (loss.shape, loss.dtype, dq.shape, dq.dtype) == ((), torch.float32, q.shape, q.dtype)
    true_loss, true_dq = reference(q, k, queue, temperature, torch.float64)
    own_loss, own_dq = reference(q, k, queue, temperature, torch.float32)
    # A 16-bit queue is multiplied by a query in two parts, together 16 bits for bfloat16; logits go up to |key|/τ.
    split = 0.0 if queue.dtype == torch.float32 else 2.0**-16
    slack = (2.0**-21 + split) * max(1.0, float(queue.float().norm(dim=1).max())) / temperature
    assert (loss.cpu() - true_loss).abs() <= 2 * (own_loss - true_loss).abs() + slack
    rounding = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}[q.dtype]
    floor = 2.0**-24 * q.numel() ** 0.5 if q.dtype == torch.float16 else 0.0  # float16 ends at 2^-24
    error, size = (dq.cpu().double() - true_dq).norm(), true_dq.norm()
    assert error <= 2 * (own_dq - true_dq).norm() + (rounding + slack) * size + floor
    return loss, dq


@pytest.fixture(params=["rows", "splits"])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program for a row or for a tile of rows, whatever the sizes, in blocks that keep the interpreter quick."""

    def sizes(batch: int, keys: int, channels: int, exact: bool) -> Launch:
        if request.param == "rows":
            width = max(16, 1 << (channels - 1).bit_length())
            return Launch(-(-keys // 16), 16, 1, 16, width, width, 8)
        return Launch(-(-keys // 320), 320, 16, 64, 256, 256, 8)

    monkeypatch.setattr(infonce, "launch_sizes", sizes)
    monkeypatch.setattr(infonce, "COMBINED_COLUMNS", 256)


SIZES = [(1, 2, 60), (5, 3, 63), (17, 33, 60), (3, 64, 512), (1, 3, 1024)]
LARGE = [(32, 64, 512), (5, 1000, 63), (17, 700, 300)]
"""Too many programs of a row each for the interpreter."""


@pytest.mark.parametrize(
    ("variant", "batch", "keys", "channels"),
    [*(("rows", *size) for size in SIZES), *(("splits", *size) for size in (*SIZES, *LARGE))],
    indirect=["variant"],
)
@pytest.mark.usefixtures("variant")
def test_is_that_of_the_reference(batch: int, keys: int, channels: int) -> None:
    check(*tensors(batch, keys, channels))


@pytest.mark.parametrize(
    ("batch", "keys", "channels"), [(5, 64, 60), (9, 130, 48), (3, 65, 1030), (3, 600, 60), (1, 20, 2060)]
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_with_the_sizes_that_it_chooses(batch: int, keys: int, channels: int, dtype: torch.dtype) -> None:
    check(*tensors(batch, keys, channels, dtype))


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("query", FLOATS)
@pytest.mark.parametrize("queue", FLOATS)
def test_dtypes_may_differ(query: torch.dtype, queue: torch.dtype) -> None:
    q, k, keys = tensors(5, 100, 63)
    check(q.to(query), k.to(query), keys.to(queue))


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize(("temperature", "length"), [(0.01, 1.0), (0.01, 30.0), (1.0, 1e-3)])
def test_extreme_logits(temperature: float, length: float) -> None:
    q, k, queue = tensors(3, 100, 60)
    queue[7] = F.normalize(q[0], dim=0)  # a negative that beats the positive
    loss, dq = check(q, length * k, length * queue, temperature)
    assert loss.isfinite()
    assert dq.isfinite().all()


@pytest.mark.usefixtures("variant")
def test_a_query_too_short_to_normalise() -> None:
    q, k, queue = tensors(3, 70, 60)
    q[0], q[1] = 0, 9e-13 * F.normalize(q[1], dim=0)  # F.normalize divides by 1e-12, and takes nothing away
    check(q, k, queue)


@pytest.mark.usefixtures("variant")
def test_strides() -> None:
    q, k, queue = tensors(5, 100, 60)
    want = info_nce(q, k, queue, 0.07)
    wide = torch.full((100, 3, 70), float("nan"), device=DEVICE)
    wide[:, 1, 4:64] = queue
    rows = torch.full((9, 64), float("nan"), device=DEVICE)
    rows[::2, 2:62] = q
    got = info_nce(rows[::2, 2:62], k.t().contiguous().t(), wide[:, 1, 4:64], 0.07)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("variant")
def test_two_runs_are_equal_to_the_bit() -> None:
    one, other = (info_nce(*tensors(3, 330, 63), 0.07) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def enqueue_is_that_of_the_reference(
    batch: int, keys: int, channels: int, place: int, dtype: torch.dtype = torch.float32
) -> None:
    """The queue and the pointer afterwards, with a queue of strided rows; loss and dq are of the queue before."""
    q, k, queue = tensors(batch, keys, channels)
    queue = queue.to(dtype)
    want, pointer = queue.clone(), torch.tensor(place, device=DEVICE)
    held = torch.full((keys, channels + 3), 7.0, dtype=dtype, device=DEVICE)
    held[:, :channels] = queue
    got, own = held[:, :channels], pointer.clone()
    results = info_nce(q, k, got, 0.07, pointer=own)
    contrast.enqueue(want, pointer, k)
    assert torch.equal(got, want)
    assert torch.equal(own, pointer)
    assert (held[:, channels:] == 7).all()
    for one, other in zip(results, info_nce(q, k, queue, 0.07), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "place"), [(5, 0), (5, 7), (10, 3), (13, 9), (1, 9)])
def test_enqueue(dtype: torch.dtype, batch: int, place: int) -> None:
    enqueue_is_that_of_the_reference(batch, 10, 20, place, dtype)


@pytest.mark.parametrize("seed", range(12))
def test_any_enqueue(seed: int) -> None:
    number = random.Random(seed)
    batch, keys, channels = number.randint(1, 10), number.randint(2, 40), number.randint(1, 40)
    enqueue_is_that_of_the_reference(batch, keys, channels, number.randrange(keys))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("batch", [1, 32, 33, 4096])
@pytest.mark.parametrize("keys", [2, 64, 129, 1000, 65536, 1 << 24])
@pytest.mark.parametrize("channels", [1, 60, 512, 1024])
def test_launch_sizes(exact: bool, batch: int, keys: int, channels: int) -> None:
    sizes = launch_sizes(batch, keys, channels, exact)
    assert sizes == launch_sizes(batch, keys, channels, exact)
    for power in (sizes.rows, sizes.keys, sizes.depth, sizes.columns, sizes.warps):
        assert power & (power - 1) == 0
    if sizes.rows == 1:
        assert sizes.columns >= channels
        assert sizes.keys_per_split == sizes.keys
        assert sizes.keys * sizes.columns <= 128 * 32 * sizes.warps  # numbers of the tile: 128 registers a thread
    else:
        assert sizes.rows >= 16
    assert min(sizes.keys, sizes.depth, sizes.columns) >= 16
    assert sizes.keys_per_split % sizes.keys == 0
    # Every key is in a split, and no split is empty.
    assert (sizes.splits - 1) * sizes.keys_per_split < keys <= sizes.splits * sizes.keys_per_split
    assert sizes.splits <= infonce.PROGRAMS


def loads(monkeypatch: pytest.MonkeyPatch, batch: int, keys: int, channels: int) -> list[int]:
    """For every program of both launches, how often it reads a tile from memory."""
    builder = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
    found: dict[tuple[Any, ...], int] = {}
    launch = [0]

    def counted(name: str) -> Callable[..., Any]:
        run = getattr(builder, name)

        def count(self: Any, *arguments: Any) -> Any:
            program = (launch[0], *self.grid_idx)
            found[program] = found.get(program, 0) + (name != "set_grid_idx")
            return run(self, *arguments)

        return count

    def started(self: Any, *arguments: Any) -> Any:
        launch[0] += 1
        return dimensions(self, *arguments)

    q, k, queue = tensors(batch, keys, channels)
    with monkeypatch.context() as patch:
        dimensions = builder.set_grid_dim
        patch.setattr(builder, "set_grid_dim", started)
        patch.setattr(builder, "create_masked_load", counted("create_masked_load"))
        info_nce(q, k, queue, 0.07, pointer=torch.tensor(0, device=DEVICE))
    assert launch[0] == LAUNCHES
    return list(found.values())


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the interpreter counts")
def test_at_the_papers_size_no_loop_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each iteration would wait for memory again: a program reads no more often than with 2 keys of 16 channels."""
    few, paper = (loads(monkeypatch, *sizes) for sizes in ((1, 2, 16), (32, 64, 512)))
    assert max(paper) == max(few)
    # A row and 16 keys a program; then dq in blocks of 128 channels, the loss, the enqueue in blocks of 16 by 128.
    assert len(paper) == 32 * 4 + 32 * 4 + 1 + 2 * 4


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("keys", "splits"), [(16_384, 128), (65_536, 128)])
def test_a_long_queue_is_read_by_a_program_a_multiprocessor(exact: bool, keys: int, splits: int) -> None:
    sizes = launch_sizes(32, keys, 512, exact)
    others = -(-512 // sizes.columns)
    assert sizes.splits * others == splits


def test_wrong_tensors_are_refused() -> None:
    q, k, queue = tensors(4, 8, 6)
    pointer = torch.tensor(0, device=DEVICE)
    for message, arguments, settings in [
        (r"k: expected \[4, 6\] as q", (q, k[:3], queue), {}),
        (r"queue: expected \[rows, 6\]", (q, k, queue[:, :5]), {}),
        ("q: expected float32, bfloat16 or float16", (q.double(), k, queue), {}),
        ("queue: expected strides below", (q, k, q[:1].as_strided((1, 6), (1 << 22, 1))), {}),
        ("pointer: expected an int64 scalar", (q, k, queue), {"pointer": pointer.int()}),
    ]:
        with pytest.raises(ValueError, match=message):
            info_nce(*arguments, 0.07, **settings)
