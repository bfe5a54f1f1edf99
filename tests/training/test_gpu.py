"""What only a CUDA device shows: the same losses as on the CPU, and a run that goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crrl import evaluate, ops, train
from crrl.nn import GRU

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("policy", ["reference", "gru_layer=torch"])
def test_the_gru_is_the_cpus_value_and_gradient(policy: str) -> None:
    torch.manual_seed(0)
    gru = GRU(6, 32, num_layers=2, bidirectional=True, batch_first=True).double()
    x, lengths = torch.randn(4, 9, 6, dtype=torch.float64), torch.tensor([4, 9, 1, 6])
    results = []
    for device in ("cpu", "cuda"):
        gru.to(device)
        with ops.use_backends(policy):
            y, h_n = gru(x.to(device), lengths=lengths.to(device))
        gradients = torch.autograd.grad(y.square().sum() + h_n.sum(), list(gru.parameters()))
        results.append([tensor.cpu() for tensor in (y, h_n, *gradients)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("fused", [False, True])
def test_training_follows_the_cpus_losses(options: list[str], tmp_path: Path, fused: bool) -> None:
    options = [*options, "--dropout", "0", *(["--fused"] if fused else [])]
    losses = []
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        assert train.main([*options, "--device", device, "--out", str(run)]) == 0
        losses.append([json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()])
        assert evaluate.main([str(run), "--device", device]) == 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_run_begun_on_the_gpu_is_evaluated_and_finished_on_the_cpu(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main([*options, "--device", "cuda", "--out", str(run)])
    (run / "encoder.safetensors").unlink()
    assert train.main(["--resume", str(run), "--device", "cpu"]) == 0
    assert evaluate.main([str(run), "--device", "cpu"]) == 0
