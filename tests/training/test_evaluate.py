"""The command crrl.evaluate on a trained run: its protocols, its tables, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import crrl
from crrl.config import Recipe
from crrl.data import ClipTensors, prepare
from crrl.errors import CrrlError
from crrl.evaluation.frozen import Features, nearest_neighbours
from crrl.features import encode, raw
from crrl.models import Encoder
from crrl.recipes import preset
from crrl.runs import RunFolder
from tests.clips import write_clips

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import evaluate, train
from crrl.evaluation import finetuning, logistic, protocols


@pytest.fixture(scope="module")
def run(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    options = ["--batch-size", "8", "--hidden-size", "8", "--epochs-cml", "1", "--epochs-ser", "1"]
    train.main(["--dataset", "folder", "--data", str(clip_folder), *options, "--out", str(path)])
    return path


LAST_AND_BEST = ["last epoch", "best epoch on test"]
QUICK = ["--epochs", "1", "--batch-size", "20"]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "LEAST_STEPS", 7)


@pytest.mark.parametrize(
    ("options", "rows", "file"),
    [
        (["linear"], LAST_AND_BEST, "linear"),
        (["linear", "--seed", "1"], LAST_AND_BEST, "linear-seed-1"),
        (["logistic"], ["logistic"], "logistic"),
        (["knn"], ["1-NN"], "knn"),
        (["knn", "--neighbours", "3"], ["3-NN"], "knn-3"),
        (["retrieval"], ["mAP"], "retrieval"),
        (["fine-tune", *QUICK], LAST_AND_BEST, "fine-tune-epochs-1-batch-size-20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_it_prints_and_keeps_the_encoder_beside_what_takes_no_training(
    run: Path, options: list[str], rows: list[str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = (run / "encoder.safetensors").read_bytes()
    assert evaluate.main([str(run), "--protocol", *options]) == 0
    printed = capsys.readouterr().out
    kept = json.loads((run / f"evaluation-{file}.json").read_text())
    candidates = ("crrl", "random encoder", *(() if options[0] == "fine-tune" else ("raw",)))
    measured = kept["map_percent" if options[0] == "retrieval" else "accuracy_percent"]
    assert list(measured) == [f"{who}, {row}" for who in candidates for row in rows]
    assert (run / "encoder.safetensors").read_bytes() == encoder
    for name, values in measured.items():
        line = next(line for line in printed.splitlines() if name in line)
        assert float(line.split()[-1]) == pytest.approx(values["all"], abs=0.05)
    assert kept["test_clips"] == {"all": 10}
    assert not {"data", "test_clips_trained_on"} & kept.keys(), "no transfer"


def test_settings_that_a_protocol_chooses_itself_are_printed_and_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(run), "--protocol", "logistic", "--protocol", "fine-tune", *QUICK])
    printed = capsys.readouterr().out
    strength = json.loads((run / "evaluation-logistic.json").read_text())["settings"]["strength"]
    assert list(strength) == ["crrl", "random encoder", "raw"]
    assert set(strength.values()) <= set(logistic.STRENGTHS)
    assert "strength: " + ", ".join(f"{value:g} for {name}" for name, value in strength.items()) in printed
    settings = json.loads((run / "evaluation-fine-tune-epochs-1-batch-size-20.json").read_text())["settings"]
    assert settings["epochs"] == 1
    assert settings["epochs_run"] == {"100 % of labels (40)": 4}  # 7 steps at least, of 2 an epoch
    assert "epochs run: 4 for 100 % of labels (40)" in printed


def test_raw_rows_are_of_the_preprocessed_coordinates(run: Path) -> None:
    evaluate.main([str(run), "--protocol", "knn"])
    tensors, config = tensors_of(run), RunFolder(run).config()
    split = prepare(config.dataset, config.data, config.split_name, config.preprocessing).clips.split("default")
    train_set, test = (
        Features(encode(raw, tensors, torch.from_numpy(index)), tensors.labels[index])
        for index in (split.train, split.test["all"])
    )
    expected = nearest_neighbours(train_set, {"all": test})
    assert json.loads((run / "evaluation-knn.json").read_text())["accuracy_percent"]["raw, 1-NN"] == expected


HIGH, LOW = {"all": [60.0]}, {"all": [50.0]}
TRY_MORE = r"try more epochs \(--epochs-cml\), or less turning \(--turn-yaw\)"


@pytest.mark.parametrize(
    ("recipe", "rows", "line"),
    [
        ("tuned", {"ser, 1-NN": HIGH, "random encoder, 1-NN": LOW, "raw, 1-NN": LOW}, None),
        ("tuned", {"ser, 1-NN": HIGH, "random encoder, 1-NN": HIGH, "raw, 1-NN": {"all": [60.04]}}, None),
        (
            "paper",
            {"ser, mAP": LOW, "random encoder, mAP": {"all": [51.26]}, "raw, mAP": HIGH},
            "ser is 1.3 points below random encoder, 10.0 points below raw: try --recipe tuned",
        ),
        (
            "tuned",
            {f"{who}, {row}": LOW if (who, row) == ("ser", "last epoch") else HIGH
             for who in ("ser", "raw") for row in LAST_AND_BEST},
            f"ser is 10.0 points below raw: {TRY_MORE}",
        ),
        (
            "tuned",
            {f"{who}, {row}": LOW if (who, row) == ("ser", "best epoch on test") else HIGH
             for who in ("ser", "random encoder") for row in LAST_AND_BEST},
            None,
        ),
        (
            "tuned",
            {f"{who}, {labels} % of labels (9), {row}": {"all": [shift * labels, 2.0]}
             for who, shift in (("ser", 1), ("random encoder", 2)) for labels in (1, 10) for row in LAST_AND_BEST},
            r"ser is 0.5 points below random encoder with 1 % of labels \(9\), "
            rf"5.0 points below random encoder with 10 % of labels \(9\): {TRY_MORE}",
        ),
    ],
)  # fmt: skip
def test_features_that_are_worse_than_none_are_named_by_the_headline(
    recipe: Recipe, rows: protocols.Rows, line: str | None
) -> None:
    found = evaluate.shortfall(replace(preset("folder", recipe), method="ser"), rows)
    assert found is None if line is None else re.fullmatch(line, found or "")


def test_the_line_follows_its_table(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        evaluate, "shortfall", lambda config, rows: f"below, {', '.join(rows)}" if len(rows) == 3 else None
    )
    evaluate.main([str(run), "--protocol", "linear", "--protocol", "knn"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].strip().startswith("raw, 1-NN")
    assert lines[-2] == "below, crrl, 1-NN, random encoder, 1-NN, raw, 1-NN"
    assert sum(line.startswith("below") for line in lines) == 1


def test_several_protocols_go_by_features_computed_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded: list[int] = []

    def count(encoder: Encoder, tensors: ClipTensors, index: Tensor) -> Tensor:
        encoded.append(len(index))
        return encode(encoder, tensors, index)

    monkeypatch.setattr(protocols, "encode", count)
    assert evaluate.main([str(run), "--protocol", "linear", "--protocol", "knn", "--protocol", "retrieval"]) == 0
    assert encoded == 3 * [50]  # 40 train, 10 test
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("folder, default")]
    assert [line.split("(")[1].split(")")[0] for line in titles] == ["linear", "knn", "retrieval"]


def test_semi_supervised_is_the_mean_over_the_draws_of_every_part(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--labels", "0.01", "0.5", "--draws", "2", *QUICK]
    assert evaluate.main([str(run), "--protocol", "semi-supervised", *options]) == 0
    file = "evaluation-semi-supervised-labels-0.01-0.5-draws-2-epochs-1-batch-size-20.json"
    kept = json.loads((run / file).read_text())
    parts = ["1 % of labels (2)", "50 % of labels (20)"]
    names = [f"{who}, {part}, {row}" for who in ("crrl", "random encoder") for part in parts for row in LAST_AND_BEST]
    assert list(kept["accuracy_percent"]) == names
    printed = capsys.readouterr().out
    for name in names:
        draws = kept["draws"][name]["all"]
        assert len(draws) == 2
        assert kept["accuracy_percent"][name]["all"] == pytest.approx(sum(draws) / 2)
        line = next(line for line in printed.splitlines() if name in line)
        assert line.split()[-3:] == [f"{sum(draws) / 2:.1f}", "±", f"{abs(draws[0] - draws[1]) / 2**0.5:.1f}"]
    assert kept["settings"] == {
        "labels": [0.01, 0.5], "draws": 2, "epochs": 1, "batch_size": 20, "lr": 0.001, "seed": 0,
        "epochs_run": {"1 % of labels (2)": 7, "50 % of labels (20)": 7},
    }  # fmt: skip
    assert "epochs run: 7 for 1 % of labels (2), 7 for 50 % of labels (20)" in printed


def other_clips(folder: Path, joints: int) -> Path:
    """20 clips of three classes."""
    return write_clips(folder, ["abc"[number % 3] for number in range(20)], frames=4, joints=joints)


@pytest.mark.parametrize("protocol", ["linear", "logistic", "fine-tune"])
def test_an_encoder_is_transferred_to_another_data_set_of_as_many_joints(
    run: Path, tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = other_clips(tmp_path / "other", joints=5)
    quick = QUICK if protocol == "fine-tune" else []
    options = ["--protocol", protocol, "--dataset", "folder", "--data", str(data), *quick]
    assert evaluate.main([str(run), *options]) == 0
    assert "pretrained on folder, default" in capsys.readouterr().out
    settings = "-epochs-1-batch-size-20" if quick else ""
    kept = json.loads((run / f"evaluation-{protocol}{settings}-folder-default-other.json").read_text())
    assert kept["pretrained_on"] == {"dataset": "folder", "split": "default"}
    assert kept["data"] == str(data)
    assert "test_clips_trained_on" not in kept, "these clips are others"
    assert 0 < sum(kept["test_clips"].values()) < 20
    assert ("raw, last epoch" in kept["accuracy_percent"]) == (protocol == "linear")


def test_data_sets_in_folders_of_the_same_name_have_files_of_their_own(run: Path, tmp_path: Path) -> None:
    for parent in ("one", "two words"):
        (tmp_path / parent).mkdir()
        data = other_clips(tmp_path / parent / "clips", joints=5)
        for _ in range(2):
            evaluate.main([str(run), "--protocol", "retrieval", "--dataset", "folder", "--data", str(data)])
    kept = {
        path.name: json.loads(path.read_text())["data"] for path in run.glob("evaluation-retrieval-folder-*clips.json")
    }
    assert kept == {
        "evaluation-retrieval-folder-default-clips.json": str(tmp_path / "one" / "clips"),
        "evaluation-retrieval-folder-default-two-words-clips.json": str(tmp_path / "two words" / "clips"),
    }


def test_classes_that_no_training_clip_has_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = other_clips(tmp_path / "other", joints=5)
    lines = (data / "labels.csv").read_text().split()
    marked = [f"{line},{'train' if i < 12 else 'test'}" for i, line in enumerate(lines[1:])]
    text = "\n".join(["file,label,split", *marked]).replace(",c,train", ",a,train").replace("19.npy,b", "19.npy,d")
    (data / "labels.csv").write_text(text)
    frozen = [part for protocol in protocols.FROZEN for part in ("--protocol", protocol)]
    evaluate.main([str(run), *frozen, "--dataset", "folder", "--data", str(data)])
    assert capsys.readouterr().out.count("classes of test clips without a training clip: c, d; they score 0\n") == 1


def test_test_clips_that_the_encoder_was_trained_on_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    epochs = ["--method", "cml", "--epochs-cml", "1", "--hidden-size", "4", "--no-evaluate"]
    train.main(["--split", "cross-view", *epochs, "--out", str(run)])
    clips = prepare("synthetic", None, "cross-view", RunFolder(run).config().preprocessing).clips
    both = set(clips.split("cross-view").train) & set(clips.split("cross-subject").test["all"])
    tested = len(clips.split("cross-subject").test["all"])
    with pytest.warns(UserWarning, match=rf"{len(both)} of {tested} test clips are training clips .* though no labels"):
        evaluate.main([str(run), "--protocol", "knn", "--split", "cross-subject"])
    evaluate.main([str(run), "--protocol", "knn", "--split", "cross-view"])
    for split, count in (("cross-subject", len(both)), ("cross-view", 0)):
        kept = json.loads((run / f"evaluation-knn-synthetic-{split}.json").read_text())
        assert kept["test_clips_trained_on"] == count
        assert "data" not in kept


def test_features_of_another_recipe_need_no_other_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocols = ["--protocol", "knn", "--protocol", "fine-tune", *QUICK]
    assert evaluate.main([str(run), *protocols, "--features", "tuned"]) == 0
    assert capsys.readouterr().out.count("features of recipe tuned") == 1
    assert json.loads((run / "evaluation-knn-features-tuned.json").read_text())["settings"]["features"] == "tuned"
    assert not (run / "evaluation-fine-tune-features-tuned.json").exists()


def test_features_of_a_recipe_are_those_that_its_own_runs_have(clip_folder: Path, tmp_path: Path) -> None:
    epochs = ["--epochs-ser", "1", "--method", "ser", "--data", str(clip_folder)]
    results = []
    for name, own in (("without", ["--features", "paper"]), ("with", [])):
        options = ["--dataset", "folder", "--recipe", "tuned", "--hidden-size", "8", *own, *epochs]
        train.main([*options, "--out", str(tmp_path / name)])
        evaluate.main([str(tmp_path / name), "--protocol", "retrieval", *(["--features", "tuned"] if own else [])])
        file = "evaluation-retrieval-features-tuned.json" if own else "evaluation-retrieval.json"
        results.append(json.loads((tmp_path / name / file).read_text())["map_percent"])
    assert results[0] == results[1]


def test_a_transfer_to_another_joint_count_is_refused(run: Path, tmp_path: Path) -> None:
    data = other_clips(tmp_path / "other", joints=4)
    with pytest.raises(CrrlError, match=r"skeletons of folder have 4 joints, .* was trained on 5"):
        evaluate.main([str(run), "--dataset", "folder", "--data", str(data)])
    with pytest.raises(CrrlError, match=r"skeletons of synthetic have 25 joints"):
        evaluate.main([str(run), "--dataset", "synthetic"])
    assert not list(run.glob("*-synthetic-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neighbours", "3"], "--neighbours needs --protocol knn"),
        (["--protocol", "fine-tune", "--features", "paper"], "--features needs --protocol linear or logistic or "),
        (["--protocol", "logistic", "--seed", "1"], "--seed needs --protocol linear or fine-tune or semi"),
        (["--protocol", "knn", "--labels", "0.1"], "--labels needs --protocol semi-supervised"),
        (["--protocol", "linear", "--batch-size", "8"], "--batch-size needs --protocol fine-tune or semi"),
        (["--protocol", "knn", "--neighbours", "0"], "must be at least 1"),
        (
            ["--protocol", "semi-supervised", "--draws", "1000000000"],
            "--draws is 1000000000: it must be from 1 to 1000",
        ),
        (["--protocol", "knn", "--neighbours", "41"], "there are 40 training clips"),
        (["--protocol", "semi-supervised", "--labels", "1.5"], "above 0 and at most 1"),
        (["--protocol", "semi-supervised", "--labels", "0"], "above 0 and at most 1"),
        (["--protocol", "fine-tune", "--lr", "-1"], "lr is -1.0"),
        (["--protocol", "fine-tune", "--lr", "inf"], "lr is inf: it must be positive and finite"),
        (["--protocol", "fine-tune", "--batch-size", "9" * 20], f"batch_size is {'9' * 20}: it must be from 1 to"),
        (["--protocol", "fine-tune", "--seed", "9" * 20], f"--seed is {'9' * 20}: it must be in"),
        (["--split", "elsewhere"], "no split named 'elsewhere'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit(run: Path, options: list[str], message: str) -> None:
    with pytest.raises(CrrlError, match=message):
        evaluate.main([str(run), *options])


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
    with pytest.raises(CrrlError, match="has changed since"):
        evaluate.main([str(run), "--data", str(data)])


def test_the_encoder_file_holds_plain_tensors(run: Path) -> None:
    assert all(tensor.isfinite().all() for tensor in load_file(run / "encoder.safetensors").values())


def test_nw_ucla_from_files_to_both_accuracies(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--hidden-size", "8", "--epochs-cml", "1", "--epochs-ser", "1", "--no-evaluate"]
    train.main(["--dataset", "nw-ucla", "--data", str(real_data), "--recipe", "tuned", *options, "--out", str(run)])
    capsys.readouterr()
    evaluate.main([str(run), "--protocol", "knn"])
    title, *rows = capsys.readouterr().out.splitlines()[:4]
    assert "all (464)   clean (369)" in title
    assert all(float(value) > 20 for row in rows for value in row.split()[-2:])  # chance is 10


def test_the_embedded_data_set_trains(tmp_path: Path) -> None:
    """By one method: test_methods has all of them, on fewer clips."""
    options = ["--hidden-size", "4", "--epochs-cml", "1", "--epochs-ser", "1", "--no-evaluate"]
    assert train.main(["--recipe", "tuned", *options, "--out", str(tmp_path)]) == 0
    assert evaluate.main([str(tmp_path), "--protocol", "knn"]) == 0
