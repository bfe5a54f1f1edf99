"""The other operators on this CPU, each backend against the reference and the code one would write first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bench.cases import Run
from bench.operators import Stepped, by_torch, differentiated, flat, info_nce_inputs, optimizer_tensors, ragged_clips
from bench.rows import Row
from bench.timing import Contender
from crrl import ops
from crrl.reference import contrast, optim
from crrl.reference.motion import velocity

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "channels", "longest"), [("NW-UCLA", 60, 50), ("NTU", 150, 60)])
def test_ragged_gather(compare: Callable[..., None], name: str, channels: int, longest: int) -> None:
    torch.manual_seed(0)
    frames, offsets, lengths = ragged_clips(1000, channels, longest)
    index = torch.randperm(1000)[:32]
    frames_max = int(lengths[index].max())

    def backend(choice: str) -> list[Tensor]:
        with ops.use_backends(f"ragged_gather={choice}"):
            x, v, _ = ops.ragged_gather(frames, offsets, index, frames_max, with_velocity=True)
        assert v is not None
        return [x, v]

    def collate() -> list[Tensor]:
        clips = [frames[offsets[i] : offsets[i + 1]] for i in index.tolist()]
        x = pad_sequence(clips, batch_first=True)
        return [x, velocity(x, lengths[index])]

    runs = {"crrl": lambda: backend("cpu"), "reference": lambda: backend("reference"), "per-clip collate": collate}
    contenders = [Contender(peer, run, limit=0) for peer, run in runs.items()]
    compare(Row("ragged gather + velocity", f"{name}, B=32"), contenders, backend("reference"))


@pytest.mark.parametrize("keys", [64, 65_536])
def test_info_nce(compare: Callable[..., None], keys: int) -> None:
    torch.manual_seed(0)
    batch, features = 32, 512
    tensors = info_nce_inputs(CPU, keys, torch.float32, batch, features)
    runs = {"crrl": differentiated(ops.info_nce, *tensors), "torch": differentiated(contrast.info_nce, *tensors)}
    row = Row("InfoNCE, loss + gradient", f"K={keys}, D={features}, B={batch}", bar="torch")
    # Logits of up to 1 / temperature, their sums in another order: torch's own distance is up to a tenth of this.
    contenders = [Contender(name, run, limit=2e-6) for name, run in runs.items()]
    compare(row, contenders, differentiated(contrast.info_nce, *(tensor.double() for tensor in tensors))())


def test_optimizer_step(compare: Callable[..., None]) -> None:
    """Adam, then the keys follow: ours in one pass, theirs by torch.optim and the fastest of its lists of tensors."""
    torch.manual_seed(0)
    tensors = optimizer_tensors(CPU, 150, 256)
    peers = {f"torch {way}": by_torch(way, True, tensors) for way in ("fused", "foreach")}
    runs = {"crrl": flat(ops.flat_step, True, tensors), **peers}
    row = Row("Optimizer step: Adam + momentum update", "2.3 million parameters", bar="torch fused")
    expected = in_place(flat(optim.flat_step, True, [[t.double() for t in group] for group in tensors]))()
    compare(row, [Contender(name, in_place(run), limit=1e-6) for name, run in runs.items()], expected)


def test_linear_protocol(compare: Callable[..., None]) -> None:
    """One of the 85 epochs of a linear evaluation of NTU 60's size, with the accuracy on its test clips."""
    generator = torch.Generator().manual_seed(0)
    means = 0.05 * torch.randn(60, 512, generator=generator)

    def clips(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 60, (count,), generator=generator)
        return means[labels] + 0.1 * torch.randn(count, 512, generator=generator), labels

    train, test, order = clips(40_091), clips(16_487), torch.randperm(40_091, generator=generator)
    start = 0.01 * torch.randn(60, 512, generator=generator)
    runs = {
        "crrl": probe_epoch(start, *train, test[0], order),
        "torch": torch_probe_epoch(start, *train, test[0], order),
    }
    row = Row("Linear protocol, NTU 60's size", "1 of 85 epochs: 2,506 steps of 16 clips, D=512", bar="torch")
    with ops.use_backends("linear_epoch=reference"):
        expected = probe_epoch(start.double(), train[0].double(), train[1], test[0].double(), order)()
    # Thousands of steps, each from the rounded result of the one before.
    limits = {"crrl": {"limit": 3, "relative_to": "torch", "least": 1e-6}, "torch": {"limit": 1e-4}}
    compare(row, [Contender(name, run, **limits[name]) for name, run in runs.items()], expected)  # type: ignore[arg-type]


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


def in_place(stepped: Stepped) -> Run:
    """The step with copies of what its first call wrote, [parameters, keys] flat; later calls, timed, copy nothing."""
    first = True

    def run() -> list[Tensor]:
        nonlocal first
        stepped.step()
        written = stepped.parameters, stepped.keys
        results = [torch.cat([t.detach().flatten() for t in tensors]) for tensors in written if first]
        first = False
        return results

    return run
