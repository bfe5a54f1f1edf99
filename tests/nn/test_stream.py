"""GRU.stream(): frames one by one give what the whole sequence gives, and changes of the weights are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crrl import ops
from crrl.nn import GRU

pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")


def make(layers: int = 2, batch_first: bool = True, bidirectional: bool = False) -> GRU:
    torch.manual_seed(0)
    return GRU(7, 40, layers, batch_first=batch_first, bidirectional=bidirectional)


def assert_near(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 50])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("batch_first", [True, False])
def test_state_carried_from_call_to_call_gives_the_whole_sequence(rows: int, frames: int, batch_first: bool) -> None:
    gru, time = make(batch_first=batch_first), 1 if batch_first else 0
    x = torch.randn((rows, 2 * frames, 7) if batch_first else (2 * frames, rows, 7))
    stream, state, outputs = gru.stream(), None, []
    for part in x.split(frames, time):
        y, state = stream(part, state)
        outputs.append(y)
    assert state is not None
    assert_near((torch.cat(outputs, time), state), nn.GRU.forward(gru, x))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_few_frames_by_a_stream_and_by_the_module_are_torchs(rows: int) -> None:
    gru = make(bidirectional=True)
    x, hx = torch.randn(rows, 2, 7), torch.randn(4, rows, 40)
    for run in (gru, gru.stream()):
        assert_near(run(x, hx), nn.GRU.forward(gru, x, hx))


def in_place(gru: GRU) -> None:
    gru.weight_ih_l0.mul_(0.5)


def loaded(gru: GRU) -> None:
    gru.load_state_dict({name: torch.full_like(value, 0.01) for name, value in gru.state_dict().items()})


def replaced(gru: GRU) -> None:
    gru.bias_ih_l1 = nn.Parameter(torch.ones(120))


def pointed_elsewhere(gru: GRU) -> None:
    gru.weight_ih_l0.data = torch.full((120, 7), 0.03)


@torch.no_grad()
@pytest.mark.parametrize("change", [in_place, loaded, replaced, pointed_elsewhere])
def test_changed_weights_are_packed_anew(change: Callable[[GRU], None]) -> None:
    gru, x = make(), torch.randn(1, 1, 7)
    stream = gru.stream()
    before, _ = stream(x)
    change(gru)
    assert not torch.allclose(stream(x)[0], before)
    assert_near(stream(x), nn.GRU.forward(gru, x))


@torch.no_grad()
def test_a_write_that_no_counter_tells_of_is_seen_after_pack() -> None:
    gru, x = make(), torch.randn(1, 1, 7)
    stream = gru.stream()
    stream(x)
    gru.weight_hh_l0.data.mul_(0.5)
    gru.weight_ih_l0.data.mul_(0.5)
    stream.pack()
    assert_near(stream(x), nn.GRU.forward(gru, x))


def test_weights_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        gru, x = make(), torch.randn(1, 1, 7)
        assert_near(gru.stream()(x), nn.GRU.forward(gru, x))


def test_with_gradients_the_module_itself_is_called() -> None:
    gru, x = make(), torch.randn(1, 1, 7)
    y, _ = gru.stream()(x)
    y.sum().backward()
    assert gru.weight_hh_l0.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("streamed", [False, True])
def test_an_observer_sees_the_operator(streamed: bool) -> None:
    gru, x = make(), torch.randn(1, 1, 7)
    run = gru.stream() if streamed else gru
    with FlopCounterMode(display=False) as counter:
        run(x)
    assert counter.get_total_flops() > 0
    with torch.profiler.profile() as profile:
        run(x)
    assert any("gru_layer" in event.key for event in profile.key_averages())


@torch.no_grad()
@pytest.mark.parametrize("policy", ["reference", "gru_layer=torch", "auto"])
def test_any_backend_serves(policy: str) -> None:
    gru, x = make(), torch.randn(2, 3, 7)
    with ops.use_backends(policy):
        assert_near(gru.stream()(x), nn.GRU.forward(gru, x))


@torch.no_grad()
def test_what_does_not_fit_raises_torchs_error() -> None:
    gru = make()
    for run in (gru, gru.stream()):
        with pytest.raises((RuntimeError, ValueError)):
            run(torch.randn(1, 1, 8))
        with pytest.raises(RuntimeError, match=r"Expected hidden size"):
            run(torch.randn(1, 1, 7), torch.randn(2, 3, 40))


@torch.no_grad()
def test_in_bfloat16_it_errs_no_more_than_twice_what_torch_does() -> None:
    gru = make()
    x = torch.randn(3, 9, 7)
    want = nn.GRU.forward(gru, x)[0]
    half = make().bfloat16()
    theirs, ours = nn.GRU.forward(half, x.bfloat16())[0], half.stream()(x.bfloat16())[0]
    assert (ours - want).norm() <= 2 * (theirs - want).norm()
