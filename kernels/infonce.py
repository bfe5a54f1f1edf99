"""InfoNCE over a queue of keys (Eq. 6): the loss, the gradient of the queries, the enqueue; no logits in memory.

With l_j the logit of key j and p its softmax over the positive (0) and the queue, the gradient of a normalised query is
(Σ_j p_j·k_j − k_0)/τ: attention whose keys and values are the queue. Normalisation removes its component along the
query, Σ_j p_j·(l_j − l_0). The softmax yields this number, so the columns of dq can be computed independently.

There are two launches: the first divides the queue into splits and leaves of each its sums for every query, the second
combines the splits in a fixed order and enqueues. With few keys a program of the first takes one row and one split, so
that many programs share the work and none waits for memory twice: a call costs two launches and little more. With many
keys it takes a tile of rows and runs through its split with a running softmax.

Tiles of a 16-bit queue are multiplied by tensor cores: the float32 factor enters as the sum of two numbers of the
queue's dtype, each product is exact, and sums are float32. A float32 queue is multiplied in exact float32 (ieee), which
tensor cores cannot do, so that arithmetic rather than memory is likely to be the bound. A tile of the queue is read
once from memory and again from a cache: for the sum of keys after the logits, and by the programs with other columns or
rows of the same split. All this was chosen by counting bytes and registers; it has not been timed on a card.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from crrl.kernels.checks import FLOATS, require
from crrl.kernels.infonce_kernels import finish_kernel, row_kernel, split_kernel


@dataclass(frozen=True)
class Launch:
    """Sizes of the launches of `info_nce`, all powers of two but splits and keys_per_split.

    Attributes:
        splits: parts of the queue, one for a program.
        keys_per_split: keys of every split but the last, which may have fewer.
        rows: queries in a program's tile; 1: row_kernel takes its one row with all channels and a split's keys at once.
        keys: keys in that tile.
        depth: channels that a product for the logits takes at a time.
        columns: channels of the sum of keys that a program of the first launch holds.
        warps: of a program of the first launch.
    """

    splits: int
    keys_per_split: int
    rows: int
    keys: int
    depth: int
    columns: int
    warps: int


PROGRAMS = 128
"""Programs of the first launch, if there are enough keys: about the number of multiprocessors of a large card.

Fixed, so that results do not depend on the card. More programs would write and read more partial sums.
"""

COMBINED_SPLITS = 32
"""Splits whose sums a program of the second launch takes at a time."""

COMBINED_COLUMNS = 128
"""Channels that a program of the second launch takes: of one row of dq, or of ENQUEUED_ROWS new keys."""

ENQUEUED_ROWS = 16
"""Keys that a program of the second launch enqueues."""

STATISTICS = 4096
"""Numbers of a statistic, splits times rows, that the program for the loss holds: 32 registers a thread."""

FEW_KEYS = 16
"""Keys of a split of row_kernel: 64 keys and 32 rows are 128 programs."""

TILE = 1 << 15
"""Elements of the queue that a program of row_kernel holds at most: 128 registers in each of its 256 threads."""

FEW_PAIRS = 1 << 14
"""Rows times keys up to which row_kernel serves: 32 MB of float32 from the cache, with 512 channels some 6 µs."""

STRIDES = 1 << 19
"""Strides are below this, so that offsets within a tile of at most 2048 channels fit int32."""


def launch_sizes(batch: int, keys: int, channels: int, exact: bool) -> Launch:
    """The sizes for q [batch, channels] and a queue [keys, channels] of float32 (`exact`) or of 16 bits."""
    width = max(16, triton.next_power_of_2(channels))
    if keys <= FEW_KEYS * COMBINED_SPLITS and batch * keys <= FEW_PAIRS and FEW_KEYS * width <= TILE:
        return Launch(triton.cdiv(keys, FEW_KEYS), FEW_KEYS, 1, FEW_KEYS, width, width, 8)
    rows = min(32, max(16, triton.next_power_of_2(batch)))
    depth = 16 if exact else 64
    tile, widest = (32, 512) if exact else (64, 256)
    columns = min(widest, width)
    others = triton.cdiv(batch, rows) * triton.cdiv(channels, columns)
    tiles = triton.cdiv(keys, tile)
    per_split = triton.cdiv(tiles, max(1, PROGRAMS // others)) * tile
    return Launch(triton.cdiv(keys, per_split), per_split, rows, tile, depth, columns, 8)


def info_nce(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float, pointer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Eq. 6 as crrl.reference.contrast.info_nce, its gradient and, with `pointer`, crrl.reference.contrast.enqueue.

    Args:
        q: [B, D] queries, L2-normalised here. k: [B, D] and queue: [K, D], L2-normalised. Each float32, bfloat16 or
            float16, any strides; the arithmetic is float32.
        temperature: τ.
        pointer: int64 scalar, in 0..K − 1: the oldest entry of the queue. If it is given, k replaces the oldest keys
            after these were last read, and the pointer advances; k must not share memory with the queue.

    Returns:
        loss, a float32 scalar; dq [B, D], its gradient with respect to q, in q's dtype.

    Raises:
        ValueError: a tensor has another shape, dtype or device.
    """
    _check(q, k, queue, pointer)
    loss, dq = q.new_empty((), dtype=torch.float32), q.new_empty(q.shape)
    sizes = launch_sizes(len(q), len(queue), q.shape[1], queue.dtype == torch.float32)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        _launch(sizes, q, k, queue, pointer, 1 / temperature, loss, dq)
    return loss, dq


