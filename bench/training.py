"""Rows of whole training steps, and of the decoder with its loss, on a CPU and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from bench import timing
from bench.cases import Run, by_policy
from bench.rows import CRRL, EAGER, REPLAYED, Bar, Row, to_beat
from bench.straightforward import Contrast, Reconstruction
from bench.timing import SERIES, Contender, Entry, made
from crrl import ops
from crrl.data import Batch, Clips, ClipTensors
from crrl.methods import METHODS
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.ops.gru import cuda as gru_cuda
from crrl.optim import FlatAdam, views
from crrl.train import set_up_process
from crrl.training.phases import Phase
from crrl.training.ranks import Ranks
from crrl.training.step import Step

CPU = torch.device("cpu")
CML, SER = "CML", "SER+IF"

STEPS = 64
"""Steps between two beginnings of an epoch."""


def clip_tensors(joints: int, longest: int, device: torch.device) -> ClipTensors:
    """256 clips of 12 frames to the longest."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, longest + 1, (256,), generator=generator).tolist()
    clips = [torch.rand(length, joints, 3, generator=generator).numpy() * 2 - 1 for length in lengths]
    made = Clips.from_arrays(clips, labels=[0] * 256, names=[str(i) for i in range(256)], class_names=["any"])
    return ClipTensors(made, device)


class FixedTeacher:
    """Features of ones: a teacher computes its own once and for all, before training."""

    def __init__(self, features: int):
        self._features = features

    def features(self, batch: Batch) -> Tensor:
        return batch.x.new_ones(len(batch.x), self._features)


def contrast_phase(channels: int, hidden: int = 256) -> Phase:
    learner = ContrastiveMotionLearner(Encoder(channels, hidden, dropout=0), 64, 0.1, 0.999, 1.0)
    return Phase(METHODS["cml"][0], InformationFuser(learner=learner), Ranks())


def reconstruction_phase(channels: int, hidden: int = 256) -> Phase:
    encoder = Encoder(channels, hidden, dropout=0)
    reconstructor = SequenceReconstructor(encoder, Decoder(2 * hidden, channels, hidden, dropout=0))
    teacher = FixedTeacher(2 * hidden)
    return Phase(METHODS["crrl"][1], InformationFuser(reconstructor, 2.0), Ranks(), teacher)  # type: ignore[arg-type]


def moved(start: Phase, device: torch.device) -> Phase:
    """A copy on the device."""
    phase = copy.deepcopy(start)
    phase.module.to(device)
    return phase


def straightforward(start: Phase, tensors: ClipTensors, index: Tensor) -> Run:
    """The same step as it is written first, from a copy of the weights, where the clips lie."""
    module = moved(start, tensors.frames.device).module
    if module.learner is not None:
        return Contrast(module.learner, tensors, index)
    teacher = torch.ones(len(index), module.encoder.features, device=tensors.frames.device)
    return Reconstruction(module, teacher, tensors, index)


def decoded(model: SequenceReconstructor, x: Tensor, h: Tensor, lengths: Tensor) -> Run:
    """The decoder and L_r: the loss, and the gradients by h and the decoder's weights."""
    leaf, weights = h.detach().requires_grad_(), list(model.decoder.parameters())

    def run() -> list[Tensor]:
        loss = model.loss_r(x, leaf, lengths)
        return [loss.detach(), *torch.autograd.grad(loss, [leaf, *weights])]

    return run


class Training:
    """Steps of Adam at learning rate 0 from a copy of `start`, where the clips lie; a call is one step.

    Args:
        start: the phase. tensors: the clips. index: int64 [B], those of every batch. policy: of the backends.
        capture: replay each step as one CUDA graph. bf16: multiply matrices in bfloat16.
    """

    def __init__(
        self,
        start: Phase,
        tensors: ClipTensors,
        index: Tensor,
        policy: str,
        capture: bool = False,
        bf16: bool = False,
    ):
        phase, device = moved(start, tensors.frames.device), tensors.frames.device
        parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
        self.optimizer = FlatAdam(parameters, lr=0, follow=phase.follow, spare=len(phase.losses))
        rates = torch.tensor([self.optimizer.rates(0.0, 0.9, 1)]).repeat(STEPS, 1).to(device)
        self.step = Step(phase, self.optimizer, tensors, rates, Ranks(), capture, bf16)
        self.order, self.policy, self.share = index.repeat(STEPS).to(device), policy, Ranks().share(len(index))
        self._taken = STEPS

    def __call__(self) -> Sequence[Tensor]:
        """The loss of one step and all its gradients, in memory that the next one writes."""
        if self._taken == STEPS:
            self._taken = 0
            self.step.begin_epoch(self.order, 0)
            self.step.number.zero_()
        self._taken += 1
        with ops.use_backends(self.policy):
            self.step(self.share, full=True)
        return [self.step.loss, *views(self.optimizer.gradients, self.optimizer.parameters)]


