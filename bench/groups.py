"""All rows, by groups, and `python -m bench.groups GROUP FILE`, which runs one of a GPU and leaves its rows as JSON.

`make bench` runs those of a CPU in one process. `make bench-gpu` runs each of a GPU in a process of its own, so that
what breaks a CUDA context, or takes too long, costs one group.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench import gpu_exchange, gpu_floors, gru, operators, peers, skeleton, streaming, training
from bench.cases import NTU as NTU_CASE
from bench.cases import Case
from bench.operators import FLOOR, PYTORCH
from bench.rows import EAGER, REPLAYED, Bar, Row
from bench.timing import Entry, fill, why
from bench.training import CAPTURED, CML, NTU, NW_UCLA, SER, WITH_CUDNN, contrast_phase, reconstruction_phase

# One direction of two layers, for clips and the same read backwards; 40 products, sums and copies take 95 µs.
DECODER_CASE = replace(NTU_CASE, batch=64)
DECODER_US = 95 + 2 * sum(gpu_floors.recurrence_us(DECODER_CASE, "tf32", way, chains=1) for way in (False, True))

PREDICTED = {
    "info_nce 64": gpu_floors.info_nce_us(64, 4),
    "info_nce 65536 fp32": gpu_floors.info_nce_us(65_536, 4),
    "info_nce 65536 bf16": gpu_floors.info_nce_us(65_536, 2),
    # Nine and seven passes over 9.3 MB, at 4.3 TB/s.
    "adam": 19.5,
    "sgd": 15.2,
    "gather": 3.0,  # a launch
    # Ragged rows on the CUDA kernels: what all rows at full length take.
    "gru forward": gpu_floors.forward_us(NTU_CASE, "tf32"),
    "gru forward + backward": gpu_floors.forward_us(NTU_CASE, "tf32") + gpu_floors.backward_us(NTU_CASE, "tf32"),
    # Both encoders in one launch a layer.
    "pair": gpu_floors.forward_us(NTU_CASE, "tf32", encoders=2),
    "decoder": DECODER_US,
    "decoder compiled": 1500.0,  # what the host takes to launch them
    # Both encoders forward, the query's back; then heads, loss, optimizer and gather, some 20 kernels.
    "cml": gpu_floors.forward_us(NTU_CASE, "tf32", encoders=2) + gpu_floors.backward_us(NTU_CASE, "tf32") + 45,
    # Encoder and decoder, both forward and backward, and the same 20 kernels.
    "ser": gpu_floors.forward_us(NTU_CASE, "tf32") + gpu_floors.backward_us(NTU_CASE, "tf32") + DECODER_US + 45,
    "exchange": gpu_floors.exchange_us(8, 8, 4),
}
"""Microseconds of a call of ours (the replay, where there is one), written down from bytes, operations and published
times (bench/gpu_floors.py) before this code had been on any card. They are predictions: no figure here was measured."""

AS_EAGER = Bar(EAGER, 3, PYTORCH)
STEP = Bar(CAPTURED, 5, WITH_CUDNN)
CML_STEP, SER_STEP = Bar(CAPTURED, 350, absolute=True), Bar(CAPTURED, 500, absolute=True)
PAIR, BACKWARD = Bar(REPLAYED, 120, absolute=True), Bar(REPLAYED, 180, absolute=True)
TIMES_CUDNN = (Bar(REPLAYED, 5, gru.CUDNN), Bar(REPLAYED, 2.5, gru.CUDNN_REPLAYED))
EXCHANGE = Bar(gpu_exchange.GATHER, gpu_exchange.LIMIT_US, absolute=True)

Made = Iterator[partial[Entry]]


def operator_rows(device: torch.device) -> Made:
    yield partial(operators.copy_entry, device)
    for adam in (True, False):
        yield partial(operators.optimizer_entry, device, adam, PREDICTED["adam" if adam else "sgd"])
    for size in operators.SIZES:
        yield partial(operators.gather_entry, device, *size, PREDICTED["gather"])


def info_nce_rows(device: torch.device) -> Made:
    for dtype in ("fp32", "bf16"):
        bars = (FLOOR, AS_EAGER) if dtype == "fp32" else (FLOOR,)
        yield partial(operators.info_nce_entry, device, 65_536, dtype, PREDICTED[f"info_nce 65536 {dtype}"], bars)
        yield partial(operators.info_nce_entry, device, 64, dtype, PREDICTED["info_nce 64"])


def gru_rows(device: torch.device) -> Made:
    for backward, name in ((False, "gru forward"), (True, "gru forward + backward")):
        yield partial(gru.ragged_entry, device, backward, PREDICTED[name])
    yield partial(training.decoder_entry, device, False, PREDICTED["decoder"])


def steps(device: torch.device) -> Made:
    for size in (NW_UCLA, NTU):
        of_cml, of_ser = ((STEP, CML_STEP), (SER_STEP,)) if size is NTU else ((STEP,), ())
        yield partial(training.step_entry, device, CML, contrast_phase, size, PREDICTED["cml"], of_cml)
        yield partial(training.step_entry, device, SER, reconstruction_phase, size, PREDICTED["ser"], of_ser)
    yield partial(training.together_entry, device)


def cuda_gru(device: torch.device) -> Made:
    """The central size: both encoders, one in every mode, each exchange."""
    yield partial(gru.pair_entry, device, "tf32", PREDICTED["pair"], (PAIR, *TIMES_CUDNN))
    for mode in gru.MODES:
        variants = ("cluster", "l2") if mode == "tf32" else ()
        for kind in (gru.FORWARD, gru.KEPT, gru.BOTH):
            if mode == "tf32" or kind != gru.KEPT:
                row = partial(gru.gru_entry, device, gru.CENTRE, mode, kind, expected_us(mode, kind))
                yield partial(row, variants=variants, with_compiled=mode == "tf32" and kind != gru.KEPT)


def gru_grid(device: torch.device) -> Made:
    """The central size with one of B, T and H changed."""
    for case in gru.GRID:
        for kind in (gru.FORWARD, gru.BOTH):
            predicted = expected_us("tf32", kind, case)
            yield partial(gru.gru_entry, device, case, "tf32", kind, predicted, series=gru.FEW_SERIES)


def expected_us(mode: str, kind: str, case: Case = gru.CENTRE) -> float:
    backward = gpu_floors.backward_us(case, mode) if kind == gru.BOTH else 0.0
    return gpu_floors.forward_us(case, mode) + backward


def exchange_rows(device: torch.device) -> Made:
    for blocks in gpu_exchange.TEAMS:
        for way, itemsize in gpu_exchange.KINDS:
            row = partial(gpu_exchange.exchange_entry, device, way, blocks, itemsize)
            central = (blocks, way, itemsize) == (8, gpu_exchange.GATHER, 4)
            yield partial(row, PREDICTED["exchange"], (EXCHANGE,)) if central else row
    for way in (gpu_exchange.GATHER, gpu_exchange.SCATTER):
        yield partial(gpu_exchange.exchange_entry, device, way, 8, 4, teams=1)


def gru_peers(device: torch.device) -> Made:
    """Whoever has to be compiled first, which may take long."""
    for name in peers.OPEN:
        for mode in ("bf16", "tf32") if name == "FlashRNN" else ("tf32",):
            for backward in (False, True):
                yield partial(gru.open_peer_entry, device, name, mode, backward)
    for backward in (False, True):
        yield partial(gru.unrolled_entry, device, backward)


def compiled_decoder(device: torch.device) -> Made:
    yield partial(training.decoder_entry, device, True, PREDICTED["decoder compiled"])


CPU: dict[str, Callable[[], Made]] = {
    "gru_fp32": partial(gru.cpu_entries, "fp32"),
    "gru_bf16": partial(gru.cpu_entries, "bf16"),
    "operators": operators.cpu_entries,
    "skeleton": skeleton.entries,
    "streaming": streaming.entries,
    "training": training.cpu_entries,
}
GPU: dict[str, Callable[[torch.device], Made]] = {
    "operators": operator_rows,
    "info_nce": info_nce_rows,
    "gru": gru_rows,
    "steps": steps,
    "cuda_gru": cuda_gru,
    "exchange": exchange_rows,
    "gru_grid": gru_grid,
    "compiled_decoder": compiled_decoder,
    "gru_peers": gru_peers,
}
"""The groups whose time is least known come last."""


def derived(group: str, rows: list[Row]) -> list[Row]:
    """Rows that follow from a GPU group's others."""
    if group == "cuda_gru":
        return gru.differences(rows, gpu_floors.backward_us(NTU_CASE, "tf32"), (BACKWARD, *TIMES_CUDNN))
    if group == "steps":
        return training.extrapolated(rows, NTU[0], PREDICTED)
    return []


def run_group(name: str, entries: Made, run: Callable[[Entry], Row] = fill) -> Iterator[list[Row]]:
    """After each of a group's rows, all there are so far."""
    rows: list[Row] = []
    for make in entries:
        torch.manual_seed(len(rows))
        rows.append(run_row(name, make, run))
        print(rows[-1].summary(), flush=True)
        yield rows


def run_row(group: str, make: partial[Entry], run: Callable[[Entry], Row] = fill) -> Row:
    """Its row; of an entry that cannot even be made, one that says so."""
    try:
        entry = make()
    except Exception as error:
        return Row(group, make.func.__name__, failed=why(error))
    return run(entry)


def chosen(kind: str, names: list[str], known: Iterable[str]) -> list[str]:
    """The names that were given. Raises ValueError where there is none of that name."""
    if unknown := {*names} - {*known}:
        raise ValueError(f"no {kind} {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return names


def main(arguments: list[str]) -> int:
    group, path = arguments
    for rows in run_group(group, GPU[group](torch.device("cuda"))):
        Path(path).write_text(json.dumps([row.as_json() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
