"""What the Triton kernels can serve. Operators import their launchers when these are first called."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from crrl.ops.backends import Case

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(case: Case) -> tuple[bool, str]:
    """Whether a Triton kernel can serve `case`, and why."""
    return _supports(case, DTYPES)


def supports_flat(case: Case) -> tuple[bool, str]:
    """The same for the kernels on flat buffers, whose state is float32."""
    return _supports(case, DTYPES[:1])


def _supports(case: Case, dtypes: tuple[torch.dtype, ...]) -> tuple[bool, str]:
    if case.device != "cuda" or case.dtype not in dtypes:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return False, f"the Triton kernel takes {known} on a GPU, not {case.dtype} on {case.device}"
    if find_spec("triton") is None:
        return False, "Triton is not installed: pip install triton"
    return True, "Triton kernel"
