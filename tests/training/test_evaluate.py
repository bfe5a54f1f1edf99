"""The command crrl.evaluate and its protocols: against known features, and on a trained run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import crrl
from crrl.data import ClipTensors, prepare
from crrl.errors import CrrlError
from crrl.evaluation import Features, linear_probe, nearest_neighbour
from crrl.features import encode
from crrl.runs import RunFolder

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import evaluate, evaluation, train


def clusters(clips: int, seed: int, spread: float = 0.05) -> Features:
    """Features around three directions, labelled by direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(clips) % 3
    return Features(torch.eye(3, 8)[labels] + spread * torch.randn(clips, 8, generator=generator), labels)


def test_the_linear_probe_separates_clusters_and_reports_every_epoch() -> None:
    history = linear_probe(clusters(60, 0), {"all": clusters(30, 1)}, classes=3)
    assert len(history["all"]) == evaluation.EPOCHS
    assert history["all"][-1] == 100


def test_the_linear_probe_on_labels_that_mean_nothing_is_chance() -> None:
    test = clusters(300, 1)
    shuffled = Features(test.features, test.labels[torch.randperm(300, generator=torch.Generator().manual_seed(2))])
    assert linear_probe(clusters(60, 0), {"all": shuffled}, classes=3)["all"][-1] == pytest.approx(33.3, abs=10)


def test_the_linear_probe_is_deterministic_by_seed() -> None:
    train_set, test = clusters(30, 0, spread=1.0), {"all": clusters(60, 1, spread=1.0)}
    assert linear_probe(train_set, test, 3, seed=1) == linear_probe(train_set, test, 3, seed=1)


def test_the_nearest_neighbour_is_by_cosine_not_distance() -> None:
    known = Features(torch.tensor([[10.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 1]))
    test = Features(torch.tensor([[0.1, 0.0], [0.0, 9.0], [0.0, -1.0]]), torch.tensor([0, 1, 1]))
    assert nearest_neighbour(known, {"all": test})["all"] == pytest.approx(200 / 3)


@pytest.fixture(scope="module")
def run(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    options = ["--batch-size", "8", "--hidden-size", "8", "--epochs-cml", "1", "--epochs-ser", "1"]
    train.main(["--dataset", "folder", "--data", str(clip_folder), *options, "--out", str(path)])
    return path


@pytest.mark.parametrize(("protocol", "rows"), [("linear", ["last epoch", "best epoch on test"]), ("knn", ["1-NN"])])
def test_it_prints_and_keeps_the_encoder_beside_a_random_one(
    run: Path, protocol: str, rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run), "--protocol", protocol]) == 0
    printed = capsys.readouterr().out
    kept = json.loads((run / f"evaluation-{protocol}.json").read_text())
    assert list(kept["accuracy_percent"]) == [f"{who}, {row}" for who in ("crrl", "random encoder") for row in rows]
    for name, values in kept["accuracy_percent"].items():
        line = next(line for line in printed.splitlines() if name in line)
        assert float(line.split()[-1]) == pytest.approx(values["all"], abs=0.05)
    assert kept["test_clips"] == {"all": 10}


def tensors_of(run: Path) -> ClipTensors:
    config = RunFolder(run).config()
    prepared = prepare(config.dataset, config.data, config.split_name, config.preprocessing)
    return ClipTensors(prepared.clips, torch.device("cpu"))


def test_features_do_not_depend_on_the_batch_or_the_order(run: Path) -> None:
    features = crrl.load(run).features
    tensors = tensors_of(run)
    index = torch.tensor([7, 3, 3, 41, 0])
    together = encode(features, tensors, index)
    alone = torch.cat([encode(features, tensors, index[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(together[1], together[2])


def test_embedding_raw_clips_gives_the_features_that_were_scored(run: Path, clip_folder: Path) -> None:
    tensors = tensors_of(run)
    model = crrl.load(run)
    raw = [np.load(clip_folder / f"{i:02}.npy") for i in range(6)]
    expected = encode(model.features, tensors, torch.arange(6)).numpy()
    np.testing.assert_allclose(model.embed(raw), expected, atol=1e-5)


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(CrrlError, match="--resume"):
        evaluate.main([str(tmp_path)])


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match="no run"):
        evaluate.main([str(tmp_path)])


def test_a_truncated_encoder(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.json", tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes((run / "encoder.safetensors").read_bytes()[:-100])
    with pytest.raises(CrrlError, match=r"encoder\.safetensors is damaged"):
        evaluate.main([str(tmp_path)])


def test_data_that_changed_since_training(run: Path, clip_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(clip_folder, data)
    evaluate.main([str(run), "--data", str(data)])
    labels = (data / "labels.csv").read_text().replace("01.npy,left", "01.npy,right")
    (data / "labels.csv").write_text(labels)
    with pytest.raises(CrrlError, match="no longer the one"):
        evaluate.main([str(run), "--data", str(data)])


def test_the_encoder_file_holds_plain_tensors(run: Path) -> None:
    assert all(tensor.isfinite().all() for tensor in load_file(run / "encoder.safetensors").values())


def test_nw_ucla_from_files_to_both_accuracies(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--hidden-size", "8", "--epochs-cml", "1", "--epochs-ser", "1", "--fused"]
    train.main(["--dataset", "nw-ucla", "--data", str(real_data), "--recipe", "tuned", *options, "--out", str(run)])
    capsys.readouterr()
    evaluate.main([str(run), "--protocol", "knn"])
    title, trained, random, _ = capsys.readouterr().out.splitlines()
    assert "all (464)   clean (369)" in title
    assert all(float(value) > 20 for row in (trained, random) for value in row.split()[-2:])  # chance is 10


@pytest.mark.parametrize("method", ["crrl", "cml", "ser"])
def test_the_embedded_data_set_trains_by_every_method(tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    options = ["--method", method, "--hidden-size", "4", "--epochs-cml", "1", "--epochs-ser", "1", "--fused"]
    assert train.main(["--recipe", "tuned", *options, "--out", str(run)]) == 0
    assert evaluate.main([str(run), "--protocol", "knn"]) == 0
