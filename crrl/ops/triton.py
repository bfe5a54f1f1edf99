"""What the Triton kernels can serve, once checked. Operators import a launcher when they first call it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from crrl.ops import cuda, trust
from crrl.ops.backends import Case

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

KERNELS = Path(__file__).parents[1] / "kernels"

Supports = Callable[[Case], tuple[bool, str]]


def checked(
    operator: str, fault: Callable[[torch.dtype, torch.device], str | None], dtypes: Sequence[torch.dtype] = DTYPES
) -> Supports:
    """Register the self-check of an operator's Triton kernel; returns the `supports` of its backend.

    Args:
        fault: finds what is wrong with the kernel in a dtype on a device; None: nothing.
        dtypes: those that the kernel takes.
    """
    for dtype in dtypes:
        trust.register(
            trust.Check(
                operator=operator, mode=_name(dtype), subject=f"the Triton kernel of {operator}",
                instead="the PyTorch reference", dtype=dtype, build=_build, fault=partial(fault, dtype),
                obstacle=_obstacle,
            )
        )  # fmt: skip

    def supports(case: Case) -> tuple[bool, str]:
        if case.device != "cuda" or case.dtype not in dtypes:
            known = ", ".join(map(_name, dtypes))
            return False, f"the Triton kernel takes {known} on a GPU, not {case.dtype} on {case.device}"
        passed, why_not = trust.verdict(operator, _name(case.dtype), cuda.device_index(case.index))
        return passed, "Triton kernel" if passed else why_not

    return supports


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _obstacle(device: int) -> str | None:
    """Why no Triton kernel can be checked; None: one can."""
    if _installed() is None:
        return "Triton is not installed: pip install triton"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "there is no GPU that torch can use"
    return None


@cache
def _installed() -> str | None:
    """The installed version of Triton; None: it is not installed."""
    return version("triton") if find_spec("triton") is not None else None


@cache
def _build() -> str:
    files = sorted(KERNELS.glob("*.py"))
    return " ".join([f"Triton {_installed()}", *(trust.file_hash(str(path)) for path in files)])
