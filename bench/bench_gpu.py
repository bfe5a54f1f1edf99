"""The bench on a GPU, by groups of rows: `python -m bench.bench_gpu GROUP FILE` runs one and leaves its rows as JSON.

`make bench-gpu` runs each group in a process of its own, so that what breaks a CUDA context, or takes too long, costs
one group, and puts them on one page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.gpu_models import CAPTURED, WITH_CUDNN, decoder_entry, gru_entry, step_entry
from bench.gpu_operators import EAGER, REPLAYED, TORCH, copy_entry, gather_entry, info_nce_entry, optimizer_entry
from bench.gpu_rows import Bar, GpuRow
from bench.gpu_timing import Entry, fill, why
from bench.steps import contrast_phase, reconstruction_phase

PREDICTED = {
    # One launch: what launching takes within a graph, 3 to 5 µs, whatever it moves.
    "info_nce 64": 4.0,
    # 134 MB in float32 take 31 µs at 4.3 TB/s; but 4.3 GFLOP in exact float32, which tensor cores do not compute, take
    # 64 at 67 TFLOP/s.
    "info_nce 65536 fp32": 64.0,
    "info_nce 65536 bf16": 16.0,  # 67 MB
    # Nine and seven passes over 9.3 MB, at 4.3 TB/s.
    "adam": 19.5,
    "sgd": 15.2,
    "gather": 3.0,  # a launch
    # cuDNN takes 12 to 14 µs for a frame of one direction of one layer, and half of it in a graph. Padded rows are run
    # one direction after the other: 240 frames; the backward takes twice as long as the forward.
    "gru forward": 1600.0,
    "gru forward + backward": 4700.0,
    "decoder": 2400.0,  # 120 frames of one direction
    "decoder compiled": 4800.0,  # eager launches of the same GRU
    # Query forward and backward, key forward.
    "cml": 6300.0,
    # Encoder and decoder, both forward and backward.
    "ser": 7100.0,
}
"""Microseconds of a call of ours (the replay, where there is one), written down from bytes, operations and published
times before this code had been on any card. They are predictions: no figure here was measured."""

FLOOR = Bar(REPLAYED, 1.5)
AS_EAGER = Bar(EAGER, 3, TORCH)
STEP = Bar(CAPTURED, 5, WITH_CUDNN)
NW_UCLA, NTU = ("NW-UCLA", 20, 50), ("NTU", 50, 60)

Made = Iterator[partial[Entry]]


def operators(device: torch.device) -> Made:
    yield partial(copy_entry, device)
    for adam in (True, False):
        yield partial(optimizer_entry, device, adam, PREDICTED["adam" if adam else "sgd"])
    for name, channels, longest in (("NW-UCLA", 60, 50), ("NTU", 150, 60)):
        yield partial(gather_entry, device, name, channels, longest, PREDICTED["gather"])


def info_nce(device: torch.device) -> Made:
    for dtype in ("fp32", "bf16"):
        bars = (FLOOR, AS_EAGER) if dtype == "fp32" else (FLOOR,)
        yield partial(info_nce_entry, device, 65_536, dtype, PREDICTED[f"info_nce 65536 {dtype}"], bars)
        yield partial(info_nce_entry, device, 64, dtype, PREDICTED["info_nce 64"])


def gru(device: torch.device) -> Made:
    for backward, name in ((False, "gru forward"), (True, "gru forward + backward")):
        yield partial(gru_entry, device, backward, PREDICTED[name])
    yield partial(decoder_entry, device, False, PREDICTED["decoder"])


def steps(device: torch.device) -> Made:
    for size in (NW_UCLA, NTU):
        yield partial(step_entry, device, "CML", contrast_phase, size, PREDICTED["cml"], (STEP,))
        yield partial(step_entry, device, "SER+IF", reconstruction_phase, size, PREDICTED["ser"])


def compiled_decoder(device: torch.device) -> Made:
    yield partial(decoder_entry, device, True, PREDICTED["decoder compiled"])


GROUPS = {
    "operators": operators,
    "info_nce": info_nce,
    "gru": gru,
    "steps": steps,
    "compiled_decoder": compiled_decoder,
}
"""The group whose time is least known comes last."""


def nothing(rows: list[GpuRow]) -> None:
    pass


def run_group(name: str, device: torch.device, keep: Callable[[list[GpuRow]], None] = nothing) -> list[GpuRow]:
    """The rows of a group; after each of them `keep` is given all there are so far."""
    rows: list[GpuRow] = []
    for make in GROUPS[name](device):
        torch.manual_seed(len(rows))
        rows.append(run_row(name, make))
        keep(rows)
    return rows


def run_row(group: str, make: partial[Entry]) -> GpuRow:
    """Its row; of an entry that cannot even be made, one that says so."""
    try:
        entry = make()
    except Exception as error:
        return GpuRow(group, make.func.__name__, failed=why(error))
    return fill(entry)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("group", GROUPS)
def test_group(group: str) -> None:
    """All of a group's rows are right and timed; `make bench-gpu` puts them on a page."""
    for row in run_group(group, torch.device("cuda")):
        assert row.calls_ms
        assert (row.refused, row.failed) == (None, None)


def main(arguments: list[str]) -> int:
    group, path = arguments

    def keep(rows: list[GpuRow]) -> None:
        Path(path).write_text(json.dumps([row.as_json() for row in rows]))
        last = rows[-1]
        figures = ", ".join(f"{name} {value:.4g}" for name, value in last.median_us().items())
        print(f"{last.group}, {last.title}, us: {last.failed or last.refused or figures}", flush=True)

    run_group(group, torch.device("cuda"), keep)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
