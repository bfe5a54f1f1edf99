"""crrl embed: the features of `crrl.load(RUN).embed`, with names and, where they are known, labels, in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import crrl
from crrl import embedding
from crrl.data.sources import load_raw

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import embed, export, predict


def test_a_data_set_is_embedded_with_its_names_and_labels(small_run: Path, clip_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    embed.main([str(small_run), "--dataset", "folder", "--data", str(clip_folder), "--out", str(out)])
    raw = load_raw("folder", clip_folder)
    with np.load(out, allow_pickle=False) as file:
        assert set(file) == {"names", "features", "labels", "class_names"}
        assert file["names"].tolist() == list(raw.names)
        np.testing.assert_array_equal(file["labels"], raw.labels)
        assert file["class_names"].tolist() == ["left", "right"]
        assert file["features"].dtype == np.float32
        expected = crrl.load(small_run).embed([raw.clip(place) for place in range(len(raw))])
        np.testing.assert_allclose(file["features"], expected, atol=1e-6)


def test_a_split_is_its_test_clips(small_run: Path, clip_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    options = ["--dataset", "folder", "--data", str(clip_folder), "--split", "default"]
    embed.main([str(small_run), *options, "--out", str(out)])
    raw = load_raw("folder", clip_folder)
    with np.load(out, allow_pickle=False) as file:
        assert file["names"].tolist() == [raw.names[place] for place in raw.split("default").test["all"]]


def test_files_need_no_labels(small_run: Path, clip_folder: Path, tmp_path: Path) -> None:
    files, out = [clip_folder / "07.npy", clip_folder / "03.npy"], tmp_path / "features.npz"
    embed.main([str(small_run), *map(str, files), "--out", str(out)])
    with np.load(out, allow_pickle=False) as file:
        assert set(file) == {"names", "features"}
        assert file["names"].tolist() == list(map(str, files))
        assert file["features"].shape == (2, 16)


def test_groups_do_not_matter_and_a_damaged_clip_leaves_no_file(
    small_run: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [np.load(path) for path in sorted(clip_folder.glob("*.npy"))]
    encoder = crrl.load(small_run)
    whole = encoder.embed(clips)
    monkeypatch.setattr(embedding, "GROUP_FRAMES", 20)
    np.testing.assert_allclose(encoder.embed(iter(clips)), whole, atol=1e-6)
    np.save(tmp_path / "bad.npy", clips[3] * np.nan)
    with pytest.raises(crrl.CrrlError, match=r"bad\.npy holds NaN"):
        embed.main([str(small_run), str(clip_folder), str(tmp_path), "--out", str(tmp_path / "features.npz")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npy"]


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(small_run: Path, tmp_path: Path) -> None:
    for module, options in ((embed, ["none.npy"]), (predict, ["none.npy"]), (export, ["--format", "pt2"])):
        for out, said in ((tmp_path, "is a folder"), (tmp_path / "none" / "a", "not a folder that you may write to")):
            with pytest.raises(crrl.CrrlError, match=said):
                module.main([str(small_run), *options, "--out", str(out)])
