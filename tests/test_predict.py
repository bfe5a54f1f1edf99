"""crrl predict: the labels are those that the evaluation scored, of clips and of windows, and bad input is one line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import crrl
from crrl import embedding
from crrl.embedding import smoothed, window_starts

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import embed, evaluate, export, predict
from crrl.errors import CrrlError, run_command


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is on stderr but for the bar of a slow machine."""
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if "predict: " not in line]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.mark.parametrize("options", [["linear"], ["logistic"], ["linear", "--features", "tuned"]], ids=" ".join)
def test_the_accuracy_is_the_one_that_the_evaluation_printed(
    run: Path, clip_folder: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(run), "--protocol", *options])
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  crrl")).split()[-1]
    file = f"evaluation-{options[0]}{'-features-tuned' if len(options) > 1 else ''}.json"
    (exact, *_) = json.loads((run / file).read_text())["accuracy_percent"].values()
    predict.main([str(run), "--dataset", "folder", "--data", str(clip_folder), "--split", "default"])
    out, err = capsys.readouterr()
    labels = {row["file"]: row["label"] for row in rows((clip_folder / "labels.csv").read_text())}
    told = {row["clip"]: row["label"] for row in rows(out)}
    right = sum(labels[name] == label for name, label in told.items())
    assert len(told) == 10
    assert 100 * right / len(told) == exact["all"]
    assert f"{printed} % of 10 labels are correct" in err


