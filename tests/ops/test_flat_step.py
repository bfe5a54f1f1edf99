"""crrl::flat_step and crrl::ema_update in C++ against the reference in float64, and as PyTorch sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crrl import ops
from crrl.errors import CrrlError
from crrl.ops import flat
from crrl.reference import contrast, optim

pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")

SIZES = [1, 15, 63, 4096, 4097, 10007]
DEFAULTS = {
    "nesterov": False,
    "weight_decay": 0.0,
    "beta2": 0.99,
    "eps": 1e-8,
    "max_norm": 0.0,
    "boundary": 0,
    "momentum_head": 0.0,
    "momentum_tail": 0.0,
}
NAMES = ("parameters", "gradients", "first", "second", "keys")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_BACKEND", "flat_step=cpu,ema_update=cpu")


def state(size: int, adam: bool, keys: bool = True) -> dict[str, Tensor | None]:
    """The tensors of a step, by name; the moments as some steps would have left them."""
    generator = torch.Generator().manual_seed(size)
    tensors: dict[str, Tensor | None] = {name: torch.randn(size, generator=generator) for name in NAMES}
    assert tensors["second"] is not None
    tensors["second"] = tensors["second"].square() if adam else None
    return tensors if keys else {**tensors, "keys": None}


def rates(steps: int) -> Tensor:
    return torch.tensor([0.1, 0.9, 1 - 0.9**steps, 1 - 0.99**steps])


def run(function: Callable[..., None], tensors: dict[str, Tensor | None], **settings: Any) -> list[Tensor | None]:
    """All tensors after three steps of it."""
    mine = {name: None if tensor is None else tensor.clone() for name, tensor in tensors.items()}
    for number in range(1, 4):
        function(*mine.values(), rates(number), **{**DEFAULTS, **settings})
    return list(mine.values())


def assert_close(tensors: dict[str, Tensor | None], **settings: Any) -> None:
    doubles = {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()}
    want, got = run(optim.flat_step, doubles, **settings), run(ops.flat_step, tensors, **settings)
    assert got[1] is not None
    assert torch.equal(got[1], tensors["gradients"])  # type: ignore[arg-type]
    for mine, true in zip(got, want, strict=True):
        assert (mine is None) == (true is None)
        if mine is not None and true is not None:
            torch.testing.assert_close(mine.double(), true, rtol=2e-5, atol=2e-6)


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("size", SIZES)
def test_three_steps_of_every_size_are_the_references(size: int, adam: bool) -> None:
    settings = {"weight_decay": 0.01, "max_norm": 1.0, "nesterov": not adam}
    momenta = {"boundary": size // 3, "momentum_head": 0.9, "momentum_tail": 0.4}
    assert_close(state(size, adam), **settings, **momenta)


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("keys", [False, True], ids=["alone", "keys"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"max_norm": 0.5},
        {"max_norm": 1e6},
        {"eps": 0.1},
        {"boundary": 37},
    ],
    ids=str,
)
def test_every_setting_is_the_references(adam: bool, keys: bool, settings: dict[str, Any]) -> None:
    assert_close(state(37, adam, keys), **{"boundary": 11, "momentum_head": 0.9, "momentum_tail": 0.5, **settings})


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("boundary", [0, 7, 5000])
def test_ema_update_is_the_references(boundary: int) -> None:
    keys, queries = torch.randn(5000), torch.randn(5000)
    want = keys.double()
    contrast.ema_update(want, queries.double(), boundary, 0.999, 0.5)
    ops.ema_update(keys, queries, boundary, 0.999, 0.5)
    torch.testing.assert_close(keys.double(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("float_isa")
def test_at_momentum_1_no_bit_of_the_keys_changes() -> None:
    before = torch.tensor([-0.0, 1.5, 1e-42, torch.nan] * 9)
    keys, tensors = before.clone(), state(36, adam=True)
    ops.ema_update(keys, torch.full((36,), torch.inf), 20, 1.0, 1.0)
    assert torch.equal(keys.view(torch.int32), before.view(torch.int32))
    tensors["keys"] = keys
    ops.flat_step(*tensors.values(), rates(1), boundary=20, momentum_head=1.0, momentum_tail=1.0)  # type: ignore[arg-type]
    assert torch.equal(keys.view(torch.int32), before.view(torch.int32))


@pytest.mark.usefixtures("float_isa")
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
def test_the_same_bits_on_any_number_of_threads(on_threads: Callable[..., list[Any]], adam: bool) -> None:
    tensors = state(20011, adam)
    settings = {"max_norm": 1.0, "boundary": 9000, "momentum_head": 0.9, "momentum_tail": 0.4}
    first, *others = on_threads(lambda: run(ops.flat_step, tensors, **settings))
    for other in others:
        for mine, want in zip(other, first, strict=True):
            assert mine is want is None or torch.equal(mine, want)


@pytest.mark.usefixtures("float_isa")
def test_denormals_count_as_zeros_within_the_step_alone() -> None:
    tensors = {name: torch.full((50,), 1e-41) for name in NAMES}
    after = run(ops.flat_step, tensors, max_norm=1.0, boundary=20, momentum_head=0.9)
    for tensor in after:
        assert tensor is not None
        assert tensor.abs().max() <= 1.2e-38  # the smallest number that is none
    assert torch.tensor(1e-40) * 0.5 > 0


@pytest.mark.usefixtures("float_isa")
def test_the_norm_of_large_gradients_is_finite_and_a_nan_is_seen() -> None:
    tensors = {**state(100, adam=False), "gradients": torch.full((100,), 1e30), "first": torch.zeros(100)}
    ops.flat_step(*tensors.values(), rates(1), max_norm=1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(tensors["first"], torch.full((100,), 0.1))
    tensors["gradients"][70] = torch.nan  # type: ignore[index]
    ops.flat_step(*tensors.values(), rates(1), max_norm=1.0)  # type: ignore[arg-type]
    assert tensors["parameters"].isnan().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("keys", [False, True], ids=["alone", "keys"])
def test_opcheck(adam: bool, keys: bool) -> None:
    arguments = (*state(9, adam, keys).values(), rates(2), *{**DEFAULTS, "boundary": 4}.values())
    torch.library.opcheck(torch.ops.crrl.flat_step.default, arguments)
    torch.library.opcheck(torch.ops.crrl.ema_update.default, (torch.randn(9), torch.randn(9), 4, 0.9, 0.5))


def test_compile_traces_them_without_a_break() -> None:
    torch._dynamo.reset()

    def function(*tensors: Tensor | None, **settings: Any) -> None:
        ops.flat_step(*tensors, **settings)  # type: ignore[arg-type]
        assert tensors[4] is not None
        assert tensors[0] is not None
        ops.ema_update(tensors[4], tensors[0], 5, 0.9, 0.5)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, state(20, True)), run(function, state(20, True)))


def test_parameters_may_require_gradients() -> None:
    tensors = state(9, adam=True)
    assert tensors["parameters"] is not None
    parameters = tensors["parameters"] = tensors["parameters"].requires_grad_()
    version = parameters._version
    ops.flat_step(*tensors.values(), rates(1))  # type: ignore[arg-type]
    assert parameters.is_leaf
    assert parameters._version > version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": torch.zeros(8)}, r"gradients must be contiguous float32 \[9\] on the CPU, not .*\[8\] on cpu"),
        ({"first": torch.zeros(9).double()}, "first must be .* not torch.float64"),
        ({"second": torch.zeros(18)[::2]}, r"second must be .* \[9\], not contiguous, on cpu"),
        ({"keys": torch.zeros(3, 3)}, r"keys must be .* \[3, 3\]"),
        ({"rates": torch.zeros(2)}, r"rates must be contiguous float32 \[4\]"),
        ({"boundary": 10}, r"boundary must be in 0\.\.N"),
        ({"boundary": -1}, r"boundary must be in 0\.\.N"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(change: dict[str, Any], message: str) -> None:
    arguments = {**state(9, adam=True), "rates": rates(1), **DEFAULTS}
    before = arguments["parameters"].clone()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=message) as caught:
        flat.flat_step_op(*{**arguments, **change}.values())
    assert "\n" not in str(caught.value)
    assert torch.equal(arguments["parameters"], before)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="queries must be"):
        ops.ema_update(torch.zeros(9), torch.zeros(8), 0, 0.9, 0.9)


@pytest.mark.parametrize("name", ["flat_step", "ema_update"])
@pytest.mark.parametrize(("backend", "reason"), [("cpu", "float64"), ("triton", "on a GPU")])
def test_a_forced_backend_that_cannot_run_says_why(name: str, backend: str, reason: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRRL_BACKEND", f"{name}={backend}")
        with pytest.raises(CrrlError, match=f"'{backend}' forced for {name} cannot run: .*{reason}"):
            ops.choices(ops.Case("cpu", torch.float64))
