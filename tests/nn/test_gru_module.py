"""crrl.nn.GRU as a module: torch.nn.GRU's state, errors and dtypes, and what copies, traces or transforms it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from crrl import ops
from crrl.errors import CrrlError
from crrl.nn import GRU, StepwiseBiGRU
from crrl.ops import cpu

Evaluate = Callable[..., list[Tensor]]


def twins(dtype: torch.dtype = torch.float64, **options: object) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights: [., ., 3] to 2 layers of 2 × 5."""
    torch.manual_seed(0)
    theirs, ours = (kind(3, 5, 2, bidirectional=True, dtype=dtype, **options) for kind in (nn.GRU, GRU))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def frames(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_same(got: tuple[Tensor, ...] | list[Tensor], want: tuple[Tensor, ...] | list[Tensor]) -> None:
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
def test_a_state_dict_goes_both_ways(kind: type[GRU], bias: bool) -> None:
    theirs, ours = nn.GRU(3, 5, 2, bias, bidirectional=True), kind(3, 5, 2, bias, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.skipif(bool(cpu.missing), reason=str(cpu.missing))
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_own_serves_one_frame_with_gradients_and_two_of_a_large_layer(batch_first: bool) -> None:
    def served(gru: GRU, rows: int, frames: int) -> str:
        x = torch.randn(rows, frames, gru.input_size)
        return gru.backend(x if batch_first else x.transpose(0, 1))[0]

    small, large = GRU(3, 5, batch_first=batch_first), GRU(3, 512, batch_first=batch_first)
    assert [served(small, 2, frames) for frames in (1, 2)] == ["torch", "cpu"]
    assert [served(large, 32, frames) for frames in (1, 2, 3)] == ["torch", "torch", "cpu"]
    assert served(large, 31, 2) == "cpu"
    with torch.no_grad():
        assert [served(small, 2, frames) for frames in (1, 2)] == ["cpu", "cpu"]
        assert [served(large, 32, frames) for frames in (1, 2, 3)] == ["torch", "torch", "cpu"]
    with ops.use_backends("gru_layer=cpu"):
        assert (served(small, 2, 1), served(large, 32, 2)) == ("cpu", "cpu")


@pytest.mark.skipif(bool(cpu.missing), reason=str(cpu.missing))
@pytest.mark.parametrize("gradient", [False, True])
def test_what_backend_says_is_what_serves(gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_torch(*_: object) -> None:
        raise AssertionError("torch's own")

    monkeypatch.setattr(nn.GRU, "forward", of_torch)
    gru = GRU(3, 512, batch_first=True)
    with torch.set_grad_enabled(gradient):
        for rows, frames in ((1, 1), (32, 1), (31, 2), (32, 2), (32, 3)):
            x = torch.randn(rows, frames, 3)
            if gru.backend(x)[0] == "torch":
                with pytest.raises(AssertionError, match="torch's own"):
                    gru(x)
            else:
                gru(x)


def test_the_same_seed_initialises_the_same_weights() -> None:
    torch.manual_seed(4)
    ours = GRU(3, 5, 2)
    torch.manual_seed(4)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), nn.GRU(3, 5, 2).parameters(), strict=True))
    assert repr(ours) == repr(nn.GRU(3, 5, 2))


BAD = {
    "4-D input": ((6, 4, 3, 1), None),
    "1-D input": ((3,), None),
    "features": ((6, 4, 2), None),
    "unbatched features": ((6, 2), None),
    "no frames": ((0, 4, 3), None),
    "hx batch": ((6, 4, 3), (4, 3, 5)),
    "hx layers": ((6, 4, 3), (2, 4, 5)),
    "hx hidden": ((6, 4, 3), (4, 4, 6)),
    "2-D hx": ((6, 4, 3), (4, 5)),
    "3-D hx, unbatched": ((6, 3), (4, 1, 5)),
    "hx layers, unbatched": ((6, 3), (3, 5)),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
@pytest.mark.usefixtures("policy")
def test_wrong_sizes_raise_torchs_own_errors(kind: type[GRU], case: str) -> None:
    shape, state = BAD[case]
    arguments = [torch.zeros(shape), None if state is None else torch.zeros(state)]
    raised = []
    for module in (kind(3, 5, 2, bidirectional=True), nn.GRU(3, 5, 2, bidirectional=True)):
        with pytest.raises((ValueError, RuntimeError)) as error:
            module(*arguments)
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("wrong", ["input", "hx", "weight", "integers"])
@pytest.mark.usefixtures("policy")
def test_mixed_dtypes_raise_torchs_own_errors(wrong: str, autocast: bool) -> None:
    raised = []
    for module in twins(torch.float32):
        x, h0 = frames(torch.float32), torch.zeros(4, 4, 5)
        if wrong == "weight":
            module.weight_hh_l1 = nn.Parameter(module.weight_hh_l1.double())
        x = {"input": x.double(), "integers": x.long()}.get(wrong, x)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises((ValueError, RuntimeError)) as error,
        ):
            module(x, h0.double() if wrong == "hx" else h0)
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize("state", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("input", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("policy")
def test_autocast_gives_torchs_dtypes_and_values(
    input: torch.dtype, weights: torch.dtype, state: torch.dtype | None
) -> None:
    ours, theirs = twins(weights)
    h0 = None if state is None else torch.zeros(4, 4, 5, dtype=state)
    with torch.autocast("cpu", torch.bfloat16):
        results = ours(frames(input), h0), theirs(frames(input), h0)
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        assert (got - want).norm() <= 2e-2 * want.norm()  # bfloat16 rounds at 4e-3; a few steps of it


@pytest.mark.usefixtures("policy")
def test_autocast_leaves_float64_alone() -> None:
    ours, theirs = twins()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(ours(frames()), theirs(frames()))


@pytest.mark.usefixtures("policy")
def test_a_copy_and_a_pickle_compute_the_same() -> None:
    ours, _ = twins(torch.float32)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert type(other) is GRU
        assert_same(other(frames(torch.float32)), ours(frames(torch.float32)))


@pytest.mark.usefixtures("policy")
def test_functional_call_uses_the_weights_it_is_given(evaluate: Evaluate) -> None:
    ours, theirs = twins(torch.float32)
    doubled = {name: weight.detach().double() * 2 for name, weight in theirs.named_parameters()}
    theirs.double().load_state_dict(doubled)
    assert_same(torch.func.functional_call(ours, doubled, (frames(),)), theirs(frames()))


@pytest.mark.usefixtures("policy")
def test_weights_written_behind_autograds_back_are_seen() -> None:
    ours, theirs = twins()
    ours(frames())
    for gru in (ours, theirs):
        gru.weight_hh_l0.data.mul_(2)
        gru.weight_ih_l1 = nn.Parameter(gru.weight_ih_l1.detach() * 3)
        gru.flatten_parameters()
    assert_same(ours(frames()), theirs(frames()))


@pytest.mark.usefixtures("policy")
def test_parametrized_weights_are_torchs(evaluate: Evaluate) -> None:
    ours, theirs = (parametrizations.weight_norm(gru, "weight_hh_l0") for gru in twins())
    x = frames().requires_grad_()
    assert_same(evaluate(ours, x), evaluate(theirs, x))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 6, 3])])
