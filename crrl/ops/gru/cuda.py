"""The GRU layer on a GPU: matrix products by cuBLAS around the recurrence, which csrc/cuda/gru.hpp computes.

One launch serves both directions of one or two encoders, each direction a chain. Tensors may be on a CPU if
`cuda.native` is the emulation of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crrl.errors import CrrlError
from crrl.ops import cuda, precision
from crrl.ops.backends import Case
from crrl.ops.gru.call import output_shape, readable, sizes
from crrl.reference.gru import check_lengths

if TYPE_CHECKING:
    from crrl._cuda import BackwardChain, ForwardChain, GruPlan

Frames = tuple[int, int, int]
"""A tensor [B, T, C] or [T, B, C]: its address, and its strides in elements from row to row and frame to frame."""

NOTHING: Frames = (0, 0, 0)


def supports(case: Case) -> tuple[bool, str]:
    """Whether the extension has kernels for `case`, and why."""
    if case.device != "cuda" or case.dtype not in precision.MODES:
        return False, f"the CUDA GRU takes float32, bfloat16 and float16 on a GPU, not {case.dtype} on {case.device}"
    if reason := cuda.unusable():
        return False, reason
    mode, hidden = precision.mode(case.dtype), case.hidden or 1
    device = cuda.device_index(case.index)
    if reason := refusal(mode, hidden, device):
        return False, reason
    variant = _plan(cuda.native, mode, False, 2, (1, 1, hidden), device).variant
    return True, f"CUDA kernels (crrl._cuda, {mode}, {variant})"


def refusal(mode: str, hidden: int, device: int) -> str | None:
    """Why no kernel can take this hidden size; None: one can, for any batch, frames and chains."""
    for backward in (False, True):
        plan = _plan(cuda.native, mode, backward, 2, (1, 1, hidden), device)
        if not plan.variant:
            return f"the CUDA GRU cannot take hidden size {hidden} in {mode}: {plan.reason}"
    return None


def backward_blocks(mode: str, sizes: tuple[int, int, int], device: int) -> int:
    """Blocks that the backward pass of a bidirectional layer of (B, T, H) keeps on the GPU beside another's."""
    plan = _plan(cuda.native, mode, True, 4, sizes, device)
    return plan.teams * plan.blocks // 2


_calls = 1
"""That compute on the GPU at once."""


@contextmanager
def side_by_side(calls: int) -> Iterator[None]:
    """In the block, a call leaves room for so many at once, itself counted, each on a stream of its own: its teams take
    more rows. Results keep their bits."""
    global _calls
    before, _calls = _calls, calls
    try:
        yield
    finally:
        _calls = before


@lru_cache(maxsize=1024)
def _plan(native: Any, mode: str, backward: bool, chains: int, sizes: tuple[int, int, int], device: int) -> GruPlan:
    return native.gru_plan(mode, backward, chains, *sizes, device)  # type: ignore[no-any-return]


def reserve_size(directions: int, batch: int, steps: int, hidden: int) -> int:
    """Elements that a forward pass keeps for its backward: r, z, n, W_hn h + b_hn and the h before each frame."""
    return directions * batch * steps * 5 * hidden


