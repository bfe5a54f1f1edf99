"""The GPU bench's rows of the GRU, as far as a CPU can prove them: parity of every contender, peers, derived rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

# pytest alone, unlike python -m pytest, does not look for modules in the repository root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import gpu_floors, gpu_pretrain, groups, gru, peers, timing
from bench.cases import Case, Run, problem
from bench.rows import REPLAYED, Bar, Row
from bench.timing import Contender, Entry
from bench.training import CAPTURED, CML, NTU_CLIPS, SER, extrapolated, step_group

CPU = torch.device("cpu")
SMALL = Case("small", batch=3, frames=5, inputs=7, hidden=6)


@pytest.fixture
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is captured or compiled, ours runs by what there is, and nothing is warmed up for long."""

    def replayed(runs: Sequence[Run]) -> Run:
        return lambda: next(run() for run in runs)

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(timing, "replayed", replayed)
    monkeypatch.setattr(torch, "compile", lambda module, **settings: module)
    monkeypatch.setattr(gru, "FORCED", "auto")
    monkeypatch.setattr(timing, "WARM_S", 0.0)
    monkeypatch.setattr(timing, "SERIES_S", 0.0)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


ENTRIES: dict[str, Callable[[], Entry]] = {
    **{kind: partial(gru.gru_entry, CPU, SMALL, "tf32", kind) for kind in (gru.FORWARD, gru.KEPT)},
    "both": lambda: gru.gru_entry(CPU, SMALL, "fp32", gru.BOTH, series=2, with_compiled=True),
    "unrolled": lambda: gru.unrolled_entry(CPU, True, SMALL),
}


def right(entry: Entry) -> Row:
    found = timing.fill(entry, rounds=1)
    assert (found.refused, found.failed, found.absent) == (None, None, {})
    assert list(found.calls_ms) == list(entry.builds)
    assert max(found.errors.values()) < 1e-5  # on the CPU all of them are exact
    return found


@pytest.mark.usefixtures("_on_a_cpu")
@pytest.mark.parametrize("name", ENTRIES)
def test_every_contender_of_a_row_is_right(name: str) -> None:
    right(ENTRIES[name]())


@pytest.mark.usefixtures("_on_a_cpu")
def test_every_contender_of_the_pair_is_right() -> None:
    right(gru.pair_entry(CPU, "tf32", 3.0, case=SMALL))


@pytest.mark.usefixtures("_on_a_cpu")
@pytest.mark.parametrize("mode", ["bf16", "fp16"])
def test_16_bit_modes_are_held_to_the_errors_of_the_peer(mode: str) -> None:
    found = timing.fill(gru.gru_entry(CPU, SMALL, mode, gru.BOTH), rounds=1)
    assert (found.refused, found.failed, found.absent) == (None, None, {})
    assert 1e-4 < found.errors[gru.CUDNN] < gru.SOUND[mode]


@pytest.mark.usefixtures("_on_a_cpu")
def test_a_kernel_that_cannot_be_forced_is_absent_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gru, "FORCED", "gru_layer=nobody")
    found = timing.fill(gru.gru_entry(CPU, SMALL, "tf32", gru.FORWARD), rounds=1)
    assert "nobody" in found.absent[REPLAYED]
    assert list(found.calls_ms) == [gru.CUDNN, gru.CUDNN_REPLAYED]


def test_ours_may_be_off_by_a_multiple_of_a_peers_error_and_no_more() -> None:
    def contender(value: float, **settings: Any) -> Contender:
        return Contender(lambda: [torch.full((3,), value)], **settings)

    def entry(ours: float, peer: float | None) -> Entry:
        settings = {"limit": 3.0, "relative_to": "peer", "least": 1e-3}
        builds = {"ours": partial(contender, ours, **settings)}
        if peer is not None:
            builds["peer"] = partial(contender, peer, limit=0.5)
        return Entry(Row("any", "any"), builds, lambda: [torch.ones(3)])

    cases = ((1.02, 1.01, True), (1.04, 1.01, False), (1.0005, 1.0, True), (1.0005, None, True), (1.02, None, False))
    for ours, peer, holds in cases:
        found = timing.fill(entry(ours, peer), rounds=1)
        assert (found.refused is None) is holds, (ours, peer)
        assert ("ours" in found.calls_ms) is holds


