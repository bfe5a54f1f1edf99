"""The contrastive half: InfoNCE over a queue of keys (Eq. 6), the momentum update (Eq. 5) and the queue itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Eq. 6, the mean over the batch; the positive is the 0th of K + 1 logits (Algorithm 1, lines 10-13).

    Args:
        q: [B, D] queries, L2-normalised here; the only argument that gets a gradient.
        k: [B, D] keys, L2-normalised. queue: [K, D] earlier keys, L2-normalised.
        temperature: τ.

    Returns:
        A scalar.
    """
    q = F.normalize(q, dim=1)
    k, queue = k.detach().to(q.dtype), queue.detach().to(q.dtype)
    positive = (q * k).sum(1, keepdim=True)
    logits = torch.cat([positive, q @ queue.t()], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@torch.no_grad()
def enqueue(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Replace the oldest keys of `queue` ([K, D], a ring whose oldest entry is at `pointer`, int64 scalar) in place.

    Wraps around if K is not a multiple of B; of more than K keys, the last K stay.
    """
    size = len(queue)
    slots = (pointer + torch.arange(len(keys), device=queue.device)) % size
    queue[slots[-size:]] = keys[-size:].to(queue.dtype)
    pointer.copy_((pointer + len(keys)) % size)


def info_nce_enqueue(q: Tensor, k: Tensor, queue: Tensor, pointer: Tensor, temperature: float) -> Tensor:
    """`info_nce`, then `enqueue` of `k`, so that a loss never sees its own keys.

    The gradient stays right although the queue changes: it is computed from the queue that the loss saw.
    """
    loss = info_nce(q, k, queue.clone(), temperature)
    enqueue(queue, pointer, k)
    return loss


@torch.no_grad()
def ema_update(keys: Tensor, queries: Tensor, boundary: int, momentum_head: float, momentum_tail: float) -> None:
    """Eq. 5, θ_k ← m·θ_k + (1 − m)·θ_q, in place on flat buffers [N], rounded in that order.

    Elements before `boundary` (the encoder's) follow with momentum_head, the others (the MLP's) with momentum_tail. At
    momentum 1 no bit of a key changes, whatever the query is.
    """
    for part, momentum in ((slice(boundary), momentum_head), (slice(boundary, None), momentum_tail)):
        if momentum != 1:
            keys[part].mul_(momentum).add_(queries[part], alpha=1 - momentum)
