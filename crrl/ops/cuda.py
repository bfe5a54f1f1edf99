"""The CUDA extension: the reason if it cannot serve, and the status words by which its kernels report a timeout."""

from __future__ import annotations

import os
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
"""The value that crrl._cuda.abi must have: csrc/cuda/bindings.cpp raises it with every change of a signature."""

PATIENCE_NS = 2_000_000_000
"""How long a block waits for its team before it gives up; $CRRL_PATIENCE overrides it. A frame takes microseconds."""

__all__ = [
    "current_device",
    "device_index",
    "driver",
    "from_ptx",
    "missing",
    "native",
    "off",
    "patience_ns",
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
"""Why this process no longer uses the extension; None: it still may."""

_words: dict[int, Tensor] = {}


def unusable() -> str | None:
    """Why the extension cannot serve in this process; None: it can. The first call looks for a GPU."""
    return missing or off or _problem(native)


@cache
def _problem(module: Any) -> str | None:
    return module.problem()  # type: ignore[no-any-return]


def current_device() -> int:
    """The number of the current GPU; 0 if there is none and the kernels are emulated."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def device_index(index: int | None) -> int:
    """`index`, or the number of the current GPU if it is None."""
    return current_device() if index is None else index


def patience_ns() -> int:
    """How long a block waits for its team, by the GPU's clock, which a debugger or a paused machine does not stop.

    Raises:
        CrrlError: $CRRL_PATIENCE is not a number of seconds.
    """
    text = os.environ.get("CRRL_PATIENCE")
    return _nanoseconds(text) if text else PATIENCE_NS


@cache
def _nanoseconds(text: str) -> int:
    with suppress(ValueError):
        if 1e-9 <= (seconds := float(text)) <= 1e6:
            return int(seconds * 1e9)
    raise CrrlError(f"CRRL_PATIENCE is {text!r}: give the seconds that a block of a CUDA kernel may wait, such as 60")


def from_ptx(device: int) -> str | None:
    """A notice that the driver must compile the extension's PTX for GPU `device`; None: there is code for that GPU."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if any(_runs(target, major, minor) for target in native.targets):
        return None
    name = torch.cuda.get_device_name(device)
    return f"{name}: its driver compiles crrl._cuda for sm_{major}{minor}, once and for some seconds a mode"


def _runs(target: str, major: int, minor: int) -> bool:
    """Whether code for `target` runs on sm_{major}{minor}: on the same number and, unless `target` ends in "a", on
    later minor numbers."""
    found = re.fullmatch(r"sm_(\d+)(\d)([af]?)", target)
    if found is None or int(found[1]) != major:
        return False
    return int(found[2]) == minor if found[3] == "a" else int(found[2]) <= minor


@cache
def driver() -> str:
    """The version of NVIDIA's driver as its kernel module gives it, else as CUDA does; "none" without a GPU."""
    with suppress(OSError):
        first = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
        if version := re.search(r"\d+\.\d+(\.\d+)*", first):
            return version[0]
    return str(torch._C._cuda_getDriverVersion()) if torch.cuda.is_available() else "none"  # type: ignore[attr-defined]


def place(tensor: Tensor) -> tuple[int, int]:
    """The device of `tensor` and the current stream there; 0, 0 on a CPU, where the kernels are emulated."""
    if tensor.device.type != "cuda":
        return 0, 0
    return tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream


def status(device: int) -> Tensor:
    """The status word of `device`, int32 [1] in host memory that its kernels can write: 1 once a block timed out."""
    if device not in _words:
        with _disable_current_modes(), torch.inference_mode(False):  # ordinary in any mode
            word = torch.zeros(1, dtype=torch.int32, device="cpu")
            _words[device] = word.pin_memory() if torch.cuda.is_available() else word
    return _words[device]


def timed_out(device: int) -> bool:
    """Whether a kernel on `device` has timed out since the last call; does not wait for kernels that still run."""
    word = status(device)
    lost = bool(word.item())
    if lost:  # otherwise a kernel may be writing it now
        word.zero_()
    return lost


def raise_if_timed_out() -> None:
    """If a kernel has timed out, switch the extension off for this process and raise; otherwise only read a word.

    The results of the kernel's call are NaN, and so may be whatever was computed from them. Our launchers call this
    before each launch, and training before it trusts its weights.

    Raises:
        CrrlError: a kernel has timed out since the last call.
    """
    global off
    for device in list(_words):
        if timed_out(device):
            off = f"a kernel on cuda:{device} waited {patience_ns() / 1e9:g} s for its other blocks"
            raise CrrlError(
                f"the CUDA GRU stopped: {off}. Its results are NaN. Another program may keep the GPU busy: start again "
                "from the last checkpoint, with CRRL_PATIENCE=60 (seconds) or CRRL_BACKEND=gru_layer=torch if it recurs"
            )
