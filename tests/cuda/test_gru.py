"""The CUDA GRU's kernels on a CPU, where each of their threads is a fiber and the order of all of them is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from crrl.ops import cuda, precision
from crrl.ops.gru import cuda as cuda_gru
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

VARIANTS = ("cluster", "l2")
MODES = ("fp32", "tf32", "bf16", "fp16")

TOLERANCE = {"fp32": 1e-6, "tf32": 6e-4, "fp16": 2e-3, "bf16": 1.2e-2}
"""Largest error over largest value: some roundings of the operand (2^-24, 2^-11, 2^-11, 2^-9)."""


class Native:
    """The emulated module with one variant of its kernels, seen as crrl._cuda."""

    def __init__(self, module: ModuleType, variant: str = ""):
        self.module, self.variant = module, variant
        self.plans: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def gru_plan(self, *arguments: Any) -> Any:
        self.plans.append(self.module.gru_plan(*arguments, self.variant))
        return self.plans[-1]


@pytest.fixture
def any_native(emulated: ModuleType, use_as_cuda: Callable[[Any], None]) -> Iterator[Native]:
    """The module where crrl.ops looks for crrl._cuda, and the emulated GPU as it was before."""
    native = Native(emulated)
    use_as_cuda(native)
    yield native
    emulated.set_fault()
    emulated.set_device()
    emulated.set_schedule(0)


@pytest.fixture(params=VARIANTS)
def native(request: pytest.FixtureRequest, any_native: Native) -> Native:
    any_native.variant = request.param
    return any_native


class Layer:
    """A layer's arguments in the dtype of a mode, and what it must give in float64."""

    def __init__(
        self, mode: str, batch: int, steps: int, hidden: int, directions: int = 2, ragged: bool = True,
        state: bool = True, bias: bool = True, reverse: bool = True, seed: int = 0,
    ):  # fmt: skip
        self.mode, self.steps, self.reverse = mode, steps, reverse
        self.generator = torch.Generator().manual_seed(seed)
        shapes = [(3 * hidden, 5), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)][: 4 if bias else 2]
        self.weights = [hidden**-0.5 * self.random(*shape) for _ in range(directions) for shape in shapes]
        self.x = self.random(batch, steps, 5)
        self.h0 = self.random(directions, batch, hidden).tanh() if state else None
        self.dy, self.dh_n = self.random(batch, steps, directions * hidden), self.random(directions, batch, hidden)
        self.lengths = torch.randint(1, steps + 1, (batch,), generator=self.generator) if ragged else None
        self.per_direction = len(shapes)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(precision.DTYPES[self.mode])

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.x, self.lengths, self.h0, self.weights

    def run(self) -> list[Tensor]:
        """y, h_n, dx, dh0 and the gradients of the weights by the kernels."""
        flags = self.steps, True, self.reverse
        y, h_n, reserve = cuda_gru.forward(*self.arguments, *flags, True, self.mode)
        dx, dh0, gradients = cuda_gru.backward(self.dy, self.dh_n, *self.arguments, reserve, *flags, True, self.mode)
        return [y, h_n, dx, dh0, *gradients]

    def expected(self) -> list[Tensor]:
        def exact(tensor: Tensor) -> Tensor:
            return tensor.double().requires_grad_()

        x, weights = exact(self.x), [exact(weight) for weight in self.weights]
        h0 = exact(self.dh_n.new_zeros(self.dh_n.shape) if self.h0 is None else self.h0)
        pairs: list[Weights] = [
            (*weights[i : i + self.per_direction], *[None] * (4 - self.per_direction))  # type: ignore[misc]
            for i in range(0, len(weights), self.per_direction)
        ]
        outputs = reference.gru_layer(x, self.lengths, pairs, h0, self.reverse)
        gradients = torch.autograd.grad(outputs, [x, h0, *weights], [self.dy.double(), self.dh_n.double()])
        return [*(output.detach() for output in outputs), *gradients]


def assert_close(made: list[Tensor], truth: list[Tensor], mode: str, slack: int = 1) -> None:
    for got, want in zip(made, truth, strict=True):
        error = (got.double() - want).abs().max() / want.abs().max()
        assert error <= slack * TOLERANCE[mode], error


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("batch", "steps", "hidden", "directions"), [(3, 5, 32, 2), (9, 7, 96, 2), (1, 1, 40, 1), (17, 4, 33, 2)]
)
def test_it_is_the_reference(native: Native, mode: str, batch: int, steps: int, hidden: int, directions: int) -> None:
    layer = Layer(mode, batch, steps, hidden, directions)
    assert_close(layer.run(), layer.expected(), mode)
    assert {plan.variant for plan in native.plans} == {native.variant}


