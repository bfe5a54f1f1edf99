"""Trust in the CUDA kernels: none of them serves before it has agreed with the reference on the card at hand.

A mode that has passed is remembered under $CRRL_CACHE for the card, driver and build it has passed on; one that has
failed is off for the process, which says so once. The check is small.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from crrl.errors import CrrlError
from crrl.files import cache_folder, content_hash, read_json, write_json
from crrl.ops import cuda, precision
from crrl.ops.backends import Case, recorder
from crrl.ops.gru import cuda as cuda_gru
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

TOLERANCE = {"fp32": 2e-5, "tf32": 1.5e-2, "fp16": 1.5e-2, "bf16": 0.12}
"""The largest error that a result may have, in units of its root mean square: tens of roundings; mistakes make 1."""

LENGTHS = (6, 1, 4, 6, 3, 5, 2, 6, 1, 6, 6, 5, 4, 3, 2, 1, 6, 5, 6)
"""Of ragged rows, over and over."""

FRAMES, CHANNELS = 6, 7

SHAPES = ((19, 97), (19, 256), (70, 256), (150, 256), (19, 544), (70, 544), (19, 1000))
"""Rows and hidden sizes: a block half empty, the paper's encoder with few rows, more and many, whose teams take 8, 16
and 32 at once on a large GPU, and sizes past a cluster's."""

allowed = True
"""Whether a check may run; where not, only what has passed before is trusted."""

_verdicts: dict[tuple[Any, str, int], tuple[bool, str]] = {}


def supports(case: Case) -> tuple[bool, str]:
    """Whether the CUDA GRU can serve `case` and has passed its check in that mode on that card, and why."""
    able, reason = cuda_gru.supports(case)
    if not able:
        return able, reason
    index = cuda.current_device() if case.index is None else case.index
    passed, why_not = verdict(precision.mode(case.dtype), index)
    return passed, reason if passed else why_not


def verdict(mode: str, device: int) -> tuple[bool, str]:
    """Whether the kernels of `mode` are trusted on the GPU `device`, and why; checks them when it is first asked.

    Within a CUDA graph's capture, among others, nothing can be checked: what is not known by then is not trusted.
    """
    key = cuda.native, mode, device
    if key not in _verdicts:
        if within := _watched():
            return False, f"its self-check in {mode} cannot run within {within}: call it once before"
        known = _recall(mode, device)
        if known is None and not allowed:
            return False, f"its self-check in {mode} has not run"
        cuda.status(device)  # made here: within a capture no memory can be had from the driver
        _verdicts[key] = known or _check(mode, device)
    return _verdicts[key]


