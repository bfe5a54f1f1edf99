"""The command crrl.view: a clip or a sheet of a data set as a picture, and what is said of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers import synthetic
from crrl.errors import CrrlError

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("PIL", reason="pillow is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from PIL import Image

from crrl import view
from crrl.reporting.drawings import last_seen


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 frames and 25 joints, z up and in centimetres; joint 7 missing in two frames, joint 9 in all."""
    frames = 100 * synthetic.generate().clip(0)[:12, :, [0, 2, 1]]
    frames[3:5, 7] = frames[:, 9] = 0
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, frames)
    return path


def refused(*arguments: object) -> str:
    with pytest.raises(CrrlError) as error:
        view.main(list(map(str, arguments)))
    assert "\n" not in str(error.value)
    return str(error.value)


def reddish(path: Path, frame: int = 0) -> int:
    """How many pixels of a picture are as red as the mark of a missing joint."""
    with Image.open(path) as image:
        image.seek(frame)
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(int), 2, 0)
        return int(((red > 150) & (green < 90) & (blue < 90)).sum())


def test_a_clip_is_described_in_lines(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip.png"
    assert view.main([str(clip), "--out", str(out)]) == 0
    first, axes, missing, named = capsys.readouterr().out.splitlines()
    assert first == "12 frames, 25 joints: Kinect v2 (NTU RGB+D, PKU-MMD)"
    assert axes.startswith("axes: x ")
    assert axes.endswith("; up: +z, from hips to head")
    assert missing == "missing joints: 14 of 300 (4.7 %), in 12 of 12 frames; never seen: 9"
    assert named == f"view: {out}"


def test_a_png_marks_missing_joints_where_they_were_seen_last(clip: Path, tmp_path: Path) -> None:
    view.main([str(clip), "--out", str(tmp_path / "marked.png")])
    whole = np.load(clip)
    whole[3:5, 7] = whole[2, 7]
    np.save(tmp_path / "whole.npy", whole)
    view.main([str(tmp_path / "whole.npy"), "--out", str(tmp_path / "whole.png")])
    assert reddish(tmp_path / "marked.png") > 10
    assert reddish(tmp_path / "whole.png") == 0, "a joint that is never seen has no place to be marked at"


def test_a_gif_moves_through_the_clip(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.gif"
    view.main([str(clip), "--out", str(out)])
    with Image.open(out) as image:
        assert image.n_frames == 12
    assert [reddish(out, frame) > 0 for frame in (0, 3, 4, 11)] == [False, True, True, False]


def test_where_a_joint_was_seen_last() -> None:
    clip = np.arange(1, 25, dtype=np.float32).reshape(4, 2, 3)
    clip[0, 0] = clip[2:, 0] = clip[:, 1] = 0
    filled, absent = last_seen(clip)
    np.testing.assert_array_equal(filled[:, 0], np.tile(clip[1, 0], (4, 1)))
    assert np.isnan(filled[:, 1]).all()
    assert absent[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("ending", ["png", "gif", "html"])
def test_a_sheet_shows_clips_of_each_class(
    clip_folder: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if ending == "html":
        pytest.importorskip("jinja2", reason="jinja2 is not installed")
    out = tmp_path / f"sheet.{ending}"
    view.main(["--dataset", "folder", "--data", str(clip_folder), "--out", str(out), "--each", "3"])
    said = capsys.readouterr().out
    assert said.startswith("2 classes, 50 clips, 1 to 14 frames, 5 joints: unknown, drawn as points\n")
    assert "up: not known, +y is drawn upwards" in said
    if ending == "html":
        assert all(f"<h3>{name}</h3>" in out.read_text() for name in ("left", "right"))
    else:
        with Image.open(out) as image:
            assert (1 < image.n_frames <= 14) if ending == "gif" else image.n_frames == 1


def test_a_folder_of_clips_without_labels_is_a_sheet(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each folder; a second person of some clips is nobody in the others."""
    whole = np.load(clip)
    for number, name in enumerate(("a", "b/one", "b/two")):
        path = tmp_path / "clips" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate([whole, whole + 9], axis=1) if number == 2 else whole)
    out = tmp_path / "sheet.html"
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    view.main([str(tmp_path / "clips"), "--out", str(out)])
    said = capsys.readouterr().out
    assert said.startswith("2 folders, 3 clips, 12 to 12 frames, 50 joints: two of Kinect v2")
    assert re.findall(r"<h3>(.*?)</h3>", out.read_text()) == [".", "b"]
    assert all(f'"{name}.npy"' in out.read_text() for name in ("a", "b/one", "b/two"))
    view.main([str(tmp_path / "clips" / "b"), "--out", str(tmp_path / "sheet.png")])
    assert capsys.readouterr().out.startswith("1 folder, 2 clips")


def test_a_data_set_without_labels_is_one_row(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    for number in range(3):
        np.save(root / f"{number}.npy", np.load(clip))
    view.main(["--dataset", "folder", "--data", str(root), "--each", "2", "--out", str(tmp_path / "sheet.html")])
    assert capsys.readouterr().out.startswith("1 class, 3 clips")
    assert re.findall(r"<h3>(.*?)</h3>", (tmp_path / "sheet.html").read_text()) == ["without labels"]


def test_a_folder_of_frames_is_one_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "walk").mkdir()
    for number in range(3):
        person = {"pose_keypoints_2d": [float(each + number) for each in range(1, 76)]}
        (tmp_path / "walk" / f"v_{number}_keypoints.json").write_text(json.dumps({"people": [person]}))
    view.main([str(tmp_path / "walk"), "--out", str(tmp_path / "walk.png")])
    assert capsys.readouterr().out.startswith("3 frames, 25 joints: ")


def test_a_clip_that_shows_nothing_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((1, 5, 3)))
    view.main([str(tmp_path / "empty.npy"), "--out", str(tmp_path / "empty.png")])
    assert "axes: nothing is shown" in capsys.readouterr().out


def test_what_cannot_be_shown_is_refused_in_a_line(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRRL_DATA", raising=False)
    out = ("--out", tmp_path / "a.png")
    assert "either a clip or --dataset" in refused(*out)
    assert "either a clip or --dataset" in refused(clip, "--dataset", "folder", *out)
    assert "must end in .gif, .png, .html" in refused(clip, "--out", "clip.mp4")
    assert "--data needs --dataset" in refused(clip, "--data", tmp_path, *out)
    assert "at least 1" in refused(clip, "--each", 0, *out)
    assert "not a folder that you may write to" in refused(clip, "--out", tmp_path / "none" / "a.png")
    assert "is not a clip file" in refused(tmp_path / "a.txt", *out)
    assert "none.npy" in refused(tmp_path / "none.npy", *out)
    assert "no data set 'moon'" in refused("--dataset", "moon", *out)
    assert "--data FOLDER" in refused("--dataset", "folder", *out)
    assert "prepared once from its raw files" in refused("--dataset", "ntu60", "--data", tmp_path, *out)
