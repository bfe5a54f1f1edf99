"""The C++ extension and the instruction set that its kernels use; if it is missing, the reason."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from crrl.errors import CrrlError
from crrl.ops import extension
from crrl.ops.backends import Case

ABI = 10
"""The value that crrl._cpu.abi must have: csrc/cpu/bindings.cpp raises it with every change of a signature."""

__all__ = [
    "BEST",
    "FLOAT_ISAS",
    "GRU_ISAS",
    "available",
    "best_float",
    "forced",
    "isa",
    "keep_memory",
    "missing",
    "native",
    "supports",
]

missing: str | None

if TYPE_CHECKING:
    from crrl import _cpu as native
else:
    native, missing = extension.load("crrl._cpu", ABI, "C++", "g++ or clang")


def keep_memory() -> None:
    """Make glibc, where it is the C library, keep freed memory for reuse, so that no step starts with fresh pages."""
    if missing is None:
        native.keep_memory()


isa = os.environ.get("CRRL_ISA", "")
"""The instruction set that the kernels must use; empty: the best that this processor has for the dtype."""

BEST: dict[bool, str | None] = {bf16: None if missing else native.gru_isa(bf16) for bf16 in (False, True)}
"""The best of GRU_ISAS on this processor; queried once, because torch.compile cannot trace the query."""

FLOAT_ISAS = ("neon", "plain") if BEST[False] == "neon" else ("avx512", "avx2", "plain")
"""Instruction sets of this processor family that compute in float32, fastest first."""

GRU_ISAS = {False: ("amx", *FLOAT_ISAS), True: ("amx", "avx512_bf16")}
"""Instruction sets for the GRU's matrix products, by whether they are bfloat16, fastest first.

amx takes a float32 number as three bfloat16 numbers.
"""


def forced(isas: tuple[str, ...] = FLOAT_ISAS) -> str:
    """`isa` if it is one of `isas`; else empty: the best is used.

    Raises:
        CrrlError: this processor has no such instruction set.
    """
    if isa and isa not in (here := dict.fromkeys(name for bf16 in GRU_ISAS for name in available(bf16))):
        raise CrrlError(f"CRRL_ISA is {isa}: this processor has {', '.join(here)}; set one of these, or none")
    return isa if isa in isas else ""


def best_float() -> str:
    """The best of FLOAT_ISAS on this processor."""
    return next(name for name in available(False) if name in FLOAT_ISAS)


def available(bf16: bool) -> tuple[str, ...]:
    """The sets of GRU_ISAS that this processor has, fastest first."""
    isas, best = GRU_ISAS[bf16], BEST[bf16]
    return () if best is None else isas[isas.index(best) :]


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension can serve `case`, and why."""
    if missing:
        return False, missing
    if case.device != "cpu" or case.dtype != torch.float32:
        return False, f"the C++ kernel takes float32 on the CPU, not {case.dtype} on {case.device}"
    return True, f"one pass in C++ (crrl._cpu, {forced() or best_float()})"
