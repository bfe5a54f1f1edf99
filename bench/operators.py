"""Rows of the operators, on a CPU and on a GPU: the gather, InfoNCE, the optimizer step with the momentum update.

On a CPU the epoch of the linear protocol, too; on a GPU the copy whose bandwidth floors are computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bench import timing
from bench.cases import DTYPES, Run, by_policy
from bench.report import COPY
from bench.rows import COMPILED, CRRL, EAGER, REPLAYED, TORCH, Bar, Row, to_beat
from bench.timing import SERIES, Contender, Entry, in_turn
from crrl import ops
from crrl.models import Encoder, MLPHead
from crrl.ops import infonce
from crrl.reference import contrast, motion, optim

CPU = torch.device("cpu")
TEMPERATURE = 0.07
LR, MOMENTUM, BETA2, EPS, FOLLOW = 1e-3, 0.9, 0.999, 1e-8, 0.999
SETS = 4
"""Sets of inputs that a row goes through on a GPU, together larger than a cache."""
PYTORCH, PYTORCH_REPLAYED = "PyTorch, eager", "PyTorch, graph replay"
FLOOR = Bar(REPLAYED, 1.5)
SIZES = (("NW-UCLA", 60, 50), ("NTU", 150, 60))
"""Of batches: whose, channels of a frame, the longest clip's frames."""


