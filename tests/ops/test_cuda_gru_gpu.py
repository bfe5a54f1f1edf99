"""The CUDA GRU on a card: its error beside cuDNN's, random shapes, the same bits again, graphs, streams, lost waits."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.errors import CrrlError
from crrl.nn import GRU, run_together
from crrl.ops import cuda, precision
from crrl.ops.gru import cuda as cuda_gru
from crrl.ops.gru import framework
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(cuda.missing is not None, reason=str(cuda.missing)),
]

MODES = ["tf32", "fp32", "bf16", "fp16"]
LIMITS = {"fp32": 2e-5, "tf32": 1e-2, "fp16": 1e-2, "bf16": 8e-2}


class Layer:
    """The arguments of a layer on the GPU, in the dtype of a mode, all with gradient."""

    def __init__(
        self, mode: str, batch: int, steps: int, channels: int, hidden: int, directions: int = 2, state: bool = True,
        ragged: bool = True, bias: bool = True, seed: int = 0,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        dtype = precision.DTYPES[mode]

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to("cuda", dtype).requires_grad_()

        def weight(*shape: int) -> Tensor:
            return (hidden**-0.5 * draw(*shape)).detach().requires_grad_()

        one = [(3 * hidden, channels), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)][: 4 if bias else 2]
        self.weights: list[Weights] = [
            (*(weight(*shape) for shape in one), *[None] * (4 - len(one)))  # type: ignore[misc]
            for _ in range(directions)
        ]
        self.x = draw(batch, steps, channels)
        self.h0 = draw(directions, batch, hidden) if state else None
        lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
        self.lengths = lengths.cuda() if ragged else None
        self.cotangents = draw(batch, steps, directions * hidden).detach(), draw(directions, batch, hidden).detach()

    def results(self, layer: Callable[..., Any], exactly: bool = False) -> list[Tensor]:
        """y, h_n and every gradient; `exactly`: in float64 on the CPU."""

        def put(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or not exactly:
                return tensor
            return tensor.detach().double().cpu().requires_grad_()

        x, h0 = put(self.x), put(self.h0)
        weights = [tuple(put(tensor) for tensor in direction) for direction in self.weights]
        lengths = self.lengths.cpu() if exactly and self.lengths is not None else self.lengths
        outputs = layer(x, lengths, weights, h0)
        leaves = [x, h0, *(tensor for direction in weights for tensor in direction)]
        cotangents = [tensor.double().cpu() if exactly else tensor for tensor in self.cotangents]
        gradients = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], cotangents)
        return [*(output.detach() for output in outputs), *gradients]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use(request.param, monkeypatch)
    return str(request.param)


def use(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch's switches ask for this mode, of cuDNN and of us."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", mode == "tf32")


def off_by(got: Tensor, want: Tensor) -> float:
    return float((got.double().cpu() - want).norm() / want.norm())


@pytest.mark.parametrize("channels", [150, 512])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_error_is_no_larger_than_cudnns(mode: str, channels: int, ragged: bool) -> None:
    layer = Layer(mode, 32, 60, channels, 256, ragged=ragged)
    truth = layer.results(reference.gru_layer, exactly=True)
    theirs, ours = layer.results(framework.gru_layer), layer.results(layer.gru_layer)
    for got, own, want in zip(ours, theirs, truth, strict=True):
        # A quarter more: two ways to add the same numbers differ by that from one draw to the next.
        assert off_by(got, want) <= 1.25 * off_by(own, want) + 1e-7


def test_a_thousand_random_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(0)
    for number in range(1000):
        mode = choose.choice(MODES)
        use(mode, monkeypatch)
        sizes = choose.randint(1, 40), choose.randint(1, 12), choose.randint(1, 40), choose.choice((1, 7, 32, 65, 130))
        options = {name: choose.random() < 0.5 for name in ("state", "ragged", "bias")}
        layer = Layer(mode, *sizes, choose.randint(1, 2), seed=number, **options)
        truth = layer.results(reference.gru_layer, exactly=True)
        for place, (got, want) in enumerate(zip(layer.results(layer.gru_layer), truth, strict=True)):
            bound = LIMITS[mode] * max(float(want.norm()), 1e-3 * want.numel() ** 0.5)
            assert float((got.double().cpu() - want).norm()) <= bound, (mode, sizes, options, place)


def test_a_hundred_runs_give_the_same_bits(mode: str) -> None:
    layer = Layer(mode, 32, 60, 150, 256)
    first = layer.results(layer.gru_layer)
    for _ in range(99):
        assert all(torch.equal(a, b) for a, b in zip(layer.results(layer.gru_layer), first, strict=True))


def test_a_captured_call_follows_its_inputs(mode: str) -> None:
    layer, other = Layer(mode, 8, 20, 30, 64), Layer(mode, 8, 20, 30, 64, seed=1)
    layer.results(layer.gru_layer)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        layer.results(layer.gru_layer)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer.results(layer.gru_layer)
    want = Layer(mode, 8, 20, 30, 64)
    with torch.no_grad():
        for mine, theirs in ((layer.x, other.x), (want.x, other.x), (layer.lengths, other.lengths)):
            mine.copy_(theirs)  # type: ignore[union-attr, arg-type]
    want.lengths = other.lengths
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, want.results(layer.gru_layer), strict=True))


def test_side_streams_and_lengths_on_the_cpu(mode: str) -> None:
    layer = Layer(mode, 8, 20, 30, 64)
    want = layer.results(layer.gru_layer)
    torch.cuda.synchronize()
    assert layer.lengths is not None
    layer.lengths = layer.lengths.cpu()
    streams = [torch.cuda.Stream() for _ in range(4)]  # type: ignore[no-untyped-call]
    made = []
    for stream in streams:
        with torch.cuda.stream(stream):
            made.append(layer.results(layer.gru_layer))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for results in made for a, b in zip(results, want, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one() -> None:
    with torch.device("cuda:1"):
        gru, x = GRU(30, 64, batch_first=True), torch.randn(3, 5, 30)
    with ops.use_backends("gru_layer=cuda"):
        y, _ = gru(x)
    assert y.device == x.device
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(y, torch.nn.GRU.forward(gru, x)[0], rtol=1e-2, atol=1e-3)


def through_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every layer exchanged through global memory, whatever the card."""
    monkeypatch.setattr(
        cuda_gru,
        "_plan",
        lambda native, mode, backward, chains, sizes, device: native.gru_plan(
            mode, backward, chains, *sizes, device, "l2"
        ),
    )