@pytest.mark.parametrize(
    ("mode", "batch", "hidden", "rows"),
    [("tf32", 33, 256, 8), ("fp32", 140, 70, 16), ("tf32", 140, 200, 32), ("bf16", 300, 64, 16), ("tf32", 6, 500, 4)],
)
def test_sizes_take_the_tiles_that_fit(native: Native, mode: str, batch: int, hidden: int, rows: int) -> None:
    """Weights beside registers, teams of more rows, teams one after the other."""
    layer = Layer(mode, batch, 2, hidden)
    assert_close(layer.run(), layer.expected(), mode)
    if native.variant == "cluster":
        assert native.plans[-2].rows == rows


@pytest.mark.parametrize("mode", ["fp32", "tf32", "bf16"])
def test_the_widest_layer_goes_through_global_memory(any_native: Native, mode: str) -> None:
    layer = Layer(mode, 2, 2, 1024, directions=1)
    # Sums are long, and PyTorch's own products add up otherwise on each processor: 1.2e-6 was seen in float32.
    assert_close(layer.run(), layer.expected(), mode, slack=2 if mode == "fp32" else 1)
    assert [plan.variant for plan in any_native.plans] == ["l2", "l2"]
    assert any_native.plans[0].units == (32 if mode == "bf16" else 16)


def test_narrow_blocks_pad_gradients_of_16_bits(any_native: Native) -> None:
    """Three gates of 16 units are one and a half chunks of them. Such blocks serve where shared memory is small."""
    any_native.set_device(major=8, multiprocessors=128, shared=101376)
    layer = Layer("bf16", 2, 2, 544, directions=1)
    assert_close(layer.run(), layer.expected(), "bf16")
    assert [(plan.variant, plan.units) for plan in any_native.plans] == [("l2", 32), ("l2", 16)]


@pytest.mark.parametrize("given", [{"state": False}, {"bias": False}, {"ragged": False}, {"reverse": False}])
def test_what_a_layer_may_do_without(native: Native, given: dict[str, bool]) -> None:
    layer = Layer("fp32", 5, 6, 48, **given)
    assert_close(layer.run(), layer.expected(), "fp32")


def test_the_order_of_the_threads_changes_no_bit(native: Native, emulated: ModuleType) -> None:
    layer = Layer("tf32", 9, 5, 64)
    runs = []
    for seed in range(12):
        emulated.set_schedule(seed)
        runs.append(torch.cat([result.flatten() for result in layer.run()]))
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_inference_gives_the_bits_of_training_and_two_encoders_share_a_launch(native: Native) -> None:
    layer, other = Layer("fp32", 9, 5, 40, state=False), Layer("fp32", 9, 5, 40, state=False, seed=1)
    y, h_n, _ = cuda_gru.forward(*layer.arguments, 5, True, True, True, "fp32")
    alone = cuda_gru.forward(*layer.arguments, 5, True, True, False, "fp32")
    assert torch.equal(alone[0], y)
    assert torch.equal(alone[1], h_n)
    key = cuda_gru.forward(other.x, layer.lengths, *other.arguments[2:], 5, True, True, False, "fp32")
    pair = cuda_gru.forward_pair(
        layer.x, other.x, layer.lengths, layer.weights, other.weights, True, True, True, "fp32"
    )
    for got, want in zip((*pair[:2], *pair[3:]), (y, h_n, *key[:2]), strict=True):
        assert torch.equal(got, want)


def test_calls_side_by_side_leave_each_other_room_and_keep_their_bits(any_native: Native) -> None:
    layer = Layer("fp32", 30, 3, 40)
    alone = layer.run()
    with cuda_gru.side_by_side(20):
        beside = layer.run()
    assert [plan.rows for plan in any_native.plans] == [4, 4, 32, 32]
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


def test_lengths_that_leave_no_frame_send_nothing_and_give_the_start(native: Native) -> None:
    """Lengths on a GPU are not looked at; those below 1 are taken for 0."""
    layer = Layer("fp32", 9, 3, 40)
    plan = native.gru_plan("fp32", False, 1, 9, 3, 40, 0)
    gates, y, h_n = torch.randn(9, 3, 120), torch.full((9, 3, 40), 7.0), torch.full((9, 40), 7.0)
    lengths, workspace = torch.zeros(9, dtype=torch.int64), torch.zeros(plan.workspace + 64, dtype=torch.uint8)
    chain = (
        (gates.data_ptr(), *gates.stride()[:2]), layer.weights[1].data_ptr(), 0, layer.h0[0].data_ptr(),
        lengths.data_ptr(), (y.data_ptr(), *y.stride()[:2]), h_n.data_ptr(), (0, 0, 0), False,
    )  # fmt: skip
    native.gru_forward("fp32", (9, 3, 40), [chain], plan, workspace.data_ptr(), 0, 10**9, 0, 0)
    assert torch.equal(h_n, layer.h0[0])
    assert not y.any()


