"""The processes that train together, one for each GPU: torchrun starts them, torch.distributed connects them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from crrl.errors import CrrlError, environment_number


class LostRank(CrrlError):
    """Another rank is gone, or cannot be reached: a collective operation failed."""


@dataclass(frozen=True)
class Share:
    """A rank's part of a batch.

    Attributes:
        counts: clips of each rank. rank: whose part this is.
    """

    counts: tuple[int, ...]
    rank: int

    @property
    def clips(self) -> int:
        """Clips that the rank computes: at least one, because every rank takes part in collective operations."""
        return max(self.counts[self.rank], 1)

    @property
    def weight(self) -> float:
        """The weight of this rank's mean in the batch's mean."""
        return self.counts[self.rank] / sum(self.counts)

    def of(self, batch: Tensor) -> Tensor:
        """The rank's clips of `batch`, in order; if it has none, the first clip of the batch, with weight 0."""
        start = sum(self.counts[: self.rank])
        return batch[start : start + self.clips] if self.counts[self.rank] else batch[:1]


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default.

    Attributes:
        rank: from 0; rank 0 writes all files and prints. size: the number of ranks.
    """

    rank: int = 0
    size: int = 1

    def draw_anew(self, seed: int, step: int) -> None:
        """With several ranks, seed random numbers by rank and step: a resumed run draws the same numbers.

        A single process goes on with its random state, which the checkpoint keeps.
        """
        if self.size > 1:
            torch.manual_seed((seed + 1_000_003 * self.rank + 998_244_353 * step) % 2**63)

    def share(self, clips: int) -> Share:
        """The parts of a batch of `clips` clips, in the order of the ranks; their sizes differ by at most one."""
        return Share(tuple(clips // self.size + (rank < clips % self.size) for rank in range(self.size)), self.rank)

    def sum_(self, tensor: Tensor) -> None:
        """Make `tensor` the sum over all ranks, in place.

        Raises:
            LostRank: another rank does not answer.
        """
        if self.size > 1:
            with _explained():
                dist.all_reduce(tensor)

    def gather(self, rows: Tensor, share: Share) -> Tensor:
        """The rows [n_r, D] of all ranks, in the order of the ranks, without rows of weight 0: [sum of counts, D].

        Raises:
            LostRank: another rank does not answer.
        """
        if self.size == 1:
            return rows
        most = max(share.counts)
        padded = rows.new_zeros(most, rows.shape[1])
        padded[: len(rows)] = rows[:most]
        everyone = [torch.empty_like(padded) for _ in share.counts]
        with _explained():
            dist.all_gather(everyone, padded)
        return torch.cat([part[:count] for part, count in zip(everyone, share.counts, strict=True)])

    def wait(self) -> None:
        """Wait until all ranks are here.

        Raises:
            LostRank: another rank does not answer.
        """
        if self.size > 1:
            with _explained():
                dist.barrier()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 runs the block before the others, so that they find what it has put into a cache."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is True on any rank; all ranks get the same answer.

        Raises:
            LostRank: another rank does not answer.
        """
        said = torch.tensor(float(flag), device=device)
        self.sum_(said)
        return bool(said > 0)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRank(f"another rank is lost ({str(error).splitlines()[0]})") from error


@contextmanager
def connect(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun started together (NCCL on GPUs, gloo on CPUs); without torchrun, this process alone.

    Ranks that are connected already stay so: torch.distributed connects the same processes once.

    Raises:
        CrrlError: the others cannot be reached, or WORLD_SIZE is not a number.
    """
    if environment_number("WORLD_SIZE", 1) == 1:
        yield Ranks()
        return
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise CrrlError(f"the other ranks cannot be reached ({error}): start with torchrun") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
