"""The self-check of the CUDA GRU, which its kernels must pass before `crrl.ops.trust` lets them serve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from crrl.ops import cuda, precision, trust
from crrl.ops.backends import Case
from crrl.ops.gru import cuda as cuda_gru
from crrl.reference import gru as reference
from crrl.reference.gru import Weights

TOLERANCE = {"fp32": 2e-5, "tf32": 1.5e-2, "fp16": 1.5e-2, "bf16": 0.12}
"""The largest error that a result may have, in root mean squares: tens of roundings; a mistake gives about 1."""

LENGTHS = (6, 1, 4, 6, 3, 5, 2, 6, 1, 6, 6, 5, 4, 3, 2, 1, 6, 5, 6)
"""The lengths of ragged rows, repeated."""

FRAMES, CHANNELS = 6, 7

SHAPES = (
    *((5, 1), (5, 7), (19, 16), (19, 32)),
    *((19, 97), (19, 256), (70, 256), (150, 256), (19, 544), (70, 544), (19, 1000)),
)
"""Rows and hidden sizes: teams that are all padding but for one block or part of one; a half-empty block; the paper's
encoder with few, more and many rows, of which a team takes 8, 16 and 32 at once on a large GPU; sizes too large for a
cluster.
"""


def supports(case: Case) -> tuple[bool, str]:
    """Whether the CUDA GRU can serve `case` and has passed its check in that mode on that card, and the reason."""
    able, reason = cuda_gru.supports(case)
    if not able:
        return able, reason
    passed, why_not = trust.verdict("gru_layer", precision.mode(case.dtype), cuda.device_index(case.index))
    return passed, reason if passed else why_not


def fault(mode: str, device: torch.device) -> str | None:
    """What is wrong with the kernels of `mode` in any of SHAPES that the card has a plan for; None: nothing."""
    index = device.index or 0
    cuda.raise_if_timed_out()  # a timeout found below is then this check's
    shapes = [shape for shape in SHAPES if cuda_gru.refusal(mode, shape[1], index) is None]
    if not shapes:
        return cuda_gru.refusal(mode, SHAPES[0][1], index)
    faults = (_fault(mode, device, *shape) for shape in shapes)
    try:
        found = next((fault for fault in faults if fault), None)
    finally:
        lost = cuda.timed_out(index)
    return f"a block waited {cuda.patience_ns() / 1e9:g} s for its team" if lost else found


def _fault(mode: str, where: torch.device, batch: int, hidden: int) -> str | None:
    """What is wrong in one shape, in training, in inference, and with two encoders in one launch; None: nothing."""
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
    return (
        _differs(mode, "", [y, h_n, dx, dh0, *gradients], truth)
        or _differs(mode, "without a gradient ", alone, truth)
        or _differs(mode, "beside another encoder ", pair[:2], of_pair)
        or _differs(mode, "as the other encoder ", pair[3:], of_key)
    )


NAMES = ("y", "h_n", "dx", "dh0", *("dw_ih", "dw_hh", "db_ih", "db_hh") * 2)


def _differs(mode: str, when: str, made: Any, truth: list[Tensor]) -> str | None:
    faults = (
        trust.differs(when + name, got, want, TOLERANCE[mode])
        for name, got, want in zip(NAMES, made, truth, strict=False)
    )
    return next((fault for fault in faults if fault), None)


class _Layer:
    """A ragged bidirectional layer with an initial state and cotangents, in the dtype of a mode."""

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
        """y, h_n, dx, dh0 and the gradients of the weights in float64 on the CPU; only y and h_n without h0."""
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


def _obstacle(mode: str, device: int) -> str | None:
    """Why the check cannot run; None: it can. If any layer has a plan, the smallest has one."""
    return cuda.unusable() or cuda_gru.refusal(mode, 1, device)


def _build() -> str:
    return f"{trust.file_hash(cuda.native.__file__ or '')}, ABI {cuda.ABI}"


for _mode, _dtype in precision.DTYPES.items():
    trust.register(
        trust.Check(
            operator="gru_layer",
            mode=_mode,
            subject="the CUDA GRU",
            instead="torch",
            dtype=_dtype,
            build=_build,
            fault=partial(fault, _mode),
            obstacle=partial(_obstacle, _mode),
            prepare=cuda.status,
            notice=cuda.from_ptx,
        )
    )