@pytest.mark.parametrize("backward", [False, True])
def test_a_lost_message_ends_the_wait_and_shows(native: Native, emulated: ModuleType, backward: bool) -> None:
    layer = Layer("fp32", 3, 4, 64, directions=1)
    flags = layer.steps, True, True
    _, h_n, reserve = cuda_gru.forward(*layer.arguments, *flags, True, "fp32")
    assert not cuda.timed_out(0)
    emulated.set_fault(send=40 if native.variant == "cluster" else 0, release=3 if native.variant == "l2" else 0)
    if backward:
        dx, *_ = cuda_gru.backward(layer.dy, layer.dh_n, *layer.arguments, reserve, *flags, True, "fp32")
        assert dx.isnan().any()
    else:
        _, h_n, _ = cuda_gru.forward(*layer.arguments, *flags, True, "fp32")
        assert h_n.isnan().any()
    assert cuda.timed_out(0)


def test_nothing_outside_the_results_is_written(native: Native) -> None:
    """Rows of y and its directions lie apart in a larger tensor whose other elements must stay as they are."""
    layer = Layer("fp32", 3, 4, 40)
    wide = torch.full((5, 6, 3 * 40), 7.0)
    y, gates = wide[1:4, 1:5, 40:80], torch.randn(3, 4, 120)
    h_n = torch.full((5, 40), 7.0)
    w_hh, b_hh = layer.weights[1], layer.weights[3]
    chain = (
        (gates.data_ptr(), *gates.stride()[:2]), w_hh.data_ptr(), b_hh.data_ptr(), 0, 0,
        (y.data_ptr(), *y.stride()[:2]), h_n[1].data_ptr(), (0, 0, 0), False,
    )  # fmt: skip
    plan = native.gru_plan("fp32", False, 1, 3, 4, 40, 0)
    workspace = torch.full((plan.workspace + 512,), 99, dtype=torch.uint8)
    first = -workspace.data_ptr() % 256
    native.gru_forward("fp32", (3, 4, 40), [chain], plan, workspace[first:].data_ptr(), 0, 10**9, 0, 0)
    assert (y != 7).all()
    y.fill_(7.0)
    assert (wide == 7).all()
    assert (h_n[[0, 4]] == 7).all()
    assert (h_n[1:4] != 7).all()
    assert (workspace[:first] == 99).all()
    assert (workspace[first + plan.workspace :] == 99).all()


def plan_of(native: Native, mode: str, chains: int, batch: int, hidden: int, backward: bool = False) -> Any:
    return native.gru_plan(mode, backward, chains, batch, 60, hidden, 0)


def test_plans_of_a_gpu_with_clusters(any_native: Native) -> None:
    main = plan_of(any_native, "tf32", 4, 32, 256)
    assert (main.variant, main.blocks, main.rows, main.teams) == ("cluster", 8, 8, 16)
    assert plan_of(any_native, "tf32", 4, 33, 256).rows == 16
    assert plan_of(any_native, "tf32", 2, 32, 512).blocks == 16
    assert plan_of(any_native, "tf32", 2, 32, 513).variant == "l2"
    for backward in (False, True):
        for mode in MODES:
            for hidden in (1, 32, 100, 256, 512, 700, 1024):
                assert plan_of(any_native, mode, 2, 32, hidden, backward).variant, (mode, hidden, backward)


@pytest.mark.parametrize(
    ("facts", "mode", "hidden", "outcome"),
    [
        ({"major": 8, "multiprocessors": 108, "shared": 166912}, "tf32", 256, "l2"),
        ({"major": 8, "multiprocessors": 108, "shared": 166912}, "bf16", 512, "l2"),
        ({"major": 8, "multiprocessors": 46, "shared": 101376}, "tf32", 1024, "too little shared memory"),
        ({"major": 9, "multiprocessors": 12}, "tf32", 1024, "cannot run a team of its blocks at once"),
        ({"major": 8, "cooperative": False}, "tf32", 256, "no cooperative launches"),
        ({}, "tf32", 1025, "hidden sizes are 1 to 1024"),
    ],
)
def test_plans_fit_the_device_or_say_why_not(
    any_native: Native, facts: dict[str, Any], mode: str, hidden: int, outcome: str
) -> None:
    any_native.set_device(**facts)
    plan = plan_of(any_native, mode, 2, 32, hidden)
    assert plan.variant == outcome or (not plan.variant and outcome in plan.reason), plan.reason
