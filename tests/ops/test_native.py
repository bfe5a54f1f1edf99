"""crrl._cpu takes nothing for memory but a tensor's own: what else stands in a place raises, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

native = pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")

BATCH, FRAMES, CHANNELS, HIDDEN = 3, 5, 4, 6


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def weights() -> list[Tensor]:
    gates = 3 * HIDDEN
    return [zeros(*shape) for shape in ((gates, CHANNELS), (gates, HIDDEN), (gates,), (gates,)) * 2]


def layer() -> dict[str, Any]:
    return {
        "x": zeros(BATCH, FRAMES, CHANNELS),
        "lengths": torch.tensor([5, 2, 1]),
        "h0": zeros(2, BATCH, HIDDEN),
        "weights": weights(),
        "reserve": zeros(native.gru_reserve_size(BATCH, FRAMES, HIDDEN, 2)),
        "directions": 2,
        "frames": FRAMES,
        "batch_first": True,
        "reverse": True,
        "threads": 1,
    }


def gru_forward() -> dict[str, Any]:
    return {**layer(), "y": zeros(BATCH, FRAMES, 2 * HIDDEN), "h_n": zeros(2, BATCH, HIDDEN)}


def gru_backward() -> dict[str, Any]:
    outputs = {"dx": zeros(BATCH, FRAMES, CHANNELS), "dh0": zeros(2, BATCH, HIDDEN), "gradients": weights()}
    return {**layer(), **outputs, "dy": zeros(BATCH, FRAMES, 2 * HIDDEN), "dh_n": zeros(2, BATCH, HIDDEN)}


def GruWeights() -> dict[str, Any]:
    return {"weights": weights(), "directions": 2}


def gru_stream() -> dict[str, Any]:
    flags = {"batch_first": True, "reverse": True, "threads": 1}
    tensors = {"x": zeros(BATCH, FRAMES, CHANNELS), "h0": zeros(2, BATCH, HIDDEN), "h_n": zeros(2, BATCH, HIDDEN)}
    return {"weights": native.GruWeights(weights(), 2), **tensors, "y": zeros(BATCH, FRAMES, 2 * HIDDEN), **flags}


def ragged_gather() -> dict[str, Any]:
    given = {"frames": zeros(7, 4), "offsets": torch.tensor([0, 3, 7]), "index": torch.tensor([1, 0])}
    return {**given, "x": zeros(2, 5, 4), "v": zeros(2, 5, 4), "lengths": whole(2)}


def info_nce() -> dict[str, Any]:
    given = {"q": torch.ones(3, 4), "k": zeros(3, 4), "queue": zeros(7, 4), "pointer": whole()}
    return {**given, "temperature": 0.1, "loss": zeros(), "dq": zeros(3, 4)}


def ema_update() -> dict[str, Any]:
    return {"keys": zeros(9), "queries": zeros(9), "boundary": 4, "momentum_head": 0.5, "momentum_tail": 0.9}


def flat_step() -> dict[str, Any]:
    names = ("parameters", "gradients", "first", "second", "keys")
    numbers = dict.fromkeys(("weight_decay", "beta2", "eps", "max_norm", "momentum_head", "momentum_tail"), 0.5)
    return {**{name: zeros(9) for name in names}, "rates": torch.ones(4), "nesterov": False, "boundary": 4, **numbers}


def linear_epoch() -> dict[str, Any]:
    given = {"features": zeros(9, 5), "labels": whole(9), "order": torch.arange(9), "batch_size": 4}
    learnt = {"weight": zeros(3, 5), "bias": zeros(3), "weight_momentum": zeros(3, 5), "bias_momentum": zeros(3)}
    return {**given, **learnt, "rate": 0.1, "momentum": 0.9}


FUNCTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        gru_forward,
        GruWeights,
        gru_stream,
        gru_backward,
        ragged_gather,
        info_nce,
        ema_update,
        flat_step,
        linear_epoch,
    )
}
OPTIONAL = {"lengths", "h0", "second", "keys", "v", "dx", "pointer"}
"""None has a meaning there, but for the lengths that are written."""


class Liar(Tensor):
    """Says that it lies at an address of its choice, and is as large as it likes."""

    def data_ptr(self) -> int:
        return 8

    def size(self, *_: Any) -> Any:
        return (2**40,)


def freed(tensor: Tensor) -> Tensor:
    """Its storage is gone from under it, as FSDP does to the weights that it shards."""
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def cut(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size() - 1)
    return tensor


def attached(tensor: Tensor) -> Tensor:
    """An instance that overrides its methods changes nothing: what the class says of it is asked."""
    tensor = tensor.clone()
    tensor.data_ptr = lambda: 8  # type: ignore[method-assign]
    return tensor


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "an address": lambda tensor: tensor.data_ptr(),
    "an array": lambda tensor: tensor.numpy(),
    "text": lambda tensor: "tensor",
    "a storage": lambda tensor: tensor.untyped_storage(),
    "another dtype": lambda tensor: tensor.double(),
    "as many bytes": lambda tensor: tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor.double(),
    "a dimension more": lambda tensor: tensor[None],
    "an element more": lambda tensor: torch.zeros([size + 1 for size in tensor.shape] or [2], dtype=tensor.dtype),
    "nothing": lambda tensor: tensor.new_empty([0] * tensor.dim() or [0]),
    "no memory": lambda tensor: tensor.to("meta"),
    "freed": freed,
    "cut": cut,
    "sparse": lambda tensor: tensor.to_sparse(),
    "a nested one": lambda tensor: torch.nested.nested_tensor([tensor, tensor]),
}


def places(function: str) -> list[tuple[str, int | None]]:
    """The names of all tensors, and the places of those in lists."""
    found: list[tuple[str, int | None]] = []
    for name, value in FUNCTIONS[function]().items():
        if isinstance(value, list):
            found += [(name, place) for place in range(len(value))]
        elif isinstance(value, Tensor):
            found.append((name, None))
    return found


def put(arguments: dict[str, Any], name: str, place: int | None, change: Callable[[Tensor], Any]) -> dict[str, Any]:
    if place is None:
        return {**arguments, name: change(arguments[name])}
    tensors = list(arguments[name])
    tensors[place] = change(tensors[place])
    return {**arguments, name: tensors}


def copies(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: [t.clone() for t in v] if isinstance(v, list) else v.clone() if isinstance(v, Tensor) else v
            for name, v in arguments.items()}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_fits_is_taken(function: str) -> None:
    getattr(native, function)(**FUNCTIONS[function]())
    for name, place in places(function):
        taken = put(FUNCTIONS[function](), name, place, lambda t: torch.nn.Parameter(t, requires_grad=False))
        getattr(native, function)(**put(taken, name, place, attached))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_does_not_fit_raises_and_nothing_is_written(function: str, wrong: str) -> None:
    for name, place in places(function):
        if name == "order" and wrong in ("an element more", "nothing"):  # an epoch takes any number of clips
            continue
        arguments = FUNCTIONS[function]()
        before = copies(arguments)
        try:
            changed = put(arguments, name, place, WRONG[wrong])
        except (RuntimeError, TypeError):  # there is no such tensor
            continue
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            getattr(native, function)(**changed)
        for kept, now in zip(before.values(), arguments.values(), strict=True):
            pairs = zip(kept, now, strict=True) if isinstance(kept, list) else [(kept, now)]
            assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs), (name, place)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_none_stands_for_no_tensor_where_there_may_be_none_alone(function: str) -> None:
    for name, place in places(function):
        arguments = put(FUNCTIONS[function](), name, place, lambda _: None)
        optional = name in OPTIONAL and (function, name) not in {("ragged_gather", "lengths"), ("ema_update", "keys")}
        if optional or (function, name) == ("gru_forward", "reserve"):
            getattr(native, function)(**arguments)
        else:
            with pytest.raises((TypeError, ValueError)):
                getattr(native, function)(**arguments)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_class_that_lies_about_its_memory_is_not_believed(function: str) -> None:
    for name, place in places(function):
        honest, lying = FUNCTIONS[function](), FUNCTIONS[function]()
        lying = put(lying, name, place, lambda tensor: tensor.as_subclass(Liar))
        for arguments in (honest, lying):
            getattr(native, function)(**arguments)
        for one, other in zip(honest.values(), lying.values(), strict=True):
            if isinstance(one, Tensor):
                assert torch.equal(one, other.as_subclass(Tensor))


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 7, 9, 16])
@pytest.mark.parametrize("directions", [-1, 0, 1, 2, 3])
def test_a_layer_has_the_weights_of_one_or_two_directions(count: int, directions: int) -> None:
    arguments = {**gru_forward(), "directions": directions, "weights": (weights() * 2)[:count]}
    with pytest.raises(ValueError, match=r"one or two directions of 2 or 4 weights|must (be|have)"):
        native.gru_forward(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"frames": frames} for frames in (0, -5, 4, 2**62)),
        *({"threads": threads} for threads in (0, -1)),
        *({"lengths": torch.tensor([length, 1, 1])} for length in (0, -1, 6, 2**62, -(2**63))),
        {"batch_first": False},
        {"isa": "mmx"},
    ],
    ids=str,
)
def test_numbers_out_of_range_raise(wrong: dict[str, Any]) -> None:
    for function, arguments in ((native.gru_forward, gru_forward()), (native.gru_backward, gru_backward())):
        with pytest.raises(ValueError, match=r"."):
            function(**{**arguments, **wrong})


def test_an_array_is_named_with_its_class() -> None:
    with pytest.raises(TypeError, match=r"frames must be a tensor, not numpy.ndarray"):
        native.ragged_gather(**{**ragged_gather(), "frames": np.zeros((7, 4), np.float32)})


def test_a_message_says_what_was_found_and_what_is_needed() -> None:
    short = {**gru_forward(), "weights": [*weights()[:5], zeros(18, 5), *weights()[6:]]}
    with pytest.raises(
        ValueError, match=r"^w_hh_reverse must be contiguous float32 \[18, 6\] on the CPU, not torch.float32"
    ):
        native.gru_forward(**short)
    with pytest.raises(ValueError, match=r"^the memory of x \[3, 5, 4\] has been freed or cut to 0 bytes$"):
        native.gru_forward(**{**gru_forward(), "x": freed(zeros(3, 5, 4))})
