"""The momentum update (Eq. 5) on flat buffers against the reference."""

from __future__ import annotations

import pytest
import torch

from crrl.reference import contrast

pytest.importorskip("triton", reason="Triton is not installed")

from crrl.kernels.ema import ema_update


@pytest.mark.parametrize(("size", "boundary"), [(1, 0), (1, 1), (63, 20), (1024, 1024), (2500, 1025), (5000, 0)])
def test_is_that_of_the_reference(device: torch.device, size: int, boundary: int) -> None:
    torch.manual_seed(size)
    keys, queries = torch.randn(2, size, device=device)
    want = keys.clone()
    contrast.ema_update(want, queries, boundary, 0.999, 0.9)
    before = queries.clone()
    ema_update(keys, queries, boundary, 0.999, 0.9)
    # One rounding: the compiler may or may not fuse the product into the sum.
    torch.testing.assert_close(keys, want, rtol=2**-22, atol=1e-7)
    assert torch.equal(queries, before)


def test_writes_its_own_elements_alone(device: torch.device) -> None:
    memory = torch.ones(40, device=device)
    ema_update(memory[3:33], torch.zeros(30, device=device), 10, 0.5, 0.25)
    want = torch.cat([torch.ones(3), torch.full((10,), 0.5), torch.full((20,), 0.25), torch.ones(7)])
    assert torch.equal(memory.cpu(), want)


def test_wrong_buffers_are_refused(device: torch.device) -> None:
    keys = torch.zeros(6, device=device)
    for queries in (keys[:5], keys.double(), torch.zeros(12, device=device)[::2], keys.reshape(2, 3)):
        with pytest.raises(ValueError, match=r"queries: expected contiguous float32 \[6\]"):
            ema_update(keys, queries, 0, 0.9, 0.9)