@pytest.mark.usefixtures("policy")
def test_unrolling_a_hint_is_the_input_repeated(batch_first: bool, lengths: Tensor | None) -> None:
    torch.manual_seed(0)
    gru = GRU(3, 5, num_layers=2, batch_first=batch_first, bidirectional=True)
    hint, h0 = torch.randn(3, 3, requires_grad=True), torch.randn(4, 3, 5, requires_grad=True)
    repeated = hint[:, None].expand(-1, 6, -1) if batch_first else hint[None].expand(6, -1, -1)
    got, want = gru.unroll(hint, 6, h0, lengths), gru(repeated, h0, lengths)
    inputs = [hint, h0, *gru.parameters()]
    ours, theirs = (torch.autograd.grad(sum(part.sin().sum() for part in out), inputs) for out in (got, want))
    for one, other in zip([*got, *ours], [*want, *theirs], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [(torch.ones(2, 4), 5), (torch.ones(2, 3), 0), (torch.ones(2, 1, 3), 5), (torch.ones(2, 3).double(), 5)]
)
def test_unrolling_refuses_what_does_not_fit(wrong: tuple[Tensor, int]) -> None:
    with pytest.raises(ValueError, match="hint"):
        GRU(3, 5, batch_first=True).unroll(*wrong)


def test_it_says_which_backend_serves_and_why() -> None:
    gru = GRU(3, 5)
    with ops.use_backends("gru_layer=reference"):
        assert gru.backend() == ("reference", "requested")
    name, reason = gru.backend(torch.zeros(1, dtype=torch.float64))
    assert name == "torch"
    assert "torch.float64" in reason
    with ops.use_backends("gru_layer=cpu"), pytest.raises(CrrlError, match="forced"):
        gru.double()(torch.zeros(6, 4, 3).double())


@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.usefixtures("policy")
def test_it_compiles_without_graph_breaks(evaluate: Evaluate, kind: type[GRU], ragged: bool) -> None:
    gru = kind(3, 5, 2, bidirectional=True)
    x = frames(torch.float32).requires_grad_()
    lengths = torch.tensor([6, 2, 1, 5]) if ragged else None
    with torch._dynamo.config.patch(allow_rnn=True):
        got = evaluate(torch.compile(gru, backend="aot_eager", fullgraph=True), x, None, lengths)
    for ours, want in zip(got, evaluate(gru, x, None, lengths), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("policy")
def test_forward_mode_and_function_transforms_are_right() -> None:
    ours, theirs = twins(torch.float32)
    x, v = frames(torch.float32), torch.ones(6, 4, 3)
    for transform in (
        lambda gru: torch.func.jvp(lambda x: gru(x)[0], (x,), (v,))[1],
        lambda gru: torch.func.grad(lambda x: gru(x)[0].square().sum())(x),
    ):
        torch.testing.assert_close(transform(ours), transform(theirs), rtol=1e-4, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        assert ours.backend(x)[0] in ("torch", "reference")
        tangents = [torch.autograd.forward_ad.unpack_dual(gru(dual)[0]).tangent for gru in (ours, theirs)]
    torch.testing.assert_close(tangents[0], tangents[1], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch calls tracing deprecated and warns of Python conditions
@pytest.mark.usefixtures("policy")
def test_a_trace_computes_the_same() -> None:
    ours, _ = twins(torch.float32)
    x = frames(torch.float32)
    for got, want in zip(torch.jit.trace(ours, (x,))(x), ours(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
