"""Rows of whole models on a GPU: the GRU encoder, the decoder with its loss, and both training steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from bench import gpu_timing
from bench.cases import RAGGED, Case, Run, by_policy, on_device, problem, torch_gru, truth
from bench.gpu_rows import EAGER, REPLAYED, Bar, GpuRow
from bench.gpu_timing import Entry, GpuContender
from bench.peers import crrl_gru
from bench.steps import Training, clip_tensors, decoded, straightforward
from crrl.models import Decoder, Encoder, SequenceReconstructor
from crrl.training.phases import Phase

LIMIT = 3e-2
"""TF32 keeps 10 bits of a factor, and states pass through 60 frames; this catches a wrong result, not a rough one."""

CAPTURED = "crrl, captured"
WITH_CUDNN = "reference, cuDNN's GRU"
REFERENCE = "reference"
POLICIES = {EAGER: "auto", WITH_CUDNN: "reference,gru_layer=torch", REFERENCE: "reference"}
CML, SER = "CML", "SER+IF"
NTU_CLIPS, EPOCHS = 40_091, {CML: 100, SER: 60}
"""NTU RGB+D 60's training clips (cross-subject), and the paper's epochs of each step of Algorithm 1."""
PRETRAINING = Bar(CAPTURED, 180e6, absolute=True)
"""Of all their steps, measured or extrapolated."""
PARITY_STEPS = 5
"""The step that is compared: one warms up, captures, and replays once by then."""


def gru_entry(device: torch.device, backward: bool, predicted: float, case: Case = RAGGED) -> Entry:
    """Ragged rows: torch.nn.GRU packs them, crrl.nn.GRU runs them padded, with their lengths on the device."""
    host = problem(case)
    there = on_device(host, device)
    assert host.lengths is not None
    ours = crrl_gru(replace(there, lengths=host.lengths.to(device)), "fp32", backward)
    builds = {
        REPLAYED: lambda: GpuContender(REPLAYED, gpu_timing.replayed([ours]), LIMIT),
        EAGER: lambda: GpuContender(EAGER, ours, LIMIT),
        "torch.nn.GRU, packed": lambda: GpuContender("torch.nn.GRU, packed", torch_gru(there, "fp32", backward), LIMIT),
    }
    title = "forward + backward" if backward else "forward"
    row = GpuRow(f"GRU encoder, {case.title}, T={case.frames}", title, predicted_us=predicted)
    return Entry(row, builds, lambda: truth(case)[backward])


def decoder_runs(
    device: torch.device, batch: int, frames: int, channels: int, hidden: int
) -> tuple[SequenceReconstructor, list[Tensor]]:
    """A reconstructor and x, h, lengths for its decoder."""
    model = SequenceReconstructor(Encoder(channels, hidden, 0), Decoder(2 * hidden, channels, hidden, 0))
    lengths = torch.randint(max(frames // 6, 1), frames + 1, (batch,))
    inputs = [torch.randn(batch, frames, channels), torch.tanh(torch.randn(batch, frames, 2 * hidden)), lengths]
    return model.to(device), [tensor.to(device) for tensor in inputs]


def decoder_entry(
    device: torch.device, compiled: bool, predicted: float, sizes: tuple[int, int, int, int] = (32, 60, 150, 256)
) -> Entry:
    """The decoder, eager and replayed; `compiled`: eager and by torch.compile, a row of its own for what that takes."""
    model, inputs = decoder_runs(device, *sizes)
    exact = copy.deepcopy(model).cpu().double()
    doubles = [t.cpu().double() if t.is_floating_point() else t.cpu() for t in inputs]

    def compile() -> GpuContender:
        other = copy.deepcopy(model)
        other.compiled = True
        return GpuContender("crrl, torch.compile", decoded(other, *inputs), LIMIT)

    builds = {
        "crrl, torch.compile": compile,
        REPLAYED: lambda: GpuContender(REPLAYED, gpu_timing.replayed([decoded(model, *inputs)]), LIMIT),
        EAGER: lambda: GpuContender(EAGER, decoded(model, *inputs), LIMIT),
    }
    builds.pop(REPLAYED if compiled else "crrl, torch.compile")
    title = f"{'compiled' if compiled else 'as it is'}, T={sizes[1]}, B={sizes[0]}"
    row = GpuRow("decoder + loss, forward + backward", title, predicted_us=predicted)
    return Entry(row, builds, by_policy(decoded(exact, *doubles), "reference"))


def nth(run: Run, steps: int = PARITY_STEPS) -> Run:
    """The results of the last of so many calls."""
    return lambda: [run() for _ in repeat(None, steps)][-1]


def step_entry(
    device: torch.device, name: str, make: Callable[[int], Phase], size: tuple[str, int, int], predicted: float,
    bars: tuple[Bar, ...] = (), batch: int = 32,
) -> Entry:  # fmt: skip
    """A whole step: captured, eager, by the reference with and without cuDNN's GRU, and as it is written first.

    size: its name, joints, the longest clip's frames.
    """
    title, joints, longest = size
    torch.manual_seed(0)
    host, tensors = (clip_tensors(joints, longest, place) for place in (torch.device("cpu"), device))
    start, index = make(3 * joints), torch.arange(batch)

    def build(peer: str, make_run: Callable[[], Run]) -> GpuContender:
        run = make_run()
        return GpuContender(peer, run, LIMIT, results=nth(run))

    captured = partial(Training, start, tensors, index, "auto", capture=True)
    builds: dict[str, Callable[[], GpuContender]] = {CAPTURED: partial(build, CAPTURED, captured)}
    for peer, policy in POLICIES.items():
        builds[peer] = partial(build, peer, partial(Training, start, tensors, index, policy))
    builds["straightforward"] = partial(build, "straightforward", partial(straightforward, start, tensors, index))
    row = GpuRow(step_group(title, batch), name, bars=bars, predicted_us=predicted)
    return Entry(row, builds, nth(Training(start, host, index, "reference")))


def step_group(size: str, batch: int = 32) -> str:
    return f"training step, {size} size, B={batch}"


def extrapolated(rows: Sequence[GpuRow], size: str, predicted: Mapping[str, float], batch: int = 32) -> list[GpuRow]:
    """NTU-60-sized pretraining, from the measured steps: what its steps take, one after the other, and nothing else."""
    steps = {name: epochs * (NTU_CLIPS // batch) for name, epochs in EPOCHS.items()}
    measured = {row.title: row.median_ms() for row in rows if row.group == step_group(size, batch)}
    if not all(CAPTURED in measured.get(name, {}) for name in steps):
        return []
    took = sum(count * measured[name][CAPTURED] for name, count in steps.items())
    foreseen = sum(count * predicted[name.split("+")[0].lower()] for name, count in steps.items())
    title = f"{NTU_CLIPS:,} clips, {EPOCHS[CML]} + {EPOCHS[SER]} epochs, extrapolated from its steps"
    row = GpuRow("pretraining", title, calls_ms={CAPTURED: [took]}, bars=(PRETRAINING,))
    row.predicted_us = foreseen
    return [row]
