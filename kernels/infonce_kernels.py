"""The kernels of crrl.kernels.infonce, whose docstring says what they compute.

A matrix comes with both strides. The offset of a tile is int64; offsets within it are int32, which saves registers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _places(i, j, stride_i, stride_j, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """The offsets of the elements of the tile [HEIGHT, WIDTH] at (i, j)."""
    first = tl.cast(i, tl.int64) * stride_i + tl.cast(j, tl.int64) * stride_j
    return first + (tl.arange(0, HEIGHT)[:, None] * stride_i + tl.arange(0, WIDTH)[None, :] * stride_j)


@triton.jit
def _inside(i, j, size_i, size_j, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Which elements of the tile [HEIGHT, WIDTH] at (i, j) are in the matrix."""
    return (tl.arange(0, HEIGHT) < size_i - i)[:, None] & (tl.arange(0, WIDTH) < size_j - j)[None, :]


@triton.jit
def _load(matrix, i, j, stride_i, stride_j, size_i, size_j, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """The tile [HEIGHT, WIDTH] at (i, j), 0 outside of the matrix."""
    at = _places(i, j, stride_i, stride_j, HEIGHT, WIDTH)
    return tl.load(matrix + at, _inside(i, j, size_i, size_j, HEIGHT, WIDTH), 0.0)


@triton.jit
def _product(narrow, wide, total):
    """total + narrow @ wide, float32; `wide`, float32, is split in two where `narrow` has 16 bits."""
    if narrow.dtype == tl.float32:
        return tl.dot(narrow, wide, total, input_precision="ieee")
    high = wide.to(narrow.dtype)
    low = (wide - high.to(tl.float32)).to(narrow.dtype)
    return tl.dot(narrow, low, tl.dot(narrow, high, total))


@triton.jit
def _ends(squares, products, scale):
    """Of the sums q·q and q·k: 1 / norm as in F.normalize, the positive's logit, whether the norm has a gradient."""
    norm = tl.sqrt_rn(squares)
    inverse = 1 / tl.where(norm < 1e-12, 1e-12, norm)
    return inverse, products * inverse * scale, norm >= 1e-12


@triton.jit
def _positives(q, k, row, q_row, q_column, k_row, k_column, scale, B, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """`_ends` of each row, [ROWS]; the fewer iterations, the fewer waits for memory before a split begins."""
    squares = tl.zeros([ROWS], tl.float32)
    products = tl.zeros([ROWS], tl.float32)
    for column in range(0, D, WIDTH):
        query = _load(q, row, column, q_row, q_column, B, D, ROWS, WIDTH).to(tl.float32)
        key = _load(k, row, column, k_row, k_column, B, D, ROWS, WIDTH).to(tl.float32)
        squares += tl.sum(query * query, 1)
        products += tl.sum(query * key, 1)
    return _ends(squares, products, scale)


@triton.jit
def _logits(
    q, queue, row, key, inverse, q_row, q_column, queue_row, queue_column, scale, B, K, D,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The logits, [KEYS, ROWS]: keys come first, because tensor cores need many rows there and a batch may have few."""
    total = tl.zeros([KEYS, ROWS], tl.float32)
    for column in range(0, D, DEPTH):
        query = _load(q, column, row, q_column, q_row, D, B, DEPTH, ROWS).to(tl.float32) * inverse[None, :]
        total = _product(_load(queue, key, column, queue_row, queue_column, K, D, KEYS, DEPTH), query, total)
    return total * scale


@triton.jit
def _enqueue(
    k, queue, start, row, column, k_row, k_column, queue_row, queue_column, B, K, D,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The tile of k at (row, column) to its slots of the ring whose oldest slot is `start` (int64)."""
    new = _load(k, row, column, k_row, k_column, B, D, ROWS, COLUMNS)
    slots = (start + row + tl.arange(0, ROWS)) % K
    at = slots[:, None] * queue_row + (column + tl.arange(0, COLUMNS)).to(tl.int64)[None, :] * queue_column
    tl.store(queue + at, new.to(queue.dtype.element_ty), _inside(row, column, B, D, ROWS, COLUMNS))


@triton.jit
def _leave(
    statistics, pointer, start, row, split, splits, peak, whole, along, inverse, positive, B, ROWS: tl.constexpr
):
    """For finish_kernel: the sums of a split for its rows; the first split adds what all splits share."""
    rows = row + tl.arange(0, ROWS)
    own = statistics + split * B + rows
    tl.store(own, peak, rows < B)
    tl.store(own + splits * B, whole, rows < B)
    tl.store(own + 2 * splits * B, along, rows < B)
    if split == 0:
        tl.store(statistics + 3 * splits * B + rows, inverse, rows < B)
        tl.store(statistics + (3 * splits + 1) * B + rows, positive, rows < B)
        if pointer is not None and row == 0:
            tl.store(start, tl.load(pointer))  # the second launch reads this copy, as it writes the pointer


@triton.jit
def row_kernel(
    q, k, queue, pointer, start, sums, statistics,
    q_row, q_column, k_row, k_column, queue_row, queue_column, scale, B, K, D,
    KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program takes one row and one split of KEYS keys, all channels at once: no loop, and all loads go together."""
    row, split = tl.program_id(0), tl.program_id(1)
    query = _load(q, row, 0, q_row, q_column, B, D, 1, COLUMNS).to(tl.float32)
    key = _load(k, row, 0, k_row, k_column, B, D, 1, COLUMNS).to(tl.float32)
    keys = _load(queue, split * KEYS, 0, queue_row, queue_column, K, D, KEYS, COLUMNS).to(tl.float32)
    inverse, positive, sloping = _ends(tl.sum(query * query, 1), tl.sum(query * key, 1), scale)
    logits = tl.sum(keys * query, 1) * (inverse * scale)
    valid = tl.arange(0, KEYS) < K - split * KEYS
    peak = tl.max(tl.where(valid, logits, float("-inf")), 0, keep_dims=True)
    weights = tl.where(valid, tl.exp(logits - peak), 0.0)
    along = tl.where(sloping, tl.sum(weights * (logits - positive), 0, keep_dims=True), 0.0)
    at = tl.cast(split, tl.int64) * B * D + _places(row, 0, D, 1, 1, COLUMNS)
    tl.store(sums + at, tl.sum(keys * weights[:, None], 0)[None, :], _inside(row, 0, B, D, 1, COLUMNS))
    whole = tl.sum(weights, 0, keep_dims=True)
    _leave(statistics, pointer, start, row, split, tl.num_programs(1), peak, whole, along, inverse, positive, B, 1)


@triton.jit
def split_kernel(
    q, k, queue, pointer, start, sums, statistics,
    q_row, q_column, k_row, k_column, queue_row, queue_column, scale, B, K, D, column_blocks, keys_per_split,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DEPTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # The programs of one split are neighbours, so that what one has read of the queue is in the cache for the others.
    row, column = tl.program_id(0) // column_blocks * ROWS, tl.program_id(0) % column_blocks * COLUMNS
    split, splits = tl.program_id(1), tl.num_programs(1)
    inverse, positive, sloping = _positives(q, k, row, q_row, q_column, k_row, k_column, scale, B, D, ROWS, 256)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    whole = tl.zeros([ROWS], tl.float32)
    along = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([COLUMNS, ROWS], tl.float32)
    end = tl.minimum((split + 1) * keys_per_split, K)
    for key in range(split * keys_per_split, end, KEYS):
        valid = (tl.arange(0, KEYS) < end - key)[:, None]
        logits = _logits(
            q, queue, row, key, inverse, q_row, q_column, queue_row, queue_column, scale, B, end, D, ROWS, KEYS, DEPTH
        )
        higher = tl.maximum(peak, tl.max(tl.where(valid, logits, float("-inf")), 0))
        weights = tl.where(valid, tl.exp(logits - higher[None, :]), 0.0)
        fade = tl.exp(peak - higher)
        whole = whole * fade + tl.sum(weights, 0)
        along = along * fade + tl.sum(weights * (logits - positive[None, :]), 0)
        values = _load(queue, column, key, queue_column, queue_row, D, end, COLUMNS, KEYS)
        total = _product(values, weights, total * fade[None, :])
        peak = higher
    at = tl.cast(split, tl.int64) * B * D + _places(column, row, 1, D, COLUMNS, ROWS)
    tl.store(sums + at, total, _inside(column, row, D, B, COLUMNS, ROWS))
    if column == 0:
        along = tl.where(sloping, along, 0.0)
        _leave(statistics, pointer, start, row, split, splits, peak, whole, along, inverse, positive, B, ROWS)


@triton.jit
def _combined(statistics, row, splits, B, SPLITS: tl.constexpr, ROWS: tl.constexpr):
    """Over the positive and all splits, [ROWS] each: the largest logit, Σ exp(l − largest), the same sum over the queue
    alone, Σ p·(l − l_0), 1 / norm and l_0."""
    rows = row + tl.arange(0, ROWS)
    ends = statistics + 3 * splits * B + rows
    inverse, positive = tl.load(ends, rows < B, 0.0), tl.load(ends + B, rows < B, 0.0)
    at = statistics + _places(0, row, B, 1, SPLITS, ROWS)
    inside = _inside(0, row, splits, B, SPLITS, ROWS)
    peaks = tl.load(at, inside, float("-inf"))
    peak = tl.maximum(tl.max(peaks, 0), positive)
    fades = tl.exp(peaks - peak[None, :])
    negatives = tl.sum(tl.load(at + splits * B, inside, 0.0) * fades, 0)
    whole = negatives + tl.exp(positive - peak)
    along = tl.sum(tl.load(at + 2 * splits * B, inside, 0.0) * fades, 0) / whole
    return peak, whole, negatives, along, inverse, positive


@triton.jit
def _gradient(
    q, k, dq, sums, statistics, row, column, q_row, q_column, k_row, k_column, scale, splits, B, D,
    SPLITS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """COLUMNS elements of dq[row]; the sums of the splits are added in a fixed order."""
    peak, whole, negatives, along, inverse, _ = _combined(statistics, row, splits, B, SPLITS, 1)
    total = tl.zeros([1, COLUMNS], tl.float32)
    for split in range(0, splits, STEP):
        part = split + tl.arange(0, STEP)
        fades = tl.exp(tl.load(statistics + part * B + row, part < splits, float("-inf")) - peak)
        own = sums + tl.cast(row, tl.int64) * D
        values = _load(own, split, column, tl.cast(B, tl.int64) * D, 1, splits, D, STEP, COLUMNS)
        total += tl.sum(values * fades[:, None], 0)[None, :]
    query = _load(q, row, column, q_row, q_column, B, D, 1, COLUMNS).to(tl.float32) * inverse[:, None]
    key = _load(k, row, column, k_row, k_column, B, D, 1, COLUMNS).to(tl.float32)
    pull = (total - negatives[:, None] * key) / whole[:, None]
    gradient = (pull * scale - query * along[:, None]) * (inverse / B)[:, None]
    at = _places(row, column, D, 1, 1, COLUMNS)
    tl.store(dq + at, gradient.to(dq.dtype.element_ty), _inside(row, column, B, D, 1, COLUMNS))


@triton.jit
def finish_kernel(
    q, k, queue, pointer, start, sums, statistics, loss, dq,
    q_row, q_column, k_row, k_column, queue_row, queue_column, scale, B, K, D, splits, column_blocks,
    SPLITS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr, ENQUEUED: tl.constexpr,
):  # fmt: skip
    """The first program takes the loss, the next B · column_blocks dq, the rest a tile of the enqueue each."""
    program = tl.program_id(0) - 1
    block, column = program // column_blocks, program % column_blocks * COLUMNS
    if program < 0:
        total = 0.0
        for row in range(0, B, ROWS):
            peak, whole, _, _, _, positive = _combined(statistics, row, splits, B, SPLITS, ROWS)
            total += tl.sum(tl.where(tl.arange(0, ROWS) < B - row, tl.log(whole) + peak - positive, 0.0))
        tl.store(loss, total / B)
        if pointer is not None:
            tl.store(pointer, (tl.load(start) + B) % K)
    elif block < B:
        _gradient(
            q, k, dq, sums, statistics, block, column, q_row, q_column, k_row, k_column, scale, splits, B, D,
            SPLITS, STEP, COLUMNS,
        )  # fmt: skip
    elif pointer is not None:
        _enqueue(
            k, queue, tl.load(start), tl.maximum(B - K, 0) + (block - B) * ENQUEUED, column,
            k_row, k_column, queue_row, queue_column, B, K, D, ENQUEUED, COLUMNS,
        )  # fmt: skip