def _check(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor | None) -> None:
    require(q.dim() == 2 and q.numel() > 0, f"q: expected [B, D], got {list(q.shape)}")
    require(k.shape == q.shape, f"k: expected {list(q.shape)} as q, got {list(k.shape)}")
    for name, matrix in {"q": q, "k": k, "queue": queue}.items():
        fits = matrix.dim() == 2 and matrix.shape[1] == q.shape[1] and len(matrix) > 0
        require(fits, f"{name}: expected [rows, {q.shape[1]}], got {list(matrix.shape)}")
        require(matrix.dtype in FLOATS, f"{name}: expected float32, bfloat16 or float16, got {matrix.dtype}")
        require(max(matrix.stride()) < STRIDES, f"{name}: expected strides below {STRIDES}, got {matrix.stride()}")
        require(matrix.device == q.device, f"{name}: expected on {q.device}, got {matrix.device}")
    if pointer is not None:
        place = pointer.dtype == torch.int64 and pointer.dim() == 0 and pointer.device == q.device
        require(place, f"pointer: expected an int64 scalar on {q.device}, got {pointer.dtype} {list(pointer.shape)}")


def _launch(
    sizes: Launch,
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    pointer: Tensor | None,
    scale: float,
    loss: Tensor,
    dq: Tensor,
) -> None:
    (batch, channels), splits = q.shape, sizes.splits
    sums = q.new_empty((splits, batch, channels), dtype=torch.float32)
    statistics = q.new_empty((3 * splits + 2, batch), dtype=torch.float32)
    start = None if pointer is None else torch.empty_like(pointer)
    tensors = (q, k, queue, pointer, start, sums, statistics)
    numbers = (*q.stride(), *k.stride(), *queue.stride(), scale, batch, *queue.shape)
    if sizes.rows == 1:
        row_kernel[(batch, splits)](*tensors, *numbers, sizes.keys, sizes.columns, num_warps=sizes.warps)
    else:
        column_blocks = triton.cdiv(channels, sizes.columns)
        split_kernel[(triton.cdiv(batch, sizes.rows) * column_blocks, splits)](
            *tensors, *numbers, column_blocks, sizes.keys_per_split,
            sizes.rows, sizes.keys, sizes.depth, sizes.columns, num_warps=sizes.warps,
        )  # fmt: skip
    column_blocks = triton.cdiv(channels, COMBINED_COLUMNS)
    enqueued = 0 if pointer is None else triton.cdiv(min(batch, len(queue)), ENQUEUED_ROWS)
    parts = triton.next_power_of_2(splits)
    rows = max(1, min(triton.next_power_of_2(batch), STATISTICS // parts))
    finish_kernel[(1 + (batch + enqueued) * column_blocks,)](
        *tensors, loss, dq, *numbers, splits, column_blocks,
        parts, rows, min(parts, COMBINED_SPLITS), COMBINED_COLUMNS, ENQUEUED_ROWS,
    )  # fmt: skip
