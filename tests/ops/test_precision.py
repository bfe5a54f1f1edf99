"""The switches of float32 products, read and moved without leaving a trace; on torch before and since 2.9."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch

from crrl.ops import precision

NEW = hasattr(torch._C, "_get_fp32_precision_getter")
SETTINGS = [("generic", "all"), ("cuda", "all"), ("cuda", "rnn"), ("cuda", "matmul")]

new_only = pytest.mark.skipif(not NEW, reason="the settings came with torch 2.9")


@pytest.fixture(autouse=True)
def _switches_of_before() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions call the old switches deprecated
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = False
    if NEW:
        for setting, value in zip(SETTINGS, ("none", "none", "tf32", "none"), strict=True):
            torch._C._set_fp32_precision_setter(*setting, value)


def multiplies() -> bool:
    """Whether cuBLAS may use TF32 now, as torch's own kernels ask."""
    if NEW:
        return bool(torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32")
    return torch.backends.cuda.matmul.allow_tf32


def test_cudnns_default_is_tf32_and_the_old_switch_says_otherwise() -> None:
    assert [precision.mode(dtype) for dtype in precision.MODES] == ["tf32", "bf16", "fp16"]
    torch.backends.cudnn.allow_tf32 = False
    assert precision.mode(torch.float32) == "fp32"


@new_only
def test_the_new_switches_say_it_too() -> None:
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    assert precision.mode(torch.float32) == "fp32"
    torch.backends.cudnn.rnn.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
    assert precision.mode(torch.float32) == "tf32"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mode", ["tf32", "fp32", "bf16"])
def test_products_follow_the_mode_and_the_switch_comes_back(legacy: bool, mode: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = legacy
    with pytest.raises(KeyError), precision.products(mode):  # noqa: PT012
        assert multiplies() == (legacy if mode == "bf16" else mode == "tf32")
        raise KeyError
    assert torch.backends.cuda.matmul.allow_tf32 == legacy


def states() -> list[tuple[str, ...]]:
    return list(product(("none", "ieee", "tf32"), repeat=3))


@new_only
@pytest.mark.parametrize("mode", ["tf32", "fp32"])
def test_a_setting_that_was_inherited_is_inherited_again(mode: str) -> None:
    get: Callable[..., str] = torch._C._get_fp32_precision_getter
    change = torch._C._set_fp32_precision_setter
    tree = [SETTINGS[i] for i in (0, 1, 3)]
    for values in states():
        for setting, value in zip(tree, values, strict=True):
            change(*setting, value)
        with precision.products(mode):
            assert (get("cuda", "matmul") == "tf32") == (mode == "tf32")
        assert [precision._own(setting) for setting in tree] == list(values)
        assert get("cuda", "rnn") == "tf32"
