"""The operators on a CUDA device, as models call them, against the reference; and captured in CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crrl import ops
from crrl.data.batches import epoch_order
from crrl.models import Decoder, Encoder, SequenceReconstructor
from crrl.nn import GRU
from crrl.ops import cuda, trust
from crrl.reference import contrast, motion, optim

pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda")
TEMPERATURE = 0.07
SETTINGS: dict[str, Any] = {"nesterov": False, "weight_decay": 0.01, "beta2": 0.99, "eps": 1e-8, "max_norm": 1.0}
MOMENTA: dict[str, Any] = {"boundary": 1000, "momentum_head": 0.9, "momentum_tail": 0.4}
LENGTHS = torch.tensor([4, 9, 1, 6])


def close(got: Tensor, want: Tensor, limit: float) -> None:
    """Off by less than this share of its norm."""
    error = (got.cpu().double() - want.cpu().double()).norm()
    assert error <= limit * want.cpu().double().norm()


def replayed(function: Callable[[], object], state: Sequence[Tensor], times: int) -> None:
    """Capture the function, which changes `state` in place, and replay it so many times from the state of before."""
    before = [tensor.clone() for tensor in state]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    for _ in range(times):
        graph.replay()


def test_every_kernel_passes_its_self_check_in_a_process_of_its_own() -> None:
    names = [name for name, check in trust.CHECKS.items() if check.obstacle(0) is None]
    assert {"info_nce", "ema_update", "flat_step", "ragged_gather"} <= {trust.CHECKS[name].operator for name in names}
    assert trust.apart(names, 0) == dict.fromkeys(names)


def test_auto_chooses_the_kernels() -> None:
    chosen = {name: backend for name, backend, _ in ops.choices(ops.Case("cuda", torch.float32))}
    assert chosen.pop("gru_layer") == ("torch" if cuda.unusable() else "cuda")
    assert set(chosen.values()) == {"triton"}


def keys_and_queue(batch: int, keys: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(keys)
    q = 3 * torch.randn(batch, features)
    k, queue = F.normalize(q + torch.randn_like(q)), F.normalize(torch.randn(keys, features))
    return q.to(DEVICE), k.to(DEVICE), queue.to(DEVICE, dtype)


@pytest.mark.parametrize(("batch", "keys", "features"), [(5, 64, 60), (32, 64, 512), (3, 2500, 63), (32, 65_536, 512)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
def test_info_nce(batch: int, keys: int, features: int, dtype: torch.dtype, limit: float) -> None:
    q, k, queue = keys_and_queue(batch, keys, features, dtype)
    exact = [tensor.cpu().double() for tensor in (q, k, queue)]
    results = []
    for loss, (leaf, *rest) in ((ops.info_nce, (q, k, queue)), (contrast.info_nce, exact)):
        value = loss(leaf.requires_grad_(), *rest, TEMPERATURE)
        results.append((value.detach(), *torch.autograd.grad(-3 * value, leaf)))
    for got, want in zip(*results, strict=True):
        close(got, want, limit)


@pytest.mark.parametrize(("keys", "start", "batch"), [(64, 62, 5), (64, 0, 150), (2500, 2497, 7)])
def test_info_nce_enqueue(keys: int, start: int, batch: int) -> None:
    q, k, queue = keys_and_queue(batch, keys, 60, torch.float32)
    want = queue.clone(), torch.tensor(start, device=DEVICE)
    expected = contrast.info_nce_enqueue(q, k, *want, TEMPERATURE)
    pointer, leaf = torch.tensor(start, device=DEVICE), q.clone().requires_grad_()
    loss = ops.info_nce_enqueue(leaf, k, queue, pointer, TEMPERATURE)
    assert torch.autograd.grad(loss, leaf)[0].isfinite().all()
    close(loss, expected, 1e-5)
    assert torch.equal(queue, want[0])
    assert torch.equal(pointer, want[1])


def test_info_nce_enqueue_replayed() -> None:
    q, k, queue = keys_and_queue(5, 64, 60, torch.float32)
    pointer, loss = torch.tensor(61, device=DEVICE), torch.zeros((), device=DEVICE)
    want = queue.clone(), pointer.clone()
    for _ in range(4):
        expected = contrast.info_nce_enqueue(q, k, *want, TEMPERATURE)
    replayed(lambda: loss.copy_(ops.info_nce_enqueue(q, k, queue, pointer, TEMPERATURE)), [queue, pointer], 4)
    close(loss, expected, 1e-5)
    assert torch.equal(queue, want[0])
    assert torch.equal(pointer, want[1])


def flat_buffers(adam: bool) -> list[Tensor | None]:
    """Parameters, gradients, first, second, keys [2500]; the moments as before the first step."""
    torch.manual_seed(0)
    parameters, gradients, keys = torch.randn(3, 2500, device=DEVICE).unbind()
    first, second = torch.zeros(2, 2500, device=DEVICE).unbind()
    return [tensor.clone() for tensor in (parameters, gradients, first)] + [second if adam else None, keys.clone()]


def exact_steps(buffers: list[Tensor | None], rates: Tensor, times: int) -> list[Tensor]:
    doubles = [None if buffer is None else buffer.cpu().double() for buffer in buffers]
    for _ in range(times):
        optim.flat_step(*doubles, rates.cpu().double(), **SETTINGS, **MOMENTA)  # type: ignore[arg-type]
    return [double for double in doubles if double is not None]


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "replayed"])
def test_flat_step(adam: bool, graph: bool) -> None:
    buffers, rates = flat_buffers(adam), torch.tensor([0.01, 0.9, 0.2, 0.1], device=DEVICE)
    want = exact_steps(buffers, rates, 3)
    present = [buffer for buffer in buffers if buffer is not None]

    def step() -> None:
        ops.flat_step(*buffers, rates, **SETTINGS, **MOMENTA)  # type: ignore[arg-type]

    if graph:
        replayed(step, present, 3)
    else:
        for _ in range(3):
            step()
    for got, true in zip(present, want, strict=True):
        close(got, true, 2e-6)


@pytest.mark.parametrize("boundary", [0, 1000, 2500])
def test_ema_update(boundary: int) -> None:
    keys, queries = torch.randn(2, 2500, device=DEVICE).unbind()
    want = keys.cpu().double()
    contrast.ema_update(want, queries.cpu().double(), boundary, 0.999, 0.5)
    ops.ema_update(keys, queries, boundary, 0.999, 0.5)
    close(keys, want, 1e-6)


@pytest.mark.parametrize("with_velocity", [False, True])
def test_ragged_gather(with_velocity: bool) -> None:
    lengths = torch.tensor([0, 7, 1, 20, 60, 2])
    frames, offsets = torch.randn(int(lengths.sum()), 63), lengths.cumsum(0)
    index = torch.tensor([3, 0, 1, 3, 2, 4])
    want = motion.ragged_gather(frames, offsets, index, 60, with_velocity)
    got = ops.ragged_gather(frames.to(DEVICE), offsets.to(DEVICE), index.to(DEVICE), 60, with_velocity)
    for mine, true in zip(got, want, strict=True):
        assert (mine is None) == (true is None)
        assert mine is None or true is None or torch.equal(mine.cpu(), true)


def test_opcheck() -> None:
    library = torch.ops.crrl
    q, k, queue = keys_and_queue(3, 9, 16, torch.float32)
    torch.library.opcheck(library.info_nce.default, (q.clone().requires_grad_(), k, queue, TEMPERATURE))
    pointer = torch.tensor(7, device=DEVICE)
    torch.library.opcheck(library.info_nce_enqueue.default, (q, k, queue, pointer, TEMPERATURE))
    rates = torch.tensor([0.01, 0.9, 0.2, 0.1], device=DEVICE)
    for adam in (False, True):
        torch.library.opcheck(
            library.flat_step.default, (*flat_buffers(adam), rates, *SETTINGS.values(), *MOMENTA.values())
        )
    keys, queries = torch.randn(2, 9, device=DEVICE).unbind()
    torch.library.opcheck(library.ema_update.default, (keys.clone(), queries.clone(), 4, 0.9, 0.5))


@pytest.mark.parametrize("policy", ["reference", "gru_layer=torch"])
def test_the_gru_is_the_cpus_value_and_gradient(policy: str) -> None:
    torch.manual_seed(0)
    gru = GRU(6, 32, num_layers=2, bidirectional=True, batch_first=True).double()
    x, lengths = torch.randn(4, 9, 6, dtype=torch.float64), torch.tensor([4, 9, 1, 6])
    results = []
    for device in ("cpu", DEVICE):
        gru.to(device)
        with ops.use_backends(policy):
            y, h_n = gru(x.to(device), lengths=lengths.to(device))
        gradients = torch.autograd.grad(y.square().sum() + h_n.sum(), list(gru.parameters()))
        results.append([tensor.cpu() for tensor in (y, h_n, *gradients)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_padded_rows_give_what_packed_ones_give(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, limit: float
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    ours = GRU(6, 32, num_layers=2, bidirectional=True, batch_first=True).to(DEVICE, dtype)
    theirs = nn.GRU(6, 32, num_layers=2, bidirectional=True, batch_first=True).to(DEVICE, dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 9, 6, dtype=dtype, device=DEVICE, requires_grad=True)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y, h_n = theirs(packed)
    pairs = [ours(x, lengths=LENGTHS.to(DEVICE)), (pad_packed_sequence(y, batch_first=True)[0], h_n)]
    cotangents = [torch.randn_like(tensor) for tensor in pairs[0]]
    results = []
    for gru, outputs in zip((ours, theirs), pairs, strict=True):
        gradients = torch.autograd.grad(list(outputs), [x, *gru.parameters()], cotangents)
        results.append([*outputs, *gradients])
    for got, want in zip(*results, strict=True):
        close(got.detach(), want.detach(), limit)


def test_the_compiled_decoder_gives_the_eager_loss() -> None:
    torch.manual_seed(0)
    eager = SequenceReconstructor(Encoder(6, 8, dropout=0), Decoder(16, 6, 8, dropout=0)).to(DEVICE)
    compiled = copy.deepcopy(eager)
    compiled.compiled = True
    x, h, lengths = torch.randn(3, 2, 6), torch.randn(3, 2, 16), torch.tensor([2, 1, 2])
    results = []
    for model in (compiled, eager):
        leaf = h.to(DEVICE).requires_grad_()
        loss = model.loss_r(x.to(DEVICE), leaf, lengths.to(DEVICE))
        results.append((loss.detach(), *torch.autograd.grad(loss, [leaf, *model.decoder.parameters()])))
    for got, want in zip(*results, strict=True):
        close(got, want, 1e-2)  # cuDNN may use TF32 for one of them
    assert compiled.compiled  # it has not stepped aside


@pytest.mark.parametrize("clips", [1, 63, 5000])
def test_the_order_of_an_epoch_is_the_cpus(clips: int) -> None:
    train = torch.arange(clips) * 3
    for seed, epoch in ((0, 0), (7, 3), (2**31 - 1, 99)):
        assert torch.equal(epoch_order(train.to(DEVICE), seed, epoch).cpu(), epoch_order(train, seed, epoch))
