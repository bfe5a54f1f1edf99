"""The precision of matrix products: autocast's dtype and, on a GPU, torch's TF32 switches for float32.

torch 2.9 replaced `allow_tf32` by a tree of settings (`torch.backends.fp32_precision` and below). Reading the old
switches raises once a program has set the new ones, so these functions use the new ones where they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_Setting = tuple[str, str]
_MATMUL: _Setting = ("cuda", "matmul")
_PARENT: dict[_Setting, _Setting] = {_MATMUL: ("cuda", "all"), ("cuda", "all"): ("generic", "all")}

_NEW = hasattr(torch._C, "_get_fp32_precision_getter")

MODES = {torch.float32: ("tf32", "fp32"), torch.bfloat16: ("bf16",), torch.float16: ("fp16",)}
"""The modes of crrl._cuda's GRU kernels, by the dtype of the tensors."""

DTYPES = {mode: dtype for dtype, modes in MODES.items() for mode in modes}
"""The dtype of each mode's tensors."""

AUTOCAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that autocast converts; it leaves float64 alone."""

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""The devices whose autocast can be queried; torch raises for others, such as meta."""


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for `x` and would convert it."""
    device = x.device.type
    return device in AUTOCAST_DEVICES and x.dtype in AUTOCAST_DTYPES and torch.is_autocast_enabled(device)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of `x` are computed: autocast's if it applies, else that of `x`."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x) else x.dtype


def mode(dtype: torch.dtype) -> str:
    """The mode in which a GRU of this dtype (a key of MODES) is computed now; float32 follows cuDNN's RNN setting."""
    if dtype != torch.float32:
        return MODES[dtype][0]
    allowed = _get(("cuda", "rnn")) == "tf32" if _NEW else torch.backends.cudnn.allow_tf32
    return "tf32" if allowed else "fp32"


@contextmanager
def products(mode: str) -> Iterator[None]:
    """Within the block, cuBLAS multiplies float32 as `mode` says: as TF32 in "tf32", exactly in "fp32".

    The switch is global to the process, so it also changes products of other threads. It is restored afterwards.
    """
    if mode not in ("tf32", "fp32") or _allowed() == (mode == "tf32"):
        yield
        return
    before = _own(_MATMUL) if _NEW else ""
    _allow(mode == "tf32")
    try:
        yield
    finally:
        if _NEW:
            _set(_MATMUL, before)
        else:
            _allow(mode != "tf32")


def _allowed() -> bool:
    return _get(_MATMUL) == "tf32" if _NEW else torch.backends.cuda.matmul.allow_tf32


def _allow(tf32: bool) -> None:
    if _NEW:
        _set(_MATMUL, "tf32" if tf32 else "ieee")
    else:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _own(setting: _Setting) -> str:
    """What `setting` itself was set to; "none" if it inherits.

    Reading a setting does not tell whether it inherits, so its parent is changed for a moment.
    """
    value, parent = _get(setting), _PARENT.get(setting)
    if parent is None:
        return value
    before = _own(parent)
    _set(parent, "ieee" if value == "tf32" else "tf32")
    inherits = _get(setting) != value
    _set(parent, before)
    return "none" if inherits else value


def _get(setting: _Setting) -> str:
    return str(torch._C._get_fp32_precision_getter(*setting))


def _set(setting: _Setting, value: str) -> None:
    torch._C._set_fp32_precision_setter(*setting, value)
