"""The processes that train together, one a card: torchrun starts them, torch.distributed connects them."""

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
        """Clips that the rank computes: at least one, as every rank takes part in what all do together."""
        return max(self.counts[self.rank], 1)

    @property
    def weight(self) -> float:
        """How much of the batch's mean is this rank's mean."""
        return self.counts[self.rank] / sum(self.counts)

    def of(self, batch: Tensor) -> Tensor:
        """The rank's clips of `batch`, in order; where it has none of its own, the first, which then counts nothing."""
        start = sum(self.counts[: self.rank])
        return batch[start : start + self.clips] if self.counts[self.rank] else batch[:1]


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default.

    Attributes:
        rank: from 0, whose process writes all files and prints. size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def draw_anew(self, seed: int, step: int) -> None:
        """Have each of several ranks draw numbers of its own and of this step: resumed, it draws what it would have.

        A process alone goes on with its random state, which the checkpoint keeps.
        """
        if self.size > 1:
            torch.manual_seed((seed + 1_000_003 * self.rank + 998_244_353 * step) % 2**63)

    def share(self, clips: int) -> Share:
        """The parts of a batch of `clips` clips: all but equal, in the order of the ranks."""
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
        """The rows [n_r, D] of all ranks, in their order, without those that count nothing: [sum of counts, D].

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
        """Rank 0 runs the block, and then the others: what it has put into a cache they find there."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any rank says so; all get the same answer.

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
    """The ranks that torchrun started together (NCCL on GPUs, gloo on CPUs); without torchrun this process alone.

    Raises:
        CrrlError: the others cannot be reached, or WORLD_SIZE is no number.
    """
    if environment_number("WORLD_SIZE", 1) == 1:
        yield Ranks()
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise CrrlError(f"the other ranks cannot be reached ({error}): start with torchrun") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
