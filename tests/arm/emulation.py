"""A plugin of pytest: `crrl._cpu` is csrc/cpu as another processor runs it, in tests/arm/driver.cpp under emulation.

The parity tests of the kernels then run as they are: `make test-arm`. CRRL_DRIVER is the command that runs the driver.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, cast

import pytest
import torch
from torch import Tensor

Given = Tensor | bytes | None


class Driver:
    """The process, and how it is spoken with: see driver.cpp."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to: IO[bytes] = self.process.stdin
        self.back: IO[bytes] = self.process.stdout

    def call(
        self, name: str, isa: str = "", numbers: Sequence[float] = (), arrays: Sequence[Given] = ()
    ) -> list[bytes]:
        """The arrays after the call; contiguous tensors among `arrays`, as results are, are written in place.

        Raises:
            ValueError: what the kernel says.
        """
        parts = [_text(name.encode()), _text(isa.encode()), _whole(len(numbers))]
        parts += [struct.pack(f"<{len(numbers)}d", *numbers), _whole(len(arrays))]
        for array in arrays:
            parts.append(_whole(-1) if array is None else _text(_bytes(array)))
        self.to.write(b"".join(parts))
        self.to.flush()
        problem = self._read()
        results = [self._read() for _ in range(struct.unpack("<q", self.back.read(8))[0])]
        if problem:
            raise ValueError(problem.decode())
        for array, result in zip(arrays, results, strict=False):
            if isinstance(array, Tensor) and array.numel() and array.is_contiguous():
                array.copy_(torch.frombuffer(bytearray(result), dtype=array.dtype).view(array.shape))
        return results

    def _read(self) -> bytes:
        (size,) = struct.unpack("<q", self.back.read(8))
        return self.back.read(max(size, 0))


def _whole(value: int) -> bytes:
    return struct.pack("<q", value)


def _text(value: bytes) -> bytes:
    return _whole(len(value)) + value


def _bytes(array: Tensor | bytes) -> bytes:
    return array if isinstance(array, bytes) else array.detach().contiguous().numpy().tobytes()


def _frames(tensor: Tensor | None, batch_first: bool) -> tuple[int, int]:
    """Elements from a row to the next, and from a frame to the next, where the tensor is contiguous."""
    if tensor is None:
        return 0, 0
    row, step = tensor.shape[1] * tensor.shape[2], tensor.shape[2]
    return (row, step) if batch_first else (step, row)


