"""The other operators on this CPU, each backend against the reference and the code one would write first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bench.cases import Run
from bench.rows import Row
from bench.timing import Contender
from crrl import ops
from crrl.models import Encoder, MLPHead
from crrl.reference import contrast, optim
from crrl.reference.motion import velocity

LR, BETAS, EPS, MOMENTUM = 1e-3, (0.9, 0.999), 1e-8, 0.999


@pytest.mark.parametrize(("name", "channels", "longest"), [("NW-UCLA", 60, 50), ("NTU", 150, 60)])
def test_ragged_gather(compare: Callable[..., None], name: str, channels: int, longest: int) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(10, longest + 1, (1000,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    frames = torch.randn(int(offsets[-1]), channels)
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
    batch, features, temperature = 32, 512, 0.07
    q = torch.randn(batch, features)
    k, queue = F.normalize(torch.randn(batch, features)), F.normalize(torch.randn(keys, features))

    def differentiated(loss: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Run:
        inputs = [tensor.to(dtype) for tensor in (q, k, queue)]
        leaf = inputs[0].requires_grad_()

        def run() -> list[Tensor]:
            value = loss(*inputs, temperature)
            return [value.detach(), *torch.autograd.grad(value, leaf)]

        return run

    runs = {"crrl": differentiated(ops.info_nce), "torch": differentiated(contrast.info_nce)}
    row = Row("InfoNCE, loss + gradient", f"K={keys}, D={features}, B={batch}", bar="torch")
    # Logits of up to 1 / temperature, their sums in another order: torch's own distance is up to a tenth of this.
    contenders = [Contender(name, run, limit=2e-6) for name, run in runs.items()]
    compare(row, contenders, differentiated(contrast.info_nce, torch.float64)())


def test_optimizer_step(compare: Callable[..., None]) -> None:
    """Adam, then the keys follow: ours in one pass, theirs by torch.optim and the fastest of its lists of tensors."""
    torch.manual_seed(0)
    modules = [Encoder(150), MLPHead(512)]
    parameters = [p.detach() for module in modules for p in module.parameters()]
    gradients = [torch.randn_like(p) for p in parameters]
    keys = [torch.randn_like(p) for p in parameters]
    runs = {"crrl": flat_adam(ops.flat_step, parameters, gradients, keys, torch.float32)}
    for way in ("fused", "foreach"):
        runs[f"torch {way}"] = torch_adam(way, parameters, gradients, keys)
    row = Row("Optimizer step: Adam + momentum update", "2.3 million parameters", bar="torch fused")
    expected = flat_adam(optim.flat_step, parameters, gradients, keys, torch.float64)()
    compare(row, [Contender(name, run, limit=1e-6) for name, run in runs.items()], expected)


def flat_adam(
    step: Callable[..., None],
    parameters: list[Tensor],
    gradients: list[Tensor],
    keys: list[Tensor],
    dtype: torch.dtype,
) -> Run:
    """A step of `step` (with flat_step's arguments) on copies."""
    flat = [torch.cat([tensor.flatten() for tensor in tensors]).to(dtype) for tensors in (parameters, gradients, keys)]
    moments = [torch.zeros_like(flat[0]) for _ in range(2)]
    rates = torch.tensor([LR, BETAS[0], 1 - BETAS[0], 1 - BETAS[1]], dtype=dtype)
    momenta = {"boundary": 0, "momentum_head": MOMENTUM, "momentum_tail": MOMENTUM}
    settings = {"beta2": BETAS[1], "eps": EPS, **momenta}
    return in_place(lambda: step(*flat[:2], *moments, flat[2], rates, **settings), [flat[0]], [flat[2]])


def torch_adam(way: str, parameters: list[Tensor], gradients: list[Tensor], keys: list[Tensor]) -> Run:
    """The same by torch.optim.Adam, "fused" or "foreach", on copies."""
    mine, followers = [p.clone().requires_grad_() for p in parameters], [key.clone() for key in keys]
    for parameter, gradient in zip(mine, gradients, strict=True):
        parameter.grad = gradient.clone()
    adam = torch.optim.Adam(mine, LR, BETAS, EPS, **{way: True})

    @torch.no_grad()
    def step() -> None:
        adam.step()
        torch._foreach_lerp_(followers, mine, 1 - MOMENTUM)

    return in_place(step, mine, followers)


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


def in_place(step: Callable[[], None], parameters: list[Tensor], keys: list[Tensor]) -> Run:
    """The step with copies of what its first call wrote, [parameters, keys] flat; later calls, timed, copy nothing."""
    first = True

    def run() -> list[Tensor]:
        nonlocal first
        step()
        results = [torch.cat([t.detach().flatten() for t in tensors]) for tensors in (parameters, keys) if first]
        first = False
        return results

    return run
