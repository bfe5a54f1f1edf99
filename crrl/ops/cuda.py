"""The CUDA extension: why it cannot serve where it cannot, and the words in which its kernels report a lost wait."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from crrl.errors import CrrlError
from crrl.ops import extension

ABI = 1
"""What crrl._cuda.abi must be: csrc/cuda/bindings.cpp raises it with every change of a signature."""

PATIENCE_NS = 2_000_000_000
"""How long a block waits for its team before it gives up; a frame takes microseconds."""

__all__ = [
    "current_device",
    "driver",
    "missing",
    "native",
    "off",
    "place",
    "raise_if_timed_out",
    "status",
    "timed_out",
    "unusable",
]

missing: str | None

if TYPE_CHECKING:
    from crrl import _cuda as native
else:
    native, missing = extension.load("crrl._cuda", ABI, "CUDA", "nvcc, set CRRL_CUDA=1")

off: str | None = None
"""Why this process uses the extension no more; None while it may."""

_words: dict[int, Tensor] = {}


def unusable() -> str | None:
    """Why the extension cannot serve in this process, or None. Looks for a GPU when it is first called."""
    return missing or off or _problem(native)


@cache
def _problem(module: Any) -> str | None:
    return module.problem()  # type: ignore[no-any-return]


def current_device() -> int:
    """The number of the GPU that calls go to; 0 where there is none and the kernels are emulated."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


@cache
def driver() -> str:
    """The version of NVIDIA's driver, as the kernel module says it, else as CUDA does; "none" where there is none."""
    with suppress(OSError):
        first = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
        if version := re.search(r"\d+\.\d+(\.\d+)*", first):
            return version[0]
    return str(torch._C._cuda_getDriverVersion()) if torch.cuda.is_available() else "none"  # type: ignore[attr-defined]


def place(tensor: Tensor) -> tuple[int, int]:
    """The device and its current stream for work on `tensor`; 0, 0 on a CPU, where the kernels are emulated."""
    if tensor.device.type != "cuda":
        return 0, 0
    return tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream


def status(device: int) -> Tensor:
    """int32 [1] in memory of the host that kernels on `device` can write: 1 once a block of theirs gave up waiting."""
    if device not in _words:
        with _disable_current_modes(), torch.inference_mode(False):  # an ordinary tensor, whoever asks first
            word = torch.zeros(1, dtype=torch.int32, device="cpu")
            _words[device] = word.pin_memory() if torch.cuda.is_available() else word
    return _words[device]


def timed_out(device: int) -> bool:
    """Whether a kernel on `device` gave up since this was last asked; without waiting for those that still run."""
    word = status(device)
    lost = bool(word.item())
    if lost:  # else a kernel may just be writing it
        word.zero_()
    return lost


def raise_if_timed_out() -> None:
    """Switch the extension off for this process and raise, if a kernel of it gave up waiting; else it costs one look.

    The results of that call are NaN, and what was computed from them may be. Called before each of our launches, and
    by training before it trusts its weights.

    Raises:
        CrrlError: a kernel gave up since this was last called.
    """
    global off
    for device in list(_words):
        if timed_out(device):
            off = f"a kernel on cuda:{device} waited in vain for {PATIENCE_NS / 1e9:g} s"
            raise CrrlError(
                f"the CUDA GRU stopped: {off}, as another program may keep the GPU busy; what it computed is NaN. "
                "Start again from before, if need be with CRRL_BACKEND=gru_layer=torch"
            )