# --- On a CPU --------------------------------------------------------------------------------------------------------

BATCH = 32
NW_UCLA, NTU = ("NW-UCLA", 20, 50), ("NTU", 50, 60)
"""A data set's name, joints, and the longest clip's frames."""
FP32 = 1e-4
"""Losses and gradients of a whole step, each side's sums in an order of its own."""


def cpu_entries() -> Iterator[partial[Entry]]:
    for entry in (cpu_step_entry, cpu_bf16_step_entry):
        yield from (partial(entry, CML, contrast_phase), partial(entry, SER, reconstruction_phase))
    yield partial(cpu_decoder_entry)


def step_inputs(
    make: Callable[[int], Phase], size: tuple[str, int, int], batch: int = BATCH
) -> tuple[Phase, ClipTensors, Tensor]:
    """What Training is made of, on the CPU."""
    torch.manual_seed(0)
    _, joints, longest = size
    tensors = clip_tensors(joints, longest, CPU)
    return make(3 * joints), tensors, torch.arange(batch)


def cpu_step_entry(name: str, make: Callable[[int], Phase], size: tuple[str, int, int] = NW_UCLA) -> Entry:
    """With --fused, with it but torch's GRU, without it (the reference), and straightforwardly."""
    set_up_process(CPU)
    inputs = step_inputs(make, size)
    policies = {CRRL: "auto", "torch.nn.GRU": "gru_layer=torch", "reference": "reference"}
    builds = {peer: made(FP32, partial(Training, *inputs, policy)) for peer, policy in policies.items()}
    builds["straightforward"] = made(FP32, partial(straightforward, *inputs))
    row = Row(step_group(size[0]), name, bars=to_beat("straightforward"))
    return Entry(row, builds, Training(*inputs, "reference"))


def cpu_bf16_step_entry(name: str, make: Callable[[int], Phase], size: tuple[str, int, int] = NW_UCLA) -> Entry:
    set_up_process(CPU)
    inputs = step_inputs(make, size)
    builds = {
        # Rounding operands to bfloat16 is the error of both: ours is to be no more than twice the other's.
        CRRL: made(2, partial(Training, *inputs, "auto", bf16=True), relative_to="torch.nn.GRU"),
        "torch.nn.GRU": made(0.1, partial(Training, *inputs, "gru_layer=torch", bf16=True)),
        "straightforward fp32": made(FP32, partial(straightforward, *inputs)),
    }
    row = Row(f"{step_group(size[0])}, bf16", name, "bf16", bars=to_beat("straightforward fp32"))
    return Entry(row, builds, Training(*inputs, "reference"))


def cpu_decoder_entry(sizes: tuple[int, int, int, int] = (BATCH, 50, 60, 256)) -> Entry:
    """The decoder and its loss, forward and backward: as it is, and by torch.compile."""
    model, inputs = decoder_runs(CPU, *sizes)

    def decoding(policy: str, compiled: bool = False) -> Run:
        part = copy.deepcopy(model)
        part.compiled = compiled
        return by_policy(decoded(part, *inputs), policy)

    builds = {
        CRRL: made(FP32, partial(decoding, "auto")),
        "torch.compile": made(FP32, partial(decoding, "auto", compiled=True)),
        "reference": made(FP32, partial(decoding, "reference")),
    }
    return Entry(Row("decoder and loss, forward + backward", "NW-UCLA, B=32"), builds, decoding("reference"))


# --- On a GPU --------------------------------------------------------------------------------------------------------

LIMIT = 3e-2
"""TF32 keeps 10 bits of a factor, and states pass through 60 frames; this catches a wrong result, not a rough one."""

CAPTURED = "crrl, captured"
WITH_CUDNN = "reference, cuDNN's GRU"
REFERENCE = "reference"
POLICIES = {EAGER: "auto", WITH_CUDNN: "reference,gru_layer=torch", REFERENCE: "reference"}
NTU_CLIPS, EPOCHS = 40_091, {CML: 100, SER: 60}
"""NTU RGB+D 60's training clips (cross-subject), and the paper's epochs of each step of Algorithm 1."""
PRETRAINING = Bar(CAPTURED, 180e6, absolute=True)
"""Of all their steps, measured or extrapolated."""
PARITY_STEPS = 5
"""The step that is compared: one warms up, captures, and replays once by then."""


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

    def compile() -> Contender:
        other = copy.deepcopy(model)
        other.compiled = True
        return Contender(decoded(other, *inputs), LIMIT)

    builds = {
        "crrl, torch.compile": compile,
        REPLAYED: lambda: Contender(timing.replayed([decoded(model, *inputs)]), LIMIT),
        EAGER: lambda: Contender(decoded(model, *inputs), LIMIT),
    }
    builds.pop(REPLAYED if compiled else "crrl, torch.compile")
    title = f"{'compiled' if compiled else 'as it is'}, T={sizes[1]}, B={sizes[0]}"
    row = Row("decoder + loss, forward + backward", title, predicted_us=predicted)
    return Entry(row, builds, by_policy(decoded(exact, *doubles), "reference"), SERIES)


