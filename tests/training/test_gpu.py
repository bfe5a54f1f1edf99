"""What only a CUDA device shows: the same losses as on the CPU, and a run that goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("tyro", reason="tyro is not installed: the commands need it")
pytest.importorskip("tensorboard", reason="TensorBoard is not installed: the commands need it")

import crrl
from crrl import evaluate, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("fused", [False, True])
def test_training_follows_the_cpus_losses(options: list[str], tmp_path: Path, fused: bool) -> None:
    options = [*options, "--dropout", "0", "--compile", "off", *(["--fused"] if fused else [])]
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


def test_features_are_fitted_where_the_encoder_was_trained(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    features = ["--features", "tuned"]
    assert train.main([*options, *features, "--device", "cuda", "--out", str(run)]) == 0
    nuisances = crrl.load(run).features.nuisances
    assert nuisances.isfinite().all()
    assert nuisances.any()
    for device in ("cuda", "cpu"):
        assert evaluate.main([str(run), "--device", device, "--protocol", "knn", "--features", "tuned"]) == 0
