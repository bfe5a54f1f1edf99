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

from bench import gpu_exchange, gpu_floors, gpu_gru, gpu_peers
from bench.cases import NTU as NTU_CASE
from bench.cases import Case
from bench.gpu_models import CAPTURED, CML, SER, WITH_CUDNN, decoder_entry, extrapolated, gru_entry, step_entry
from bench.gpu_operators import TORCH, copy_entry, gather_entry, info_nce_entry, optimizer_entry
from bench.gpu_rows import EAGER, REPLAYED, Bar, GpuRow
from bench.gpu_timing import Entry, fill
from bench.steps import contrast_phase, reconstruction_phase
from bench.timing import why

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
    # Ragged rows on the CUDA kernels: what all rows at full length take.
    "gru forward": gpu_floors.forward_us(NTU_CASE, "tf32"),
    "gru forward + backward": gpu_floors.forward_us(NTU_CASE, "tf32") + gpu_floors.backward_us(NTU_CASE, "tf32"),
    # Both encoders in one launch a layer.
    "pair": gpu_floors.forward_us(NTU_CASE, "tf32", encoders=2),
    # One direction of two layers: 120 frames forward and 120 back at 0.58 µs; 40 products, sums and copies beside them.
    "decoder": 250.0,
    "decoder compiled": 1500.0,  # what the host takes to launch them
    # Both encoders forward, the query's back; then heads, loss, optimizer and gather, some 20 kernels.
    "cml": gpu_floors.forward_us(NTU_CASE, "tf32", encoders=2) + gpu_floors.backward_us(NTU_CASE, "tf32") + 45,
    # Encoder and decoder, both forward and backward, and the same 20 kernels.
    "ser": gpu_floors.forward_us(NTU_CASE, "tf32") + gpu_floors.backward_us(NTU_CASE, "tf32") + 250 + 45,
    # A round of 8 blocks: st.async to eight peers, 180 cycles on its way, and a wait; through memory two flags' worth.
    "exchange": gpu_floors.EXCHANGE_US,
}
"""Microseconds of a call of ours (the replay, where there is one), written down from bytes, operations and published
times (bench/gpu_floors.py) before this code had been on any card. They are predictions: no figure here was measured."""

FLOOR = Bar(REPLAYED, 1.5)
AS_EAGER = Bar(EAGER, 3, TORCH)
STEP = Bar(CAPTURED, 5, WITH_CUDNN)
NW_UCLA, NTU = ("NW-UCLA", 20, 50), ("NTU", 50, 60)
CML_STEP, SER_STEP = Bar(CAPTURED, 350, absolute=True), Bar(CAPTURED, 500, absolute=True)
PAIR, BACKWARD = Bar(REPLAYED, 120, absolute=True), Bar(REPLAYED, 180, absolute=True)
TIMES_CUDNN = (Bar(REPLAYED, 5, gpu_gru.CUDNN), Bar(REPLAYED, 2.5, gpu_gru.CUDNN_REPLAYED))
EXCHANGE = Bar(gpu_exchange.CLUSTER, gpu_exchange.LIMIT_US, absolute=True)

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
        of_cml, of_ser = ((STEP, CML_STEP), (SER_STEP,)) if size is NTU else ((STEP,), ())
        yield partial(step_entry, device, CML, contrast_phase, size, PREDICTED["cml"], of_cml)
        yield partial(step_entry, device, SER, reconstruction_phase, size, PREDICTED["ser"], of_ser)


def cuda_gru(device: torch.device) -> Made:
    """The central size: both encoders, one in every mode, each exchange."""
    yield partial(gpu_gru.pair_entry, device, "tf32", PREDICTED["pair"], (PAIR, *TIMES_CUDNN))
    for mode in gpu_gru.MODES:
        variants = ("cluster", "l2") if mode == "tf32" else ()
        for kind in (gpu_gru.FORWARD, gpu_gru.KEPT, gpu_gru.BOTH):
            if mode == "tf32" or kind != gpu_gru.KEPT:
                settings = {"variants": variants, "with_compiled": mode == "tf32" and kind != gpu_gru.KEPT}
                yield partial(
                    gpu_gru.gru_entry, device, gpu_gru.CENTRE, mode, kind, expected_us(mode, kind), **settings
                )


def gru_grid(device: torch.device) -> Made:
    """The central size with one of B, T and H changed."""
    for case in gpu_gru.GRID:
        for kind in (gpu_gru.FORWARD, gpu_gru.BOTH):
            predicted = expected_us("tf32", kind, case)
            yield partial(gpu_gru.gru_entry, device, case, "tf32", kind, predicted, rounds=gpu_gru.FEW_ROUNDS)


def expected_us(mode: str, kind: str, case: Case = gpu_gru.CENTRE) -> float:
    backward = gpu_floors.backward_us(case, mode) if kind == gpu_gru.BOTH else 0.0
    return gpu_floors.forward_us(case, mode) + backward


def exchange(device: torch.device) -> Made:
    for blocks in gpu_exchange.TEAMS:
        for gates in (1, 3):
            for itemsize in (4, 2):
                central = (blocks, gates, itemsize) == (8, 1, 4)
                predicted, bars = (PREDICTED["exchange"], (EXCHANGE,)) if central else (None, ())
                yield partial(gpu_exchange.exchange_entry, device, blocks, gates, itemsize, predicted, bars)
    for gates in (1, 3):
        yield partial(gpu_exchange.exchange_entry, device, 8, gates, 4, teams=1)


def gru_peers(device: torch.device) -> Made:
    """Whoever has to be compiled first, which may take long."""
    for name in gpu_peers.PEERS:
        for mode in ("bf16", "tf32") if name == "FlashRNN" else ("tf32",):
            for backward in (False, True):
                yield partial(gpu_gru.open_peer_entry, device, name, mode, backward)
    for backward in (False, True):
        yield partial(gpu_gru.unrolled_entry, device, backward)


def compiled_decoder(device: torch.device) -> Made:
    yield partial(decoder_entry, device, True, PREDICTED["decoder compiled"])


GROUPS = {
    "operators": operators,
    "info_nce": info_nce,
    "gru": gru,
    "steps": steps,
    "cuda_gru": cuda_gru,
    "exchange": exchange,
    "gru_grid": gru_grid,
    "compiled_decoder": compiled_decoder,
    "gru_peers": gru_peers,
}
"""The groups whose time is least known come last."""


def derived(group: str, rows: list[GpuRow]) -> list[GpuRow]:
    """Rows that follow from a group's others."""
    if group == "cuda_gru":
        return gpu_gru.differences(rows, gpu_floors.backward_us(NTU_CASE, "tf32"), (BACKWARD, *TIMES_CUDNN))
    if group == "steps":
        return extrapolated(rows, NTU[0], PREDICTED)
    return []


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