def test_a_variant_is_forced_through_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    native = SimpleNamespace(gru_plan=lambda *arguments: arguments, abi=1)
    one = gru.OneVariant(native, "l2")
    assert one.gru_plan("tf32", False, 2) == ("tf32", False, 2, "l2")
    assert one.abi == 1


# --- Open peers, as their documentation describes them, in plain PyTorch ---------------------------------------------


def step(r: Tensor, z: Tensor, n: Tensor, of_h: Tensor, h: Tensor) -> Tensor:
    z = torch.sigmoid(z)
    return z * h + (1 - z) * torch.tanh(n + torch.sigmoid(r) * of_h)


class Haste(nn.Module):
    """kernel [I, 3H], recurrent_kernel [H, 3H], bias and recurrent_bias [3H], all in the order z, r, h."""

    def __init__(self, inputs: int, hidden: int, batch_first: bool):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(inputs, 3 * hidden))
        self.recurrent_kernel = nn.Parameter(torch.empty(hidden, 3 * hidden))
        self.bias, self.recurrent_bias = (nn.Parameter(torch.empty(3 * hidden)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        h, outputs = x.new_zeros(len(x), self.recurrent_kernel.shape[0]), []
        for frame in x.unbind(1):
            z, r, n = (frame @ self.kernel + self.bias).chunk(3, 1)
            hz, hr, hn = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, 1)
            h = step(r + hr, z + hz, n, hn, h)
            outputs.append(h)
        return torch.stack(outputs, 1), None


def flash(gates: Tensor, recurrent: Tensor, bias: Tensor, **settings: str) -> tuple[Tensor, Tensor]:
    """gates [B, T, 3, 1, H] (r, z, n), recurrent [3, 1, H, H] and bias [4, 1, H] (of h in n, r, z; then of x in n)."""
    assert settings == {"function": "gru", "backend": "cuda", "dtype": "float32"}
    h, outputs = gates.new_zeros(len(gates), gates.shape[-1]), []
    for r, z, n in (frame[:, :, 0].unbind(1) for frame in gates.unbind(1)):
        hn, hr, hz = (h @ matrix[0].t() for matrix in recurrent)
        h = step(r + hr + bias[1, 0], z + hz + bias[2, 0], n + bias[3, 0], hn + bias[0, 0], h)
        outputs.append(h)
    return torch.stack(outputs, 1)[None, :, :, None], h


def triton(
    x: Tensor, before: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, resets: Tensor
) -> tuple[Tensor, Tensor]:
    """x [B, T, I], before [B, T, H] with the first state, weights as torch.nn.GRU's, resets bool [B, T]."""
    assert not resets.any()
    h, outputs = before[:, 0], []
    for frame in x.unbind(1):
        r, z, n = nn.functional.linear(frame, w_ih, b_ih).chunk(3, 1)
        hr, hz, hn = nn.functional.linear(h, w_hh, b_hh).chunk(3, 1)
        h = step(r + hr, z + hz, n, hn, h)
        outputs.append(h)
    return torch.stack(outputs, 1), h


@pytest.fixture
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, dict[str, Any]] = {"haste_pytorch": {"GRU": Haste}, "flashrnn": {"flashrnn": flash}}
    for name in ("torchrl", "torchrl.modules", "torchrl.modules.tensordict_module"):
        made[name] = {}
    made["torchrl.modules.tensordict_module._rnn_triton"] = {"gru_triton": triton}
    for name, members in made.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("_packages", "_on_a_cpu")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", peers.OPEN)
def test_peers_are_given_the_same_gru(name: str, backward: bool) -> None:
    right(gru.open_peer_entry(CPU, name, "tf32", backward, SMALL))


@pytest.mark.usefixtures("_on_a_cpu")
@pytest.mark.parametrize("name", peers.OPEN)
def test_peers_that_are_not_there_are_absent_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for package in ("haste_pytorch", "flashrnn", "torchrl"):
        monkeypatch.setitem(sys.modules, package, None)
    found = timing.fill(gru.open_peer_entry(CPU, name, "tf32", False, SMALL), rounds=1)
    assert "ModuleNotFoundError" in found.absent[name]
    assert list(found.calls_ms) == [REPLAYED]