def _watched() -> str | None:
    """What records the operations now, and would record a check's."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "the capture of a CUDA graph"
    return recorder()


def _check(mode: str, device: int) -> tuple[bool, str]:
    """Run the check; a pass is written down, a failure said."""
    with _undisturbed(device):
        cuda.raise_if_timed_out()  # what is found below is ours
        try:
            faults = (_fault(mode, device, *shape) for shape in SHAPES)
            fault = next((fault for fault in faults if fault), None)
        except Exception as error:
            fault = f"it raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if cuda.timed_out(device):
            fault = f"a block waited in vain for {cuda.PATIENCE_NS / 1e9:g} s"
    if fault is None:
        facts = _facts(mode, device)
        with suppress(CrrlError, OSError):  # a cache that cannot be written costs a check in each process
            path = _path(facts)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, facts)
        return True, "its self-check passed now"
    reason = f"its self-check in {mode} failed: {fault}"
    warnings.warn(f"the CUDA GRU is off on {_card(device)}, torch serves instead: {reason}", RuntimeWarning, 2)
    return False, reason


def _recall(mode: str, device: int) -> tuple[bool, str] | None:
    facts = _facts(mode, device)
    with suppress(CrrlError):
        if read_json(_path(facts)) == facts:
            return True, "its self-check passed before"
    return None


def _path(facts: dict[str, str]) -> Path:
    return cache_folder() / "selfcheck" / f"{content_hash(facts.values())}.json"


def _facts(mode: str, device: int) -> dict[str, str]:
    """All on which a verdict depends."""
    build = f"{_hash(cuda.native.__file__ or '')}, ABI {cuda.ABI}"
    return {
        "card": _card(device), "driver": cuda.driver(), "torch": torch.__version__, "build": build, "mode": mode
    }  # fmt: skip


@cache
def _hash(path: str) -> str:
    return content_hash([Path(path).read_bytes()])


def _card(device: int) -> str:
    if not torch.cuda.is_available():
        return "the emulation"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


@contextmanager
def _undisturbed(device: int) -> Iterator[None]:
    """Whatever mode the caller is in (autocast, inference, a compiler's fake tensors), the check is not."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.cuda.is_available():
            stack.enter_context(torch.cuda.device(device))
        yield


def _fault(mode: str, device: int, batch: int, hidden: int) -> str | None:
    """What is wrong with the kernels of `mode`; None: nothing. Training, inference, and two encoders in one launch."""
    where = torch.device("cuda", device) if torch.cuda.is_available() else torch.device("cpu")
    layer, key = (_Layer(mode, where, batch, hidden, seed) for seed in range(2))
    flags = FRAMES, True, True
    with torch.no_grad():
        arguments = layer.x, layer.lengths, layer.h0, layer.weights
        y, h_n, reserve = cuda_gru.forward(*arguments, *flags, True, mode)
        dx, dh0, gradients = cuda_gru.backward(layer.dy, layer.dh_n, *arguments, reserve, *flags, True, mode)
        alone = cuda_gru.forward(*arguments, *flags, False, mode)[:2]
        pair = cuda_gru.forward_pair(
            layer.x, key.x, layer.lengths, layer.weights, key.weights, True, True, True, mode
        )  # fmt: skip
    truth, of_pair, of_key = layer.expected(layer.h0), layer.expected(None), key.expected(None)
    names = ["y", "h_n", "dx", "dh0", *("dw_ih", "dw_hh", "db_ih", "db_hh") * 2]
    return (
        _differs("", names, [y, h_n, dx, dh0, *gradients], truth, mode)
        or _differs("without a gradient ", names, alone, truth, mode)
        or _differs("beside another encoder ", names, pair[:2], of_pair, mode)
        or _differs("as the other encoder ", names, pair[3:], of_key, mode)
    )


def _differs(when: str, names: list[str], made: Any, truth: list[Tensor], mode: str) -> str | None:
    for name, got, want in zip(names, made, truth, strict=False):
        error = float((got.double().cpu() - want).abs().max() / want.square().mean().sqrt())
        if not error <= TOLERANCE[mode]:
            return f"{when}{name} is off by {error:.1e} of its size"
    return None


class _Layer:
    """A ragged bidirectional layer with a state and cotangents, in the dtype of a mode."""

    def __init__(self, mode: str, where: torch.device, batch: int, hidden: int, seed: int):
        generator, dtype = torch.Generator("cpu").manual_seed(seed), precision.DTYPES[mode]

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float32).to(where, dtype)

        shapes = [(3 * hidden, CHANNELS), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)]
        self.weights = [hidden**-0.5 * random(*shape) for _ in range(2) for shape in shapes]
        self.x, self.h0 = random(batch, FRAMES, CHANNELS), random(2, batch, hidden)
        self.dy, self.dh_n = random(batch, FRAMES, 2 * hidden), random(2, batch, hidden)
        self.lengths = torch.tensor([*islice(cycle(LENGTHS), batch)], device="cpu").to(where)

    @torch.enable_grad()
    def expected(self, h0: Tensor | None) -> list[Tensor]:
        """y, h_n, dx, dh0 and the gradients of the weights in float64 on the CPU (without h0, y and h_n alone)."""
        exact: Callable[[Tensor], Tensor] = lambda tensor: tensor.detach().double().cpu().requires_grad_()  # noqa: E731
        x, weights = exact(self.x), [exact(weight) for weight in self.weights]
        pairs: list[Weights] = [tuple(weights[:4]), tuple(weights[4:])]  # type: ignore[list-item]
        if h0 is None:
            return [output.detach() for output in reference.gru_layer(x, self.lengths.cpu(), pairs)]
        state = exact(h0)
        outputs = reference.gru_layer(x, self.lengths.cpu(), pairs, state)
        cotangents = [self.dy.double().cpu(), self.dh_n.double().cpu()]
        gradients = torch.autograd.grad(outputs, [x, state, *weights], cotangents)
        return [*(output.detach() for output in outputs), *gradients]