class Emulated(ModuleType):
    """What crrl._cpu is, but that it takes no bfloat16 and checks no tensor."""

    compiler = "under emulation"

    def __init__(self, driver: Driver, abi: int) -> None:
        super().__init__("crrl._cpu")
        self.driver, self.abi = driver, abi
        best, self.threads = (text.decode() for text in driver.call("about"))
        self.gru_isa = lambda bf16: None if bf16 else best

    def keep_memory(self) -> None:
        """Nothing: the process is another."""

    def gru_reserve_size(self, batch: int, steps: int, hidden: int, directions: int) -> int:
        (size,) = self.driver.call("gru_reserve_size", numbers=[batch, steps, hidden, directions])
        return int(struct.unpack("<q", size)[0])

    def _layer(
        self, x: Tensor, lengths: Given, h0: Given, weights: Sequence[Tensor], directions: int, frames: int,
        batch_first: bool, reverse: bool,
    ) -> tuple[list[float], list[Given]]:  # fmt: skip
        batch, given = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
        row, step = _frames(x, batch_first)
        numbers = [batch, frames, x.shape[2], weights[1].shape[1], directions, reverse, given != frames]
        numbers += [row, 0 if given != frames else step]
        return [*numbers], [x, lengths, h0, *self._padded(weights, directions)]

    def _padded(self, weights: Sequence[Tensor], directions: int) -> list[Given]:
        each = len(weights) // directions
        padding = [None] * (4 - each)
        return [one for d in range(directions) for one in (*weights[d * each : (d + 1) * each], *padding)]

    def gru_forward(
        self, x: Tensor, lengths: Given, h0: Given, weights: Sequence[Tensor], y: Tensor, h_n: Tensor, reserve: Given,
        directions: int, frames: int, batch_first: bool, reverse: bool, threads: int, isa: str,
    ) -> None:  # fmt: skip
        numbers, arrays = self._layer(x, lengths, h0, weights, directions, frames, batch_first, reverse)
        numbers += [*_frames(y, batch_first), threads]
        self.driver.call("gru_forward", isa, numbers, [*arrays, y, h_n, reserve])

    def gru_backward(
        self, x: Tensor, lengths: Given, h0: Given, weights: Sequence[Tensor], reserve: Tensor, dy: Tensor,
        dh_n: Tensor, dx: Tensor | None, dh0: Tensor, gradients: Sequence[Tensor], directions: int, frames: int,
        batch_first: bool, reverse: bool, threads: int, isa: str,
    ) -> None:  # fmt: skip
        numbers, arrays = self._layer(x, lengths, h0, weights, directions, frames, batch_first, reverse)
        row, step = _frames(dx, batch_first)
        numbers += [*_frames(dy, batch_first), row, 0 if numbers[6] else step, threads]
        arrays += [reserve, dy, dh_n, dx, dh0, *self._padded(gradients, directions)]
        self.driver.call("gru_backward", isa, numbers, arrays)

    def info_nce(
        self, q: Tensor, k: Tensor, queue: Tensor, temperature: float, loss: Tensor, dq: Tensor, pointer: Given,
        threads: int, isa: str,
    ) -> None:  # fmt: skip
        numbers = [*q.shape, len(queue), temperature, threads]
        self.driver.call("info_nce", isa, numbers, [q, k, queue, loss, dq, pointer])

    def ema_update(
        self, keys: Tensor, queries: Tensor, boundary: int, head: float, tail: float, threads: int, isa: str
    ) -> None:
        self.driver.call("ema_update", isa, [len(keys), boundary, head, tail, threads], [keys, queries])

    def flat_step(
        self, parameters: Tensor, gradients: Tensor, first: Tensor, second: Given, keys: Given, rates: Tensor,
        nesterov: bool, weight_decay: float, beta2: float, eps: float, max_norm: float, boundary: int, head: float,
        tail: float, threads: int, isa: str,
    ) -> None:  # fmt: skip
        numbers = [nesterov, weight_decay, beta2, eps, max_norm, len(parameters), boundary, head, tail, threads]
        self.driver.call("flat_step", isa, numbers, [parameters, gradients, first, second, keys, rates])

    def linear_epoch(
        self, features: Tensor, labels: Tensor, order: Tensor, batch_size: int, weight: Tensor, bias: Tensor,
        weight_momentum: Tensor, bias_momentum: Tensor, rate: float, momentum: float, isa: str,
    ) -> None:  # fmt: skip
        numbers = [*features.shape, len(bias), len(order), batch_size, rate, momentum]
        arrays = [features, labels, order, weight, bias, weight_momentum, bias_momentum]
        self.driver.call("linear_epoch", isa, numbers, arrays)

    def parse_skeleton(self, text: bytes) -> tuple[int, list[tuple[int, bytes, bytes]]]:
        frames, *bodies = self.driver.call("parse_skeleton", arrays=[text])
        threes = zip(*(iter(bodies),) * 3, strict=True)
        return struct.unpack("<q", frames)[0], [(struct.unpack("<q", each)[0], *rest) for each, *rest in threes]


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before anything imports crrl, crrl._cpu is the driver's."""
    wanted = re.search(r"^ABI = (\d+)", (Path(__file__).parents[2] / "crrl/ops/cpu.py").read_text(), re.MULTILINE)
    assert wanted is not None
    sys.modules["crrl._cpu"] = Emulated(Driver(shlex.split(os.environ["CRRL_DRIVER"])), int(wanted[1]))


def pytest_report_header() -> str:
    """What runs, at the head of the report."""
    module = cast(Emulated, sys.modules["crrl._cpu"])
    return f"crrl._cpu: {module.gru_isa(False)}, threads: {module.threads}, by {os.environ['CRRL_DRIVER']}"
