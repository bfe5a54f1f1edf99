"""One training step, from clip numbers to new weights; on a GPU captured and replayed as one CUDA graph."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import torch
from torch import Tensor

from crrl.data import ClipTensors
from crrl.errors import CrrlError
from crrl.optim import FlatOptimizer
from crrl.training.phases import Phase
from crrl.training.ranks import Ranks, Share

WARM_UP = 3
"""Full batches that run eagerly before one is captured: by then kernels are compiled and checked, libraries set up."""


class Step:
    """One step of a phase. Everything that changes from step to step is in tensors that stay in place.

    So a step does not wait for the device, and a CUDA graph of it can be replayed: it finds its clips and learning
    rate by `number` and `position`, which it advances itself.

    Args:
        phase: what is trained. optimizer: of its parameters, with a spare place for each of the phase's losses.
        tensors: the clips. rates: float32 [steps, 4], what the optimizer reads at each step, on the clips' device.
        ranks: the processes that train together. capture: replay full batches as one CUDA graph; if the capture fails,
            a warning says so once and they run eagerly.
        bf16: multiply matrices in bfloat16 (torch.autocast).

    Attributes:
        number: int64 [1], steps taken. position: int64 [1], clips taken from `order`.
        order: int64 [clips of the epoch], the clips of this rank. sums: float64 [losses], sums over the clips so far.
        loss: float32 scalar, the last batch's.
    """

    def __init__(
        self,
        phase: Phase,
        optimizer: FlatOptimizer,
        tensors: ClipTensors,
        rates: Tensor,
        ranks: Ranks,
        capture: bool = False,
        bf16: bool = False,
    ):
        self.phase, self.optimizer, self.tensors, self.rates, self.ranks = phase, optimizer, tensors, rates, ranks
        device = rates.device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.order = torch.zeros(0, dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(phase.losses), dtype=torch.float64, device=device)
        self.loss = torch.zeros((), device=device)
        self._capture, self._bf16 = capture, bf16
        self._full = 0  # full batches run eagerly so far
        self._graph: torch.cuda.CUDAGraph | None = None
        self._aside: torch.cuda.Stream | None = None  # the stream of steps before the capture

    def begin_epoch(self, order: Tensor, position: int) -> None:
        """Start an epoch over the clips `order`, from `position` on."""
        if self.order.shape == order.shape:
            self.order.copy_(order)  # in place: a graph reads it there
        else:
            self.order, self._graph = order.clone(), None
        self.position.fill_(position)

    def __call__(self, share: Share, full: bool) -> None:
        """One step. share: this rank's part of the batch; full: the batch has the usual size, the same on all ranks.

        Raises:
            LostRank: another rank does not answer; the weights are those of the step before.
        """
        if not (self._capture and full):
            self._run(share)
        elif self._graph is not None:
            self._graph.replay()
        elif self._full < WARM_UP:
            self._full += 1
            self._run_aside(share)
        elif self._captured(share):
            self._graph.replay()  # type: ignore[attr-defined]
        else:
            self._run(share)

    def _captured(self, share: Share) -> bool:
        """Capture a step without running it; if that fails, warn, and capture none from here on."""
        graph, random = torch.cuda.CUDAGraph(), torch.cuda.default_generators[self.rates.device.index or 0]
        before = random.clone_state()
        try:
            # A failed capture leaves its stream the current one, so the outer block restores it. thread_local: other
            # threads, such as NCCL's watchdog, may still query the device.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._run(share)
        except CrrlError:
            raise
        except Exception as error:
            random.graphsafe_set_state(before.graphsafe_get_state())  # otherwise it waits for the capture to end
            self._capture = False
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            warnings.warn(f"the step cannot be captured as a CUDA graph, it runs eagerly: {reason}", RuntimeWarning, 2)
            return False
        self._graph = graph
        return True

    def _run_aside(self, share: Share) -> None:
        """Run on a separate stream, as CUDA graphs require of steps before a capture."""
        if self._aside is None:
            self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream = self._aside
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run(share)
        torch.cuda.current_stream().wait_stream(stream)

    def _run(self, share: Share) -> None:
        optimizer, device = self.optimizer, self.rates.device
        index = self.order[self.position + torch.arange(share.clips, device=device)]
        batch = self.tensors.batch(index, self.phase.with_velocity)
        with torch.autocast(device.type, torch.bfloat16) if self._bf16 else nullcontext():
            loss, parts = self.phase.loss(batch, share)
        weight = None if self.ranks.size == 1 else loss.new_full((), share.weight)
        optimizer.collect(torch.autograd.grad(loss, optimizer.parameters, weight))
        losses = torch.stack([loss.detach(), *parts.values()])
        optimizer.spare.copy_(losses * share.weight)
        self.ranks.sum_(optimizer.message)
        optimizer.apply(self.rates[self.number][0])
        self.phase.after_step()
        self.loss.copy_(optimizer.spare[0])
        self.sums.add_(optimizer.spare.double(), alpha=sum(share.counts))
        self.number.add_(1)
        self.position.add_(share.clips)