def nth(run: Run, steps: int = PARITY_STEPS) -> Run:
    """The results of the last of so many calls."""
    return lambda: [run() for _ in repeat(None, steps)][-1]


def step_entry(
    device: torch.device, name: str, make: Callable[[int], Phase], size: tuple[str, int, int], predicted: float,
    bars: tuple[Bar, ...] = (), batch: int = BATCH,
) -> Entry:  # fmt: skip
    """A whole step: captured, eager, by the reference with and without cuDNN's GRU, and as it is written first."""
    start, host, index = step_inputs(make, size, batch)
    tensors = clip_tensors(*size[1:], device)

    def build(make_run: Callable[[], Run]) -> Contender:
        run = make_run()
        return Contender(run, LIMIT, results=nth(run))

    builds = {CAPTURED: partial(build, partial(Training, start, tensors, index, "auto", capture=True))}
    for peer, policy in POLICIES.items():
        builds[peer] = partial(build, partial(Training, start, tensors, index, policy))
    builds["straightforward"] = partial(build, partial(straightforward, start, tensors, index))
    row = Row(step_group(size[0], batch), name, bars=bars, predicted_us=predicted)
    return Entry(row, builds, nth(Training(start, host, index, "reference")), SERIES)


class SideBySide:
    """A step of each of several runs, on a GPU on a stream of its own; a call gives the results of the last."""

    def __init__(self, runs: Sequence[Training], device: torch.device):
        self.runs, self.device = runs, device
        self.streams = [torch.cuda.Stream(device) for _ in runs] if device.type == "cuda" else []

    def __call__(self) -> Sequence[Tensor]:
        with gru_cuda.side_by_side(len(self.runs)):
            if not self.streams:
                return [run() for run in self.runs][-1]
            here = torch.cuda.current_stream(self.device)
            for run, stream in zip(self.runs, self.streams, strict=True):
                stream.wait_stream(here)
                with torch.cuda.stream(stream):
                    results = run()
            for stream in self.streams:
                here.wait_stream(stream)
            return results


MANY = (1, 2, 4)


def together_entry(
    device: torch.device, make: Callable[[int], Phase] = contrast_phase, size: tuple[str, int, int] = NW_UCLA,
    batch: int = BATCH,
) -> Entry:  # fmt: skip
    """What a captured step of CML takes of the GPU where several runs train side by side (`crrl train ... -- ...`)."""
    start, host, index = step_inputs(make, size, batch)
    tensors = clip_tensors(*size[1:], device)

    def build(many: int) -> Contender:
        runs = [Training(start, tensors, index, "auto", capture=True) for _ in range(many)]
        run = SideBySide(runs, device)
        return Contender(run, LIMIT, results=nth(run), calls=many)

    builds = {f"of {many}": partial(build, many) for many in MANY}
    row = Row(step_group(size[0], batch), f"{CML}, one of so many side by side")
    return Entry(row, builds, nth(Training(start, host, index, "reference")), SERIES)


def step_group(size: str, batch: int = BATCH) -> str:
    return f"training step, {size} size, B={batch}"


def extrapolated(rows: Sequence[Row], size: str, predicted: Mapping[str, float]) -> list[Row]:
    """NTU-60-sized pretraining, from the measured steps: what its steps take, one after the other, and nothing else."""
    steps = {name: epochs * (NTU_CLIPS // BATCH) for name, epochs in EPOCHS.items()}
    measured = {row.title: row.median_ms() for row in rows if row.group == step_group(size)}
    if not all(CAPTURED in measured.get(name, {}) for name in steps):
        return []
    took = sum(count * measured[name][CAPTURED] for name, count in steps.items())
    foreseen = sum(count * predicted[name.split("+")[0].lower()] for name, count in steps.items())
    title = f"{NTU_CLIPS:,} clips, {EPOCHS[CML]} + {EPOCHS[SER]} epochs, extrapolated from its steps"
    row = Row("pretraining", title, calls_ms={CAPTURED: [took]}, bars=(PRETRAINING,))
    row.predicted_us = foreseen
    return [row]
