"""The Triton kernels' launchers, imported when first called: crrl imports without Triton."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

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


def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, max_frames: int, with_velocity: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """crrl.reference.motion.ragged_gather."""
    from crrl.kernels import motion

    return motion.ragged_gather(frames, offsets, index, max_frames, with_velocity)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The kernel of crrl::info_nce."""
    from crrl.kernels import infonce

    return infonce.info_nce(q, k, queue, temperature)


def info_nce_enqueue(
    q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, entering: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """The kernel of crrl::info_nce_enqueue."""
    from crrl.kernels import infonce

    return infonce.info_nce(q, k, queue, temperature, pointer=pointer, entering=entering)


def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """The kernel of crrl::ema_update."""
    from crrl.kernels import ema

    ema.ema_update(keys, queries, boundary, momentum_head, momentum_tail)


def flat_step(*arguments: Any) -> None:
    """The kernel of crrl::flat_step."""
    from crrl.kernels import optim

    optim.flat_step(*arguments)