def ragged_clips(clips: int, channels: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """frames [ΣT, C], offsets [N + 1] and lengths [N] of clips of 10 frames to the longest."""
    lengths = torch.randint(10, longest + 1, (clips,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return torch.randn(int(offsets[-1]), channels), offsets, lengths


def info_nce_inputs(
    device: torch.device, keys: int, dtype: torch.dtype, batch: int, features: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, D] of any length, k [B, D] and the queue [K, D], L2-normalised."""
    q = torch.randn(batch, features, device=device)
    k, queue = (F.normalize(torch.randn(rows, features, device=device)) for rows in (batch, keys))
    return q.to(dtype), k.to(dtype), queue.to(dtype)


def differentiated(loss: Callable[..., Tensor], q: Tensor, k: Tensor, queue: Tensor) -> Run:
    """A call of `loss`, and its gradient by q."""
    leaf = q.detach().requires_grad_()

    def run() -> list[Tensor]:
        value = loss(leaf, k, queue, TEMPERATURE)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    return run


@dataclass
class Stepped:
    """An optimizer on tensors of its own, that can be taken back to its start.

    Attributes:
        step: changes parameters and keys. moments: the state that is zero at the start, as far as there is any yet.
    """

    step: Callable[[], None]
    parameters: list[Tensor]
    keys: list[Tensor]
    moments: Callable[[], list[Tensor]]

    def __post_init__(self) -> None:
        self.start = [tensor.detach().clone() for tensor in (*self.parameters, *self.keys)]

    def run(self) -> list[Tensor]:
        self.step()
        return []

    @torch.no_grad()
    def results(self, run: Callable[[], object]) -> list[Tensor]:
        """Parameters and keys, end to end, after one run from the start."""
        for tensor, value in zip((*self.parameters, *self.keys), self.start, strict=True):
            tensor.copy_(value)
        for moment in self.moments():
            moment.zero_()
        run()
        return [torch.cat([t.detach().flatten() for t in tensors]) for tensors in (self.parameters, self.keys)]


def flat(step: Callable[..., None], adam: bool, tensors: list[list[Tensor]]) -> Stepped:
    """A step of `step`, which has flat_step's arguments, on copies of parameters, gradients and keys."""
    parameters, gradients, keys = (torch.cat([t.flatten() for t in group]) for group in tensors)
    moments = [torch.zeros_like(parameters) for _ in range(2 if adam else 1)]
    rates = torch.tensor([LR, MOMENTUM, 1 - MOMENTUM, 1 - BETA2]).to(parameters)
    settings: dict[str, Any] = {"beta2": BETA2, "eps": EPS, "momentum_head": FOLLOW, "momentum_tail": FOLLOW}

    def run() -> None:
        step(parameters, gradients, moments[0], moments[1] if adam else None, keys, rates, **settings)

    return Stepped(run, [parameters], [keys], lambda: moments)


def by_torch(way: str, adam: bool, tensors: list[list[Tensor]], capturable: bool = False) -> Stepped:
    """torch.optim, "fused" or "foreach", on copies; then the keys follow by the fastest of its lists of tensors."""
    parameters, gradients, keys = ([t.clone() for t in group] for group in tensors)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_().grad = gradient
    optimizer: torch.optim.Optimizer
    if adam:
        extra = {"capturable": True} if capturable else {}
        optimizer = torch.optim.Adam(parameters, LR, (MOMENTUM, BETA2), EPS, **{way: True}, **extra)
    else:
        optimizer = torch.optim.SGD(parameters, LR, MOMENTUM, **{way: True})

    @torch.no_grad()
    def run() -> None:
        optimizer.step()
        torch._foreach_lerp_(keys, parameters, 1 - FOLLOW)

    def moments() -> list[Tensor]:
        values = [value for state in optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    return Stepped(run, parameters, keys, moments)


def optimizer_tensors(device: torch.device, channels: int, hidden: int) -> list[list[Tensor]]:
    """Parameters of an encoder and its MLP, gradients and keys of their shapes."""
    modules = [Encoder(channels, hidden), MLPHead(2 * hidden)]
    parameters = [p.detach().to(device) for module in modules for p in module.parameters()]
    return [parameters, *([torch.randn_like(p) for p in parameters] for _ in range(2))]


# --- On a CPU --------------------------------------------------------------------------------------------------------


def cpu_entries() -> Iterator[partial[Entry]]:
    yield from (partial(cpu_gather_entry, *size) for size in SIZES)
    yield from (partial(cpu_info_nce_entry, keys) for keys in (64, 65_536))
    yield from (partial(cpu_optimizer_entry), partial(linear_entry))


def single(run: Run, limit: float, **settings: Any) -> Callable[[], Contender]:
    return lambda: Contender(run, limit, **settings)


def cpu_gather_entry(name: str, channels: int, longest: int) -> Entry:
    frames, offsets, lengths = ragged_clips(1000, channels, longest)
    index = torch.randperm(1000)[:32]
    frames_max = int(lengths[index].max())

    def gather() -> list[Tensor]:
        x, v, _ = ops.ragged_gather(frames, offsets, index, frames_max, with_velocity=True)
        assert v is not None
        return [x, v]

    def collate() -> list[Tensor]:
        clips = [frames[offsets[i] : offsets[i + 1]] for i in index.tolist()]
        x = pad_sequence(clips, batch_first=True)
        return [x, motion.velocity(x, lengths[index])]

    reference = by_policy(gather, "ragged_gather=reference")
    runs = {CRRL: by_policy(gather, "ragged_gather=cpu"), "reference": reference, "per-clip collate": collate}
    row = Row("ragged gather + velocity", f"{name}, B=32")
    return Entry(row, {peer: single(run, 0) for peer, run in runs.items()}, reference)


def cpu_info_nce_entry(keys: int, batch: int = 32, features: int = 512) -> Entry:
    tensors = info_nce_inputs(CPU, keys, torch.float32, batch, features)
    # Logits of up to 1 / temperature, their sums in another order: torch's own distance is up to a tenth of this.
    losses = {CRRL: ops.info_nce, TORCH: contrast.info_nce}
    builds = {name: single(differentiated(loss, *tensors), 2e-6) for name, loss in losses.items()}
    row = Row("InfoNCE, loss + gradient", f"K={keys}, D={features}, B={batch}", bars=to_beat(TORCH))
    return Entry(row, builds, differentiated(contrast.info_nce, *(tensor.double() for tensor in tensors)))


def cpu_optimizer_entry() -> Entry:
    """Adam, then the keys follow: ours in one pass, theirs by torch.optim and the fastest of its lists of tensors."""
    tensors = optimizer_tensors(CPU, 150, 256)
    steps = {CRRL: flat(ops.flat_step, True, tensors)}
    steps |= {f"torch {way}": by_torch(way, True, tensors) for way in ("fused", "foreach")}
    builds = {name: single(s.run, 1e-6, results=partial(s.results, s.run)) for name, s in steps.items()}
    row = Row("Optimizer step: Adam + momentum update", "2.3 million parameters", bars=to_beat("torch fused"))
    exact = flat(optim.flat_step, True, [[t.double() for t in group] for group in tensors])
    return Entry(row, builds, lambda: exact.results(exact.run))


def linear_entry(train: int = 40_091, test: int = 16_487, epochs: str = "1 of 85 epochs: 2,506 steps") -> Entry:
    """One of the epochs of a linear evaluation of NTU 60's size, with the accuracy on its test clips."""
    means = 0.05 * torch.randn(60, 512)

    def clips(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 60, (count,))
        return means[labels] + 0.1 * torch.randn(count, 512), labels

    (features, labels), (tested, _), order = clips(train), clips(test), torch.randperm(train)
    start = 0.01 * torch.randn(60, 512)
    # Thousands of steps, each from the rounded result of the one before.
    builds = {
        CRRL: single(probe_epoch(start, features, labels, tested, order), 3, relative_to=TORCH, least=1e-6),
        TORCH: single(torch_probe_epoch(start, features, labels, tested, order), 1e-4),
    }
    row = Row("Linear protocol, NTU 60's size", f"{epochs} of 16 clips, D=512", bars=to_beat(TORCH))
    exact = probe_epoch(start.double(), features.double(), labels, tested.double(), order)
    return Entry(row, builds, by_policy(exact, "linear_epoch=reference"))


def probe_epoch(start: Tensor, features: Tensor, labels: Tensor, test: Tensor, order: Tensor) -> Run:
    """The epoch by ops.linear_epoch; gives weights, biases and the logits of the test clips."""

    def run() -> list[Tensor]:
        parameters = start.clone(), start.new_zeros(len(start))
        momenta = torch.zeros_like(start), torch.zeros_like(parameters[1])
        ops.linear_epoch(features, labels, order, 16, parameters, momenta, 0.1, 0.9)
        return [*parameters, F.linear(test, *parameters)]

    return run


def torch_probe_epoch(start: Tensor, features: Tensor, labels: Tensor, test: Tensor, order: Tensor) -> Run:
    """The same as one writes it with torch.nn and torch.optim."""

    def run() -> list[Tensor]:
        classifier = nn.Linear(start.shape[1], len(start))
        classifier.weight.data.copy_(start)
        classifier.bias.data.zero_()
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        for index in torch.split(order, 16):
            loss = F.cross_entropy(classifier(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return [classifier.weight, classifier.bias, classifier(test)]

    return run


# --- On a GPU --------------------------------------------------------------------------------------------------------


def copy_entry(device: torch.device, numbers: int = 2**30) -> Entry:
    """One large buffer into another: the bandwidth of the floors."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)

    def run() -> list[Tensor]:
        target.copy_(source)
        return [target[:1000]]

    row = Row(COPY, f"{4 * numbers / 2**30:g} GiB", bytes=8.0 * numbers, predicted_us=8 * numbers / 4.3e6)
    return Entry(row, {"copy_": single(run, 0)}, lambda: [source[:1000]], SERIES)


def contender(runs: Sequence[Run], limit: float) -> Contender:
    """Calls as a user makes them, each on the next set of inputs; the results are those of the first set."""
    return Contender(in_turn(runs), limit, results=runs[0])


def replay(runs: Sequence[Run], limit: float) -> Contender:
    """The calls of all sets as one CUDA graph."""
    return Contender(timing.replayed(runs), limit, calls=len(runs))


def info_nce_entry(
    device: torch.device, keys: int, dtype: str, predicted: float, bars: tuple[Bar, ...] = (), batch: int = 32,
    features: int = 512,
) -> Entry:  # fmt: skip
    """Loss and dq. The replay of ours is the operator, which gives both; eager ours goes through autograd."""
    sets = [info_nce_inputs(device, keys, DTYPES[dtype], batch, features) for _ in range(SETS)]
    ours = [partial(infonce.info_nce_op, *tensors, TEMPERATURE) for tensors in sets]
    public = [differentiated(ops.info_nce, *tensors) for tensors in sets]
    theirs = [differentiated(contrast.info_nce, *tensors) for tensors in sets]
    compiled = torch.compile(contrast.info_nce, dynamic=False)
    # float32: logits of up to 1/0.07, their sums in another order. bfloat16: dq is rounded to 8 bits; PyTorch rounds
    # its logits to 8 bits as well.
    limit, loose = (5e-6, 5e-6) if dtype == "fp32" else (1e-2, 0.1)
    builds = {
        REPLAYED: lambda: replay(ours, limit),
        EAGER: lambda: contender(public, limit),
        PYTORCH: lambda: contender(theirs, loose),
        PYTORCH_REPLAYED: lambda: replay(theirs, loose),
        COMPILED: lambda: contender([differentiated(compiled, *tensors) for tensors in sets], loose),
    }
    size = queue_bytes(keys, batch, features, DTYPES[dtype].itemsize)
    row = Row("InfoNCE, loss + dq", f"K={keys}, D={features}, B={batch}, {dtype}", dtype, bytes=size, bars=bars)
    row.predicted_us = predicted
    exact = [tensor.cpu().double() for tensor in sets[0]]
    return Entry(row, builds, differentiated(contrast.info_nce, *exact), SERIES)


def queue_bytes(keys: int, batch: int, features: int, itemsize: int) -> float:
    """queue, q and k in, dq out."""
    return float(features * (keys + 3 * batch) * itemsize)


def optimizer_entry(
    device: torch.device, adam: bool, predicted: float, channels: int = 150, hidden: int = 256
) -> Entry:
    """Optimizer step and Eq. 5 in one pass, against torch's optimizers and a pass of their own for Eq. 5."""
    sets = [optimizer_tensors(device, channels, hidden) for _ in range(SETS)]
    total = sum(parameter.numel() for parameter in sets[0][0])

    def build(make: Callable[[list[list[Tensor]]], Stepped], graph: bool) -> Contender:
        made = [make(tensors) for tensors in sets]
        run = timing.replayed([one.run for one in made]) if graph else in_turn([one.run for one in made])
        first = run if graph else made[0].run
        calls = len(sets) if graph else 1
        return Contender(run, 2e-6, results=lambda: made[0].results(first), calls=calls)

    ours = partial(flat, ops.flat_step, adam)
    builds = {REPLAYED: partial(build, ours, True), EAGER: partial(build, ours, False)}
    for way in ("fused", "foreach"):
        builds[f"torch {way}, eager"] = partial(build, partial(by_torch, way, adam), False)
    builds["torch fused, graph replay"] = partial(build, partial(by_torch, "fused", adam, capturable=True), True)
    row = Row(
        "Optimizer step + momentum update",
        f"{'Adam' if adam else 'SGD'}, {total / 1e6:.2f} million parameters in {len(sets[0][0])} tensors",
        bytes=float(total * 4 * (9 if adam else 7)),  # p, m, keys (and v) read and written, gradients read
        bars=(FLOOR,),
        predicted_us=predicted,
    )
    exact = flat(optim.flat_step, adam, [[t.cpu().double() for t in group] for group in sets[0]])
    return Entry(row, builds, lambda: exact.results(exact.run), SERIES)


def gather_entry(
    device: torch.device, name: str, channels: int, longest: int, predicted: float, clips: int = 1000, batch: int = 32
) -> Entry:
    """A padded batch and its velocity out of a flat array; each call takes other clips."""
    frames, offsets, lengths = ragged_clips(clips, channels, longest)
    picked = [torch.randperm(clips)[:batch] for _ in range(SETS)]
    data = (frames.to(device), offsets.to(device))

    def runs(gather: Callable[..., Any]) -> list[Run]:
        return [partial(gather, *data, index.to(device), longest, True) for index in picked]

    ours, theirs = runs(ops.ragged_gather), runs(motion.ragged_gather)
    builds = {
        REPLAYED: lambda: replay(ours, 0),
        EAGER: lambda: contender(ours, 0),
        PYTORCH: lambda: contender(theirs, 0),
        PYTORCH_REPLAYED: lambda: replay(theirs, 0),
    }
    valid = float(torch.cat([lengths[index] for index in picked]).sum()) / len(picked)
    size = 4.0 * channels * (valid + 2 * batch * longest)
    row = Row("ragged gather + velocity", f"{name}, B={batch}", bytes=size, predicted_us=predicted)
    exact = lambda: motion.ragged_gather(frames, offsets, picked[0], longest, True)  # noqa: E731
    return Entry(row, builds, exact, SERIES)  # type: ignore[arg-type]