def test_files_folders_and_python_give_the_same_labels(
    run: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(clip_folder.glob("*.npy"))
    predict.main([str(run), str(clip_folder), "--format", "json", "--top", "3"])
    of_folder = json.loads(capsys.readouterr().out)
    predict.main([str(run), *map(str, files), str(files[0]), "--top", "3", "--out", str(run / "labels.csv")])
    of_files = rows((run / "labels.csv").read_text())
    assert capsys.readouterr().out == ""
    found = crrl.load(run).predict([np.load(file) for file in files])
    assert found.class_names == ("left", "right")
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    for place, (file, best) in enumerate(zip(files, found.top(3), strict=True)):
        assert [label for label, _ in best] == sorted(
            found.class_names, key=lambda name: -found.probabilities[place, found.class_names.index(name)]
        )
        assert best[0][0] == found.labels[place]
        assert of_folder[place]["clip"] == str(file)
        assert [(each["label"], each["probability"]) for each in of_folder[place]["labels"]] == [
            (label, pytest.approx(value, abs=1e-6)) for label, value in best
        ]
        two = of_files[2 * place : 2 * place + 2]
        assert [(row["clip"], row["rank"], row["label"]) for row in two] == [
            (str(file), str(rank), label) for rank, (label, _) in enumerate(best, 1)
        ]
        assert [float(row["probability"]) for row in two] == pytest.approx([value for _, value in best], abs=1e-4)


@pytest.mark.parametrize(
    ("frames", "size", "hop", "starts"),
    [(10, 4, 2, [0, 2, 4, 6]), (11, 4, 2, [0, 2, 4, 6, 7]), (3, 4, 2, [0]), (4, 4, 9, [0]), (9, 4, 9, [0, 5])],
)
def test_windows_cover_a_recording(frames: int, size: int, hop: int, starts: list[int]) -> None:
    assert window_starts(frames, size, hop).tolist() == starts


def test_windows_are_averaged_with_those_that_overlap_by_the_frames_they_share() -> None:
    probabilities, starts, size = np.random.default_rng(0).random((7, 3)), np.array([0, 3, 6, 9, 12, 15, 17]), 8
    shared = np.maximum(size - np.abs(starts[:, None] - starts), 0)
    expected = shared @ probabilities / shared.sum(1, keepdims=True)
    np.testing.assert_allclose(smoothed(probabilities, starts, size), expected)
    np.testing.assert_allclose(smoothed(probabilities, starts, 3)[:5], probabilities[:5])


def test_a_recording_gets_a_label_for_each_window(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = np.random.default_rng(0).normal(size=(26, 5, 3)).cumsum(axis=0).astype(np.float32)
    np.save(tmp_path / "long.npy", recording)
    options = ["--window", "0.8", "--hop", "0.4", "--fps", "10", "--top", "2"]
    predict.main([str(run), str(tmp_path / "long.npy"), *options])
    told = rows(capsys.readouterr().out)
    spans = [(0, 0.8), (0.4, 1.2), (0.8, 1.6), (1.2, 2), (1.6, 2.4), (1.8, 2.6)]
    assert [(float(row["start"]), float(row["end"])) for row in told[::2]] == spans
    encoder = crrl.load(run)
    frames, found = encoder.predict_windows(recording, 8, 4)
    assert (frames / 10).tolist() == [list(span) for span in spans]
    alone = encoder.predict([recording[start:end] for start, end in frames])
    np.testing.assert_allclose(found.probabilities, smoothed(alone.probabilities, frames[:, 0], 8))
    assert [row["label"] for row in told[::2]] == found.labels
    predict.main([str(run), str(tmp_path / "long.npy"), "--format", "json", *options])
    read = json.loads(capsys.readouterr().out)
    assert [(each["start"], each["end"], each["labels"][0]["label"]) for each in read] == [
        (*span, label) for span, label in zip(spans, found.labels, strict=True)
    ]


def test_a_long_recording_is_never_in_memory(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """18 MB of which 64 frames are looked at at a time."""
    np.lib.format.open_memmap(tmp_path / "long.npy", mode="w+", dtype=np.float32, shape=(300_000, 5, 3))[::2] = 1
    monkeypatch.setattr(embedding, "GROUP_FRAMES", 64)
    options = ["--window", "60", "--hop", "2000", "--fps", "1", "--out", str(tmp_path / "out.csv")]
    predict.main([str(run), str(tmp_path / "long.npy"), *options[:-2], "--out", str(tmp_path / "warm.csv")])
    tracemalloc.start()
    predict.main([str(run), str(tmp_path / "long.npy"), *options])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows((tmp_path / "out.csv").read_text())) == 151
    assert peak < 9e6


CLIP = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        (np.ones((6, 20, 3), np.float32), "bad.npy has 20 joints, but the encoder was trained on 5"),
        (np.full((6, 5, 3), np.nan, np.float32), "bad.npy holds NaN or infinity, first in frame 0, joint 0"),
        (np.ones((0, 5, 3), np.float32), "bad.npy is empty (shape [0, 5, 3])"),
        (np.ones((6, 15), np.float32), "bad.npy has shape [6, 15], not [frames, joints, 3]"),
        (np.full((6, 5, 3), "a"), "bad.npy is not an array of numbers"),
        (b"\x93NUMPY\1\0v\0{'descr'", "bad.npy is damaged or not a .npy array"),
        (b"<html>", "bad.npy is a web page (HTML), not a .npy array"),
    ],
)
@pytest.mark.parametrize("window", [[], ["--window", "0.2"]], ids=["clips", "windows"])
def test_a_clip_that_cannot_be_told_is_named_in_one_line(
    run: Path, tmp_path: Path, clip: object, problem: str, window: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(clip) if isinstance(clip, bytes) else np.save(path, clip)  # type: ignore[arg-type]
    np.save(tmp_path / "good.npy", CLIP)
    assert run_command(lambda: predict.main([str(run), str(tmp_path / "good.npy"), str(path), *window])) == 2
    (line,) = errors(capsys)
    assert problem in line.replace(", frames from 0", "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["empty"], "empty holds no clip: .npy, .npz, .skeleton, .bvh, .amc, .json, .csv and folders of OpenPose's"),
        (["none.npy"], "none.npy"),
        (["text.docx"], "text.docx is not a clip file that crrl knows by its name"),
        ([], "give files or folders of clips, or --dataset NAME"),
        (["good.npy", "--dataset", "synthetic"], "one of the two"),
        (["good.npy", "--split", "default"], "--data and --split need --dataset"),
        (["--dataset", "mine"], "no data set 'mine': choose from synthetic, ntu60"),
        (["good.npy", "--top", "0"], "--top 0"),
        (["good.npy", "--hop", "1"], "--hop and --fps need --window"),
        (["good.npy", "--window", "0.04"], "a window takes 2 frames at least"),
        (["good.npy", "--window", "nan"], "a window takes 2 frames at least"),
        (["good.npy", "--window", "2", "--fps", "inf"], "a window takes 2 frames at least"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_given_wrongly_is_one_line(
    run: Path,
    tmp_path: Path,
    arguments: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    np.save("good.npy", CLIP)
    assert run_command(lambda: predict.main([str(run), *arguments])) == 2
    (line,) = errors(capsys)
    assert problem in line


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on two bodies of 25 joints, and a folder of two clips of OpenPose's: one shows one person, one two."""
    from crrl import prepare, train

    root = tmp_path_factory.mktemp("estimated")
    rng = np.random.default_rng(0)
    for number in range(10):
        folder = root / "raw" / f"{number}"
        folder.mkdir(parents=True)
        for frame in range(4):
            bodies = [rng.uniform(50, 90, (25, 3)) + np.array([400 * body, 0, 0]) for body in range(1 + number % 2)]
            people = [{"pose_keypoints_2d": body.ravel().tolist()} for body in bodies]
            (folder / f"v_{frame:012}_keypoints.json").write_text(json.dumps({"people": people}))
    listed = [f"{number},{'ab'[number // 5]},{'test' if number % 5 > 2 else 'train'}" for number in range(10)]
    (root / "raw" / "labels.csv").write_text("\n".join(["file,label,split", *listed]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        prepare.main(["openpose", "--data", str(root / "raw"), "--out", str(root / "clips"), "--workers", "1"])
        sizes = ["--hidden-size", "8", "--batch-size", "4", "--epochs-cml", "1", "--epochs-ser", "1", "--device", "cpu"]
        train.main(["--dataset", "prepared", "--data", str(root / "clips"), *sizes, "--out", str(root / "run")])
        evaluate.main([str(root / "run"), "--device", "cpu"])
    return root / "run", root / "raw"


def test_folders_of_frames_are_told_as_their_prepared_clips_are(
    estimated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second body that is not there is zeros, as in the prepared set."""
    run, raw = estimated
    predict.main([str(run), str(raw), "--format", "json"])
    of_folder = json.loads(capsys.readouterr().out)
    predict.main([str(run), "--dataset", "prepared", "--data", str(raw.parent / "clips"), "--format", "json"])
    of_set = json.loads(capsys.readouterr().out)
    assert [Path(each["clip"]).name for each in of_folder] == [each["clip"] for each in of_set]
    assert [each["labels"] for each in of_folder] == [each["labels"] for each in of_set]
    predict.main([str(run), str(raw / "0"), str(raw / "1"), "--window", "0.1", "--hop", "0.1"])
    assert [row["clip"] for row in rows(capsys.readouterr().out)] == [str(raw / "0")] * 2 + [str(raw / "1")] * 2
    frame = raw / "0" / "v_000000000000_keypoints.json"
    with pytest.raises(CrrlError, match=f"^--out {frame} would overwrite .*, which is read"):
        predict.main([str(run), str(raw / "0"), "--out", str(frame)])


def test_a_table_of_mediapipes_is_told_by_its_joints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ",".join(f"{axis}{number}" for number in range(33) for axis in "xyzv")
    (tmp_path / "a.csv").write_text("\n".join([names, *[",".join(["0.5"] * 132)] * 3]) + "\n")
    assert run_command(lambda: predict.main([str(run), str(tmp_path / "a.csv")])) == 2
    assert errors(capsys) == [f"{tmp_path / 'a.csv'} has 33 joints, but the encoder was trained on 5"]


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_a_video_that_shows_nobody_is_one_line(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ",".join(f"{axis}{number}" for number in range(33) for axis in "xyzv")
    (tmp_path / name).write_text("[[], []]" if name == "a.json" else "\n".join([names, "0" + ",0" * 131]) + "\n")
    assert run_command(lambda: predict.main([str(run), str(tmp_path / name)])) == 2
    (line,) = errors(capsys)
    assert line.startswith(f"no person in {tmp_path / name}: none of its ")


def test_no_clip_and_no_file_of_the_run_is_written_over(run: Path, clip_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(clip_folder, tmp_path / "data"))
    of_files, of_data = [str(data)], ["--dataset", "folder", "--data", str(data)]
    before = {path: path.read_bytes() for folder in (run, data) for path in folder.iterdir() if path.is_file()}
    refused = [
        (of_files, data / "00.npy"),
        (of_data, data / "00.npy"),
        (of_data, data / "labels.csv"),
        (of_files, run / "encoder.safetensors"),
        (of_files, run / "classifier.safetensors"),
        (of_data, run / "config.json"),
    ]
    for given, out in refused:
        for command in (predict.main, embed.main):
            with pytest.raises(CrrlError, match=f"^--out {out} would overwrite .*, which is read"):
                command([str(run), *given, "--out", str(out)])
    with pytest.raises(CrrlError, match="would overwrite"):
        export.main([str(run), "--format", "pt2", "--out", str(run / "encoder.safetensors")])
    with pytest.raises(CrrlError, match="would overwrite"):
        export.main([f"{run}/encoder.safetensors", "--format", "pt2", "--out", f"{run}/../run/encoder.safetensors"])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("window", ["1e18", "1e300"])
def test_a_window_longer_than_any_recording_is_all_of_it(run: Path, tmp_path: Path, window: str) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    predict.main([str(run), f"{tmp_path}/a.npy", "--window", window, "--hop", window, "--out", f"{tmp_path}/out.csv"])
    (row,) = rows((tmp_path / "out.csv").read_text())
    assert (row["start"], row["end"]) == ("0.000", f"{len(CLIP) / 30:.3f}")


def test_a_clip_of_one_frame_is_told_with_a_warning(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", CLIP[:1])
    with pytest.warns(UserWarning, match=r"one\.npy has one frame, which shows no motion"):
        predict.main([str(run), str(tmp_path / "one.npy"), "--out", str(tmp_path / "out.csv")])
    assert len(rows((tmp_path / "out.csv").read_text())) == 1


def test_scores_in_place_of_z_are_left_out_as_in_training(run: Path) -> None:
    flat = np.concatenate([100 * CLIP[..., :2], np.full((6, 5, 1), 0.9, np.float32)], axis=2)
    encoder = crrl.load(run)
    with pytest.warns(UserWarning, match="clip 0: the third numbers of joints are 0.9 to 0.9"):
        of_scores = encoder.embed([flat])
    flat[..., 2] = 0
    np.testing.assert_array_equal(of_scores, encoder.embed([flat]))


def test_whether_a_clip_has_scores_does_not_depend_on_the_others(run: Path) -> None:
    flat = np.concatenate([100 * CLIP[..., :2], np.full((6, 5, 1), 0.9, np.float32)], axis=2)
    encoder = crrl.load(run)
    with pytest.warns(UserWarning, match="clip 1: the third numbers of joints are 0.9 to 0.9"):
        together = encoder.embed([CLIP, flat])
    with pytest.warns(UserWarning, match="clip 0: the third numbers"):
        np.testing.assert_allclose(together[1:], encoder.embed([flat]), atol=1e-6)


def test_a_run_folder_that_was_shared_needs_no_more_than_its_weights(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("encoder.safetensors", "classifier.safetensors", "README.md"):
        shutil.copy(run / name, copy)
    expected = crrl.load(run).predict([CLIP])
    np.testing.assert_array_equal(crrl.load(copy).predict([CLIP]).probabilities, expected.probabilities)


def test_an_encoder_file_alone_predicts_nothing(run: Path) -> None:
    with pytest.raises(crrl.CrrlError, match="load the run folder"):
        crrl.load(run / "encoder.safetensors").predict([CLIP])
