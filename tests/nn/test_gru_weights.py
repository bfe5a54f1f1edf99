"""Weights that were replaced after construction: what torch.nn.GRU makes of them, crrl.nn.GRU does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crrl.nn import GRU, StepwiseBiGRU

PARAMETERS = [
    f"{kind}_{side}_l{layer}{suffix}"
    for layer in range(2)
    for suffix in ("", "_reverse")
    for kind in ("weight", "bias")
    for side in ("ih", "hh")
]


def twins(kind: type[GRU] = GRU, **options: bool) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights: [., ., 3] to 2 layers of 2 × 5."""
    theirs, ours = (each(3, 5, 2, bidirectional=True, **options) for each in (nn.GRU, kind))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def outcome(module: nn.GRU, x: Tensor) -> object:
    """The outputs, or the kind and the words of the error."""
    try:
        y, h_n = module(x)
    except Exception as error:
        return type(error), str(error)
    return y, h_n


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(theirs, tuple) and isinstance(theirs[0], Tensor):
        torch.testing.assert_close(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
@pytest.mark.parametrize(
    "names",
    [[name] for name in PARAMETERS]
    + [["bias_ih_l0", "bias_hh_l0"], [name for name in PARAMETERS if "bias" in name], PARAMETERS],
    ids=" ".join,
)
def test_none_raises_as_with_torch(kind: type[GRU], names: list[str]) -> None:
    results = []
    for module in twins(kind):
        for name in names:
            setattr(module, name, None)
        results.append(outcome(module, torch.randn(6, 4, 3)))
    assert isinstance(results[1], tuple)
    assert isinstance(results[1][0], type)  # torch raises
    assert results[0] == results[1]


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "a row less": lambda weight: weight[:-1],
    "a column less": lambda weight: weight[..., :-1],
    "transposed": lambda weight: weight.t(),
    "a dimension more": lambda weight: weight[None],
    "flat": lambda weight: weight.reshape(-1),
    "one element": lambda weight: weight.reshape(-1)[:1],
    "nothing": lambda weight: weight[:0],
    "a scalar": lambda weight: weight.sum(),
    "sparse": lambda weight: weight.to_sparse(),
    "another dtype": lambda weight: weight.double(),
    "no memory": lambda weight: weight.to("meta"),
}


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0_reverse", "weight_ih_l1", "bias_ih_l0", "bias_hh_l1"])
@pytest.mark.parametrize("change", SHAPES)
def test_other_weights_give_what_they_give_torch(change: str, name: str) -> None:
    results = []
    for module in twins():
        setattr(module, name, nn.Parameter(SHAPES[change](getattr(module, name).detach())))
        results.append(outcome(module, torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))))
    assert_same(*results)


@pytest.mark.parametrize("change", ["a row less", "a column less", "a dimension more", "flat"])
def test_a_wrongly_shaped_matrix_is_a_runtime_error(change: str) -> None:
    ours, _ = twins()
    ours.weight_hh_l1 = nn.Parameter(SHAPES[change](ours.weight_hh_l1.detach()))
    with pytest.raises(RuntimeError):
        ours(torch.randn(6, 4, 3))
    with pytest.raises(ValueError, match=r"a weight ha(s|ve) another shape"):
        ours.unroll(torch.randn(4, 3), 6)
    with pytest.raises(ValueError, match=r"a weight ha(s|ve) another shape"):
        ours.each_layer(torch.randn(4, 6, 3), torch.tensor([6, 2, 1, 3]))


@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
def test_a_bias_that_torch_would_broadcast_is_not_taken_for_what_torch_has_not(kind: type[GRU]) -> None:
    ours, _ = twins(kind, batch_first=True)
    ours.bias_hh_l1 = nn.Parameter(torch.zeros(1))
    x = torch.randn(4, 6, 3)
    with pytest.raises(RuntimeError, match="a weight has another shape"):
        ours(x, lengths=[6, 2, 1, 3])
    if kind is StepwiseBiGRU:
        with pytest.raises(RuntimeError, match="a weight has another shape"):
            ours(x)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l1_reverse"])
def test_a_parameter_that_was_deleted_is_torchs(name: str) -> None:
    results = []
    for module in twins():
        delattr(module, name)
        results.append(outcome(module, torch.ones(6, 4, 3)))
    assert_same(*results)


def test_a_weight_whose_memory_is_gone_is_refused() -> None:
    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    ours, _ = twins()
    ours.weight_hh_l0.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"the memory of w_hh \[15, 5\] has been freed"):
        ours(torch.randn(6, 4, 3))
