"""`threads`: ten threads, and processes forked from among them, call the kernels at once: the same bits as alone."""

from __future__ import annotations

import random
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from crrl import ops
from crrl.nn import GRU
from crrl.ops import cpu
from tests.campaigns import guard

THREADS = 10
JOBS = 20

Job = Callable[[], list[Tensor]]


def gru(seed: int) -> list[Tensor]:
    """Forward and backward of two layers in both directions over clips of other lengths."""
    generator = torch.Generator().manual_seed(seed)
    layer = GRU(6 + seed % 5, 7 + seed % 9, num_layers=2, bidirectional=True, batch_first=True)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(5 + seed % 4, 11, 6 + seed % 5, generator=generator).requires_grad_()
    y, state = layer(x, lengths=torch.randint(1, 12, (len(x),), generator=generator))
    return [y.detach(), state.detach(), *torch.autograd.grad(y.square().sum() + state.sum(), [x, *layer.parameters()])]


def info_nce(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(17, 63, generator=generator).requires_grad_()
    k, queue = torch.randn(17, 63, generator=generator), torch.randn(1000 + seed, 63, generator=generator)
    loss = ops.info_nce(q, k, queue, 0.1)
    return [loss.detach(), *torch.autograd.grad(loss, q)]


def step(seed: int) -> list[Tensor]:
    """Adam's step with clipping and the momentum update, and a gathered batch."""
    generator = torch.Generator().manual_seed(seed)
    buffers = [torch.randn(9000 + seed, generator=generator) for _ in range(5)]
    buffers[3].square_()
    rates = torch.tensor([0.1, 0.9, 0.1, 0.01])
    ops.flat_step(
        *buffers, rates, nesterov=False, weight_decay=0.01, beta2=0.99, eps=1e-8, max_norm=1.0,
        boundary=100, momentum_head=0.9, momentum_tail=0.99,
    )  # fmt: skip
    frames, offsets = torch.randn(50, 9, generator=generator), torch.tensor([0, 7, 20, 50])
    batch = ops.ragged_gather(frames, offsets, torch.tensor([2, 0]), 30, True)
    return [*buffers, *(batch if isinstance(batch, tuple) else (batch,))]


def arguments(parser: ArgumentParser) -> None:
    pass


def main(options: Namespace) -> tuple[str, int]:
    """--count rounds of ten threads; half of them fork once."""
    if cpu.missing:
        return f"skipped: {cpu.missing}", 0
    torch.set_num_threads(2)
    counts: Counter[str] = Counter()
    with ops.use_backends("auto"):
        work: list[Job] = [lambda f=f, seed=seed: f(seed) for f in (gru, info_nce, step) for seed in range(JOBS)]
        alone = [job() for job in work]
        for number in range(options.count):
            together(work, alone, random.Random(f"{options.seed}/{number}"), counts)
    faults = counts["other"] + counts["failed"]
    said = f"{counts['calls']} calls in {THREADS} threads, {counts['other']} with other bits"
    return f"{said}, {counts['forks']} forks among them, {counts['failed']} failed", faults


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def together(work: list[Job], alone: list[list[Tensor]], rng: random.Random, counts: Counter[str]) -> None:
    lock = threading.Lock()

    def one(own: random.Random, forks: bool) -> None:
        places = own.sample(range(len(work)), 15)
        different, failed = 0, 0
        for place in places:
            with ops.use_backends("auto"):
                different += not same(work[place](), alone[place])
        if forks:
            failed = guard.wait(guard.start(lambda: forked(places), quiet=False)) != 0
        with lock:
            counts.update(calls=len(places), other=different, forks=forks, failed=failed)
            if different or failed:
                print(f"fault: {different} of {places}, fork {failed}", file=sys.stderr, flush=True)

    def forked(places: list[int]) -> int:
        torch.set_num_threads(1)  # threads do not outlive a fork
        with ops.use_backends("auto"):
            return 0 if all(same(work[place](), alone[place]) for place in places) else 1

    threads = [
        threading.Thread(target=one, args=(random.Random(rng.random()), number % 2 == 0)) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