def test_layers_give_the_same_through_global_memory(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange of cards without clusters, which one with them would never choose."""
    through_l2(monkeypatch)
    for hidden in (16, 97, 256):
        layer = Layer(mode, 9, 12, 30, hidden)
        assert cuda_gru._plan(cuda.native, mode, False, 2, (9, 12, hidden), 0).variant == "l2"
        truth = layer.results(reference.gru_layer, exactly=True)
        for got, want in zip(layer.results(layer.gru_layer), truth, strict=True):
            assert off_by(got, want) <= LIMITS[mode]


def test_a_wait_that_times_out_gives_nan_and_switches_the_extension_off(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("fp32", 8, 20, 30, 256)
    monkeypatch.setattr(cuda, "off", None)
    monkeypatch.setattr(cuda, "PATIENCE_NS", 1)
    through_l2(monkeypatch)  # on a cluster's barrier the first look itself waits, and finds what it waits for
    y, _ = layer.gru_layer(layer.x, layer.lengths, layer.weights)
    torch.cuda.synchronize()
    assert y.isnan().any()
    with pytest.raises(CrrlError, match=r"waited .* for its other blocks"):
        layer.gru_layer(layer.x, layer.lengths, layer.weights)
    assert ops.gru_backend(layer.x)[0] == "torch"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gru, x = GRU(30, 64, 2, bidirectional=True, batch_first=True).cuda(), torch.randn(8, 20, 30, device="cuda")
    lengths, leaves = torch.randint(1, 21, (8,)), list(gru.parameters())
    results = []
    for policy in ("gru_layer=cuda", "gru_layer=torch"):
        with ops.use_backends(policy), torch.autocast("cuda", dtype):
            y, h_n = gru(x, lengths=lengths)
        assert {y.dtype, h_n.dtype} == {dtype}
        results.append([y.detach(), h_n.detach(), *torch.autograd.grad(y.float().sum() + h_n.float().sum(), leaves)])
    assert {gradient.dtype for gradient in results[0][2:]} == {torch.float32}
    for got, want in zip(*results, strict=True):
        assert off_by(got, want.double().cpu()) <= LIMITS["bf16"]


def test_two_encoders_together_give_what_each_gives_alone(mode: str) -> None:
    torch.manual_seed(0)
    dtype, options = precision.DTYPES[mode], {"num_layers": 2, "bidirectional": True, "batch_first": True}
    gru, key = (GRU(30, 64, **options).to("cuda", dtype) for _ in range(2))
    x, v = torch.randn(2, 8, 20, 30, device="cuda", dtype=dtype).unbind()
    lengths = torch.randint(1, 21, (8,), device="cuda")
    with ops.use_backends("gru_layer=cuda"):
        (y, h_n), (y_key, h_key) = run_together(gru, x, key, v, lengths)
        alone, alone_key = gru(x, lengths=lengths), key(v, lengths=lengths)
    for got, want in zip((y, h_n, y_key, h_key), (*alone, *alone_key), strict=True):
        assert torch.equal(got, want)
    firsts, seconds = (torch.autograd.grad(out.float().sum(), list(gru.parameters())) for out in (y, alone[0]))
    assert all(torch.equal(a, b) for a, b in zip(firsts, seconds, strict=True))
    assert not y_key.requires_grad


def test_opcheck() -> None:
    layer = Layer("fp32", 3, 7, 4, 6, ragged=False)
    flat = [tensor for direction in layer.weights for tensor in direction if tensor is not None]
    for batch_first in (True, False):
        x = layer.x if batch_first else layer.x.detach().transpose(0, 1).contiguous().requires_grad_()
        torch.library.opcheck(torch.ops.crrl.gru_layer.default, (x, None, layer.h0, flat, 7, batch_first, True, True))
        arguments = (x, x.detach(), None, flat, [weight.detach() for weight in flat], batch_first, True, True)
        torch.library.opcheck(torch.ops.crrl.gru_layer_pair.default, arguments)


def test_there_is_a_plan_for_the_papers_sizes(mode: str) -> None:
    assert cuda_gru.refusal(mode, 256, 0) is None