def forward(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    frames: int,
    batch_first: bool,
    reverse: bool,
    keep: bool,
    mode: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and, with `keep`, the reserve that `backward` needs; arguments are those of crrl::gru_layer (layer.py).

    Lengths on a GPU are not checked. `mode`: one of the dtype's modes in precision.MODES, for the self-check; None: as
    torch's switches say.

    Raises:
        ValueError: a tensor does not have the shape, dtype or device required, or a length on the CPU is not in 1..T.
        CrrlError: no kernel can take these sizes, or an earlier call timed out.
    """
    call = _Forward(x, lengths, h0, weights, frames, batch_first, reverse, keep=keep)
    _launch_forward([call], mode)
    return call.y, call.h_n, call.reserve


def forward_pair(
    x: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    key_weights: Sequence[Tensor],
    batch_first: bool,
    reverse: bool,
    keep: bool,
    mode: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`forward` of x with `weights`, and of v with `key_weights` but without `keep`, in one launch.

    Returns y, h_n, reserve of x, then y, h_n of v. Both layers have the same D, B, T and H.

    Raises:
        ValueError, CrrlError: as forward does; ValueError also if the layers differ in a size, dtype or device.
    """
    frames = x.shape[1 if batch_first else 0]
    query = _Forward(x, lengths, None, weights, frames, batch_first, reverse, keep=keep)
    key = _Forward(v, query.lengths, None, key_weights, frames, batch_first, reverse, keep=False)
    made, other = ((f"{list(of.y.shape)} of {of.y.dtype} on {of.y.device}", of.h_n.shape) for of in (query, key))
    if made != other:
        raise ValueError(f"two layers that give {made[0]} and {other[0]} do not make a pair")
    _launch_forward([query, key], mode)
    return query.y, query.h_n, query.reserve, key.y, key.h_n


def backward(
    dy: Tensor,
    dh_n: Tensor,
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    reserve: Tensor,
    frames: int,
    batch_first: bool,
    reverse: bool,
    needs_dx: bool,
    mode: str | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """dx (empty unless needed), dh0 and the gradients of `weights`, from a forward pass that kept its `reserve`."""
    call = _Call(x, lengths, h0, weights, frames, batch_first, reverse)
    mode = _mode(mode, x)
    dy, dh_n = readable(dy), dh_n.contiguous()
    call.check(dy, output_shape(x, weights, frames, batch_first))
    call.check(dh_n, (call.directions, call.batch, call.hidden))
    call.check(reserve, (reserve_size(call.directions, call.batch, frames, call.hidden),))
    kept, dgates, dh0 = reserve.view(call.shape(5)), x.new_empty(call.shape(4)), torch.empty_like(dh_n)
    chains: list[BackwardChain] = [
        (
            w_hh.data_ptr(), _address(call.lengths), call.frames(kept[d]), call.frames(call.units(dy, d)),
            dh_n[d].data_ptr(), call.frames(dgates[d]), dh0[d].data_ptr(), reverse and d == 1,
        )
        for d, (_, w_hh, *_) in enumerate(call.layers())
    ]  # fmt: skip
    _launch(cuda.native.gru_backward, True, mode, call, chains)
    with precision.products(mode):
        dx = call.input_gradient(dgates) if needs_dx else x.new_empty(0)
        return dx, dh0, call.weight_gradients(dgates, kept)


class _Call:
    """A call as the kernels take it: the arguments of crrl::gru_layer, checked and contiguous.

    Keeps the tensors alive, because the kernels see only addresses.

    Attributes:
        repeated: x has one frame, which stands for all frames.

    Raises:
        ValueError: a tensor does not have the shape, dtype or device required, or a length on the CPU is not in 1..T.
    """

    def __init__(
        self,
        x: Tensor,
        lengths: Tensor | None,
        h0: Tensor | None,
        weights: Sequence[Tensor],
        frames: int,
        batch_first: bool,
        reverse: bool,
    ):
        self.directions, self.batch, self.hidden = sizes(x, weights, batch_first)
        self.x, self.batch_first, self.steps, self.reverse = x.contiguous(), batch_first, frames, reverse
        given = x.shape[1 if batch_first else 0]
        if given not in (1, frames):
            raise ValueError(f"x must have {frames} frames, or one that is repeated, not {given}")
        self.repeated = given < frames
        gates, per_direction = 3 * self.hidden, len(weights) // self.directions
        shapes = [(gates, x.shape[2]), (gates, self.hidden), (gates,), (gates,)][:per_direction] * self.directions
        for tensor, shape in zip(weights, shapes, strict=True):
            self.check(tensor, shape)
        if h0 is not None:
            self.check(h0, (self.directions, self.batch, self.hidden))
        self.weights = [tensor.contiguous() for tensor in weights]
        self.h0 = None if h0 is None else h0.contiguous()
        self.lengths = None if lengths is None else self._checked_lengths(lengths)
        self.rows = self.x.view(-1, x.shape[2])

    def _checked_lengths(self, lengths: Tensor) -> Tensor:
        if lengths.shape != (self.batch,) or lengths.dtype != torch.int64:
            raise ValueError(f"lengths must be int64 [{self.batch}], not {lengths.dtype} {list(lengths.shape)}")
        if lengths.device.type == "cpu":
            check_lengths(lengths, self.steps)
        return lengths.to(self.x.device, non_blocking=True).contiguous()

    def check(self, tensor: Tensor, shape: tuple[Any, ...]) -> None:
        """Raise ValueError unless `tensor` has the shape, dtype and device that a kernel expects behind its pointer."""
        x = self.x
        if tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"the CUDA GRU needs {x.dtype} of shape {list(shape)} on {x.device} here, "
                f"not {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}"
            )

    def frames(self, tensor: Tensor) -> Frames:
        """The address and strides of [B, T, C] or [T, B, C]; the stride of frames is 0 if there is only one."""
        row, frame = (0, 1) if self.batch_first else (1, 0)
        return tensor.data_ptr(), tensor.stride(row), tensor.stride(frame) if tensor.shape[frame] > 1 else 0

    def shape(self, columns: int) -> tuple[int, ...]:
        """[D, B, T, columns · H] in the memory order of x."""
        order = (self.batch, self.steps) if self.batch_first else (self.steps, self.batch)
        return (self.directions, *order, columns * self.hidden)

    def layers(self) -> list[list[Tensor]]:
        """w_ih, w_hh and, if there are biases, b_ih, b_hh of each direction."""
        step = len(self.weights) // self.directions
        return [self.weights[i : i + step] for i in range(0, len(self.weights), step)]

    def units(self, tensor: Tensor, direction: int) -> Tensor:
        """The units of one direction in a tensor of the shape of y."""
        return tensor.narrow(2, direction * self.hidden, self.hidden)

    def input_gradient(self, dgates: Tensor) -> Tensor:
        """dx, of the shape of x, from dgates [D, B, T, 4H]."""
        dx = torch.empty_like(self.x)
        for d, (w_ih, *_) in enumerate(self.layers()):
            rows, into = self._of_input(dgates[d]), dx.view(self.rows.shape)
            if d:
                into.addmm_(rows, w_ih)
            else:
                torch.mm(rows, w_ih, out=into)
        return dx

    def weight_gradients(self, dgates: Tensor, kept: Tensor) -> list[Tensor]:
        """The gradients of `weights` from dgates [D, B, T, 4H] and the reserve [D, B, T, 5H]."""
        gradients = [torch.empty_like(weight) for weight in self.weights]
        step, size, x = len(gradients) // self.directions, self.hidden, self._valid_rows()
        sums = dgates.flatten(1, 2).sum(1, dtype=dgates.dtype) if step == 4 else None  # autocast would sum in float32
        for d in range(self.directions):
            dw_ih, dw_hh, *biases = gradients[d * step : (d + 1) * step]
            rows, h_before = dgates[d].view(-1, 4 * size), kept[d].view(-1, 5 * size)[:, 4 * size :]
            torch.mm(self._of_input(dgates[d]).t(), x, out=dw_ih)
            torch.mm(rows[:, : 2 * size].t(), h_before, out=dw_hh[: 2 * size])
            torch.mm(rows[:, 3 * size :].t(), h_before, out=dw_hh[2 * size :])
            if sums is not None:
                biases[0].copy_(sums[d, : 3 * size])
                torch.cat([sums[d, : 2 * size], sums[d, 3 * size :]], out=biases[1])
        return gradients

    def _of_input(self, dgates: Tensor) -> Tensor:
        """The gradient of W_ih x for each frame, or summed over the frames if they share one input."""
        if self.repeated:
            dgates = dgates.sum(1 if self.batch_first else 0, dtype=dgates.dtype)
        return dgates.view(-1, 4 * self.hidden)[:, : 3 * self.hidden]

    def _valid_rows(self) -> Tensor:
        """x [B · T, I] with zeros at padded frames: those may hold NaN, and 0 times NaN is NaN."""
        if self.lengths is None or self.repeated:
            return self.rows
        frame = torch.arange(self.steps, device=self.x.device)
        valid = frame < self.lengths[:, None] if self.batch_first else frame[:, None] < self.lengths
        return torch.where(valid[:, :, None], self.x, 0).view(self.rows.shape)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class _Forward(_Call):
    """A forward call with its results and the chains that it adds to a launch."""

    def __init__(self, *arguments: Any, keep: bool):
        super().__init__(*arguments)
        x, steps = self.x, self.steps
        self.keep = keep
        self.y = x.new_empty(output_shape(x, self.weights, steps, self.batch_first))
        self.h_n = x.new_empty(self.directions, self.batch, self.hidden)
        self.reserve = x.new_empty(reserve_size(self.directions, self.batch, steps, self.hidden) if keep else 0)

    def project(self) -> Tensor:
        """W_ih x + b_ih of every direction, [D, B, T, 3H] in the memory order of x; T is 1 if x is repeated."""
        gates = self.x.new_empty(self.directions, *self.x.shape[:2], 3 * self.hidden)
        for into, (w_ih, _, *biases) in zip(gates.flatten(1, 2), self.layers(), strict=True):
            if biases:
                torch.addmm(biases[0], self.rows, w_ih.t(), out=into)
            else:
                torch.mm(self.rows, w_ih.t(), out=into)
        return gates

    def chains(self, gates: Tensor) -> list[ForwardChain]:
        """The arguments of the kernels for each direction."""
        kept = self.reserve.view(self.shape(5)) if self.keep else None
        return [
            (
                self.frames(gates[d]), w_hh.data_ptr(), biases[1].data_ptr() if biases else 0,
                0 if self.h0 is None else self.h0[d].data_ptr(), _address(self.lengths),
                self.frames(self.units(self.y, d)), self.h_n[d].data_ptr(),
                NOTHING if kept is None else self.frames(kept[d]), self.reverse and d == 1,
            )
            for d, (_, w_hh, *biases) in enumerate(self.layers())
        ]  # fmt: skip


def _launch_forward(calls: list[_Forward], mode: str | None) -> None:
    mode = _mode(mode, calls[0].x)
    with precision.products(mode):
        gates = [call.project() for call in calls]  # kept until the launch: a chain has only addresses
    chains = [chain for call, gate in zip(calls, gates, strict=True) for chain in call.chains(gate)]
    _launch(cuda.native.gru_forward, False, mode, calls[0], chains)


def _mode(asked: str | None, x: Tensor) -> str:
    """The mode of a call, after a check that no earlier call timed out; a caller that asks for a mode checks itself."""
    if asked is not None:
        return asked
    cuda.raise_if_timed_out()
    return precision.mode(x.dtype)


def _launch(function: Any, backward: bool, mode: str, call: _Call, chains: list[Any]) -> None:
    device, stream = cuda.place(call.x)
    sizes = call.batch, call.steps, call.hidden
    plan = _plan(cuda.native, mode, backward, len(chains) * _calls, sizes, device)
    if not plan.variant:
        raise CrrlError(f"{refusal(mode, call.hidden, device)}; CRRL_BACKEND=gru_layer=torch leaves it to torch")
    workspace, status = call.x.new_empty(plan.workspace, dtype=torch.uint8), cuda.status(device)
    patience = cuda.patience_ns()
    function(mode, sizes, chains, plan, workspace.data_ptr(), status.data_ptr(), patience, device, stream)