@pytest.mark.usefixtures("_packages")
@pytest.mark.parametrize("name", ["Haste", "TorchRL"])
def test_a_peer_without_a_dtype_says_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match="float32"):
        peers.stacked(peers.OPEN[name], problem(SMALL), "bf16", False)


# --- Rows that follow from others, and what was predicted ------------------------------------------------------------


def test_the_backward_pass_is_a_difference() -> None:
    title = gru.CENTRE.title
    rows = [
        Row(gru.group_of("tf32"), f"{title}: {gru.KEPT}", calls_ms={"ours": [0.1], "cuDNN": [1.0]}),
        Row(gru.group_of("tf32"), f"{title}: {gru.BOTH}", calls_ms={"ours": [0.25, 0.2, 0.3], "else": [9]}),
        Row(gru.group_of("bf16"), f"{title}: {gru.BOTH}", calls_ms={"ours": [5.0]}),
    ]
    (found,) = gru.differences(rows, 190.0, (Bar("ours", 180, absolute=True),))
    assert found.median_us() == {"ours": pytest.approx(150)}
    assert found.holds(found.bars[0], None)
    assert gru.differences(rows[:1]) == []
    assert groups.derived("cuda_gru", rows)[0].predicted_us == pytest.approx(gpu_floors.backward_us(gru.CENTRE, "tf32"))


def test_pretraining_is_extrapolated_from_both_steps() -> None:
    rows = [Row(step_group("NTU"), name, calls_ms={CAPTURED: [ms]}) for name, ms in ((CML, 0.3), (SER, 0.5))]
    rows.append(Row(step_group("NW-UCLA"), CML, calls_ms={CAPTURED: [99.0]}))
    (found,) = groups.derived("steps", rows)
    steps = NTU_CLIPS // 32
    assert found.median_us() == {CAPTURED: pytest.approx(steps * (100 * 300 + 60 * 500))}
    assert "extrapolated" in found.title
    assert found.holds(found.bars[0], None)
    assert str(found.bars[0]) == "at most 180 s"
    assert extrapolated(rows[:1], "NTU", {}) == []
    assert groups.derived("operators", rows) == []


def test_absolute_bars_are_written_as_times() -> None:
    bar = Bar("ours", 120, absolute=True)
    assert [bar.figure(value) for value in (0.25, 99.6, 1234.5, 75e6)] == ["0.25 µs", "99.6 µs", "1234 µs", "75 s"]
    row = Row("any", "any", calls_ms={"ours": [0.119]})
    assert row.holds(bar, None)
    assert not row.holds(Bar("ours", 118, absolute=True), None)
    assert row.holds(Bar("nobody", 118, absolute=True), None) is None


def test_predictions_grow_with_the_work() -> None:
    forward = partial(gpu_floors.forward_us, mode="tf32")
    recurrence = partial(gpu_floors.recurrence_us, gru.CENTRE, chains=2)
    assert recurrence(mode="bf16", backward=True) < recurrence(mode="tf32", backward=True)
    assert recurrence(mode="tf32", backward=False) < recurrence(mode="fp32", backward=False)
    centre = forward(gru.CENTRE)
    assert centre - forward(Case("B=1", batch=1)) == pytest.approx(25, abs=10)  # products over all frames
    for case in gru.GRID:
        assert (forward(case) > centre) is (case.title not in ("B=1", "B=8", "H=128")), case
    assert gpu_floors.forward_us(gru.CENTRE, "tf32", 2) < 2 * centre


def test_pretraining_runs_by_the_trainer() -> None:
    config = gpu_pretrain.configuration(0.01)
    assert (config.cml.epochs_cml, config.ser.epochs_ser, config.batch_size) == (1, 1, 32)
    assert gpu_pretrain.configuration(1).cml.epochs_cml == 100
    small = gpu_pretrain.random_clips(64, 9, 6)
    assert gpu_pretrain.pretrain(small, replace(config, encoder=replace(config.encoder, hidden_size=8)), CPU) > 0
