"""Compiles what the launchers pick for the sizes of this field, for GPUs that need not be there, for test_compile.py.

The launchers run as they are, on tensors without memory, under a driver that names the GPU; only the launch itself is
left out. A line of JSON for each kernel: its case, its GPU and what ptxas says of its registers.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from crrl.kernels import optim
from crrl.kernels.ema import ema_update
from crrl.kernels.infonce import info_nce
from crrl.kernels.motion import ragged_gather
from crrl.kernels.optim import flat_step

PARAMETERS = 2_300_000


class Named:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def contrast(keys: int, channels: int, dtype: torch.dtype) -> None:
    pointer = empty(dtype=torch.int64)
    q, queue = empty(32, channels), empty(keys, channels, dtype=dtype)
    info_nce(q, q, queue, 0.07, pointer=pointer)


def step(adam: bool, max_norm: float, follow: bool) -> None:
    parameters = empty(PARAMETERS)
    second, keys = parameters if adam else None, parameters if follow else None
    flat_step(
        parameters, parameters, parameters, second, keys, empty(4), nesterov=not adam, weight_decay=1e-4, beta2=0.999,
        eps=1e-8, max_norm=max_norm, boundary=2_000_000, momentum_head=0.999, momentum_tail=0.9,
    )  # fmt: skip


def gather(dtype: torch.dtype, with_velocity: bool) -> None:
    index = empty(32, dtype=torch.int64)
    ragged_gather(empty(100_000, 150), index, index, 60, with_velocity, dtype)


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """What to call, and a name for it."""
    for dtype in (torch.float32, torch.bfloat16):
        for keys in (64, 65536):
            for channels in (512, 1024):
                yield f"info_nce K={keys} D={channels} {dtype}", partial(contrast, keys, channels, dtype)
        yield f"ragged_gather {dtype}", partial(gather, dtype, dtype == torch.bfloat16)
    for adam, max_norm, follow in ((False, 0.0, True), (False, 1.0, True), (True, 0.0, False), (True, 1.0, True)):
        name = "adam" if adam else "sgd"
        yield f"flat_step {name} max_norm={max_norm} keys={follow}", partial(step, adam, max_norm, follow)
    yield "ema_update", partial(ema_update, empty(PARAMETERS), empty(PARAMETERS), 2_000_000, 0.999, 0.9)


def compile_for(capability: int, case: str, call: Callable[[], None]) -> None:
    """Prints a line for each kernel that `call` launches and no case before it did."""
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            launch(self, *arguments, grid=grid, warmup=True, **settings)
        log = output.getvalue()
        if "Compiling entry function" in log:
            words = {"registers": r"Used (\d+) registers", "spilled": r"(\d+) bytes spill stores"}
            found = {word: int(re.findall(pattern, log)[0]) for word, pattern in words.items()}
            print(json.dumps({"kernel": self.__name__, "case": case, "capability": capability} | found), flush=True)

    JITFunction.run = compile_only
    driver.set_active(Named(capability))
    call()
    JITFunction.run = launch


def main() -> None:
    for capability in (80, 90, 100):
        for case, call in cases():
            compile_for(capability, case, call)
    optim.BLOCK = 1 << 15  # what a kernel that spills looks like here
    compile_for(80, "too large", partial(step, True, 0.0, True))


if __name__ == "__main__":
    main()
