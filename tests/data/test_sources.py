"""Prepared data sets: found in the cache exactly when nothing they depend on has changed."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from crrl.data import Clips, Prepared, Preprocessing, Split, prepare, registry, sources
from crrl.data.integrity import damage
from crrl.data.packing import prepare_folder as prepare_whole
from crrl.errors import CrrlError
from crrl.files import cache_folder, discard
from tests.clips import write_clips

STEPS = Preprocessing(max_frames=4)


def save_clip(root: Path, number: int, seed: int) -> None:
    np.save(root / f"{number}.npy", np.random.default_rng(seed).normal(size=(6, 5, 3)).astype(np.float32))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder data set of five clips."""
    return write_clips(tmp_path, ["sit"] * 5)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clips of each data set read from its files, in order."""
    counts: list[int] = []
    source = registry.SOURCES["folder"]

    def load(files: list[Path]) -> Clips:
        clips = source.load(files)
        counts.append(len(clips))
        return clips

    monkeypatch.setitem(registry.SOURCES, "folder", replace(source, load=load))
    return counts


def prepare_folder(root: Path, steps: Preprocessing = STEPS) -> Prepared:
    return prepare("folder", root, "default", steps)


def cached() -> list[Path]:
    return list(cache_folder().iterdir())


def test_folders_of_clips_of_ones_own_are_told_from_others(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("places")
    prepare_whole("folder", root, place / "own")
    prepare_whole("folder", root, place / "other")
    manifest = place / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "folder"', '"dataset": "nw-ucla"'))
    (place / "empty").mkdir()
    own, *rest = (place / name for name in ("own", "other", "empty"))
    assert sources.own_folders([*rest, root, own, own, root / ".." / root.name]) == [root, own]
    monkeypatch.chdir(place)
    assert sources.own_folders([Path("own")]) == [own]
    monkeypatch.setenv("CRRL_DATA", str(root))
    assert sources.own_folders([]) == [root]
    monkeypatch.delenv("CRRL_DATA")
    assert sources.own_folders([]) == []
    with pytest.raises(CrrlError, match=r"places\d*/missing does not exist: give --data"):
        sources.own_folders([own, place / "missing"])


def test_a_prepared_set_is_preprocessed_by_its_preprocessor(root: Path) -> None:
    prepared = prepare_folder(root)
    raw = registry.SOURCES["folder"].load(registry.SOURCES["folder"].find_files(root))
    frames, offsets = prepared.preprocessor.apply(raw.frames, raw.offsets)
    assert prepared.preprocessor.steps == STEPS
    np.testing.assert_array_equal(prepared.clips.frames, frames)
    np.testing.assert_array_equal(prepared.clips.offsets, offsets)


def test_an_unchanged_set_comes_from_the_cache(root: Path, loads: list[int]) -> None:
    first, second = prepare_folder(root), prepare_folder(root)
    assert loads == [5]
    assert second.preprocessor == first.preprocessor
    np.testing.assert_array_equal(second.clips.frames, first.clips.frames)


def test_a_set_that_moved_elsewhere_comes_from_the_cache(root: Path, loads: list[int]) -> None:
    prepare_folder(root)
    prepare_folder(root.rename(root.with_name("elsewhere")))
    assert loads == [5]


def test_clips_without_a_list_are_another_set_when_they_are_called_otherwise(root: Path) -> None:
    (root / "labels.csv").unlink()
    (root / "a").mkdir()
    next(root.glob("*.npy")).rename(root / "a" / "x.npy")
    assert "a/x.npy" in prepare_folder(root).clips.names
    (root / "a").rename(root / "b")
    assert "b/x.npy" in prepare_folder(root).clips.names


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: save_clip(root, 3, seed=99), id="a clip"),
        pytest.param(lambda root: (root / "labels.csv").open("a").write("\n"), id="the labels"),
    ],
)
def test_a_changed_file_is_read_again(root: Path, loads: list[int], change: Callable[[Path], object]) -> None:
    prepare_folder(root)
    change(root)
    prepare_folder(root)
    assert len(loads) == 2


@pytest.mark.parametrize(
    "steps",
    [
        replace(STEPS, max_frames=5),
        replace(STEPS, view_joints=(0, 1, 2, 3)),
        replace(STEPS, normalization="clip"),
    ],
    ids=["max_frames", "view_joints", "clip"],
)
def test_other_steps_are_prepared_apart(root: Path, loads: list[int], steps: Preprocessing) -> None:
    before = prepare_folder(root).clips.frames
    after = prepare_folder(root, steps).clips.frames
    assert len(loads) == 2
    assert not np.array_equal(after, before)


@pytest.fixture
def two_splits(monkeypatch: pytest.MonkeyPatch, loads: list[int]) -> None:
    """The folder's clips with a second split, "other": its sides exchanged."""
    source = registry.SOURCES["folder"]

    def load(files: list[Path]) -> Clips:
        clips = source.load(files)
        split = clips.split("default")
        return replace(clips, splits={"default": split, "other": Split(split.test["all"], {"all": split.train})})

    monkeypatch.setitem(registry.SOURCES, "folder", replace(source, load=load))


@pytest.mark.usefixtures("two_splits")
@pytest.mark.parametrize("normalization", ["clip-axis", "clip"])
def test_splits_of_a_set_share_what_is_prepared(
    root: Path, loads: list[int], normalization: Literal["clip-axis", "clip"]
) -> None:
    steps = replace(STEPS, normalization=normalization)
    first, second = (prepare("folder", root, split, steps) for split in ("default", "other"))
    assert loads == [5]
    assert len(cached()) == 1
    assert first.fingerprint != second.fingerprint, "what is kept is one, what a run trains on is not"
    with pytest.raises(CrrlError, match="no split named 'third'"):
        prepare("folder", root, "third", steps)


def test_a_run_knows_its_data_again_where_the_set_has_got_another_split(
    root: Path, request: pytest.FixtureRequest
) -> None:
    before = prepare_folder(root).fingerprint
    shutil.rmtree(cached()[0])
    request.getfixturevalue("two_splits")
    assert prepare_folder(root).fingerprint == before


def test_an_interrupted_preparation_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, value: object) -> None:
        assert (path.parent / "frames.npy").exists(), "comes after the arrays"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(root)
    assert cached() == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *product(sorted({*sources.CACHED, "hashes.json"}), ["a bit"]),
        *product(["frames.npy", "prepared.json", "hashes.json"], ["cut short", "removed", "other content"]),
    ],
)
def test_a_damaged_set_is_made_again_with_a_warning(root: Path, loads: list[int], name: str, change: str) -> None:
    first = prepare_folder(root)
    (target,) = cached()
    path = target / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "a bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut short": whole[:-2],
        "removed": b"",
        "other content": b"{}" if name.endswith(".json") else bytes(len(whole)),
    }
    path.write_bytes(damaged[change])
    if change == "removed":
        path.unlink()
    with pytest.warns(UserWarning, match=rf"^{target} is damaged and made again: .*{name}"):
        second = prepare_folder(root)
    assert (loads, cached()) == ([5, 5], [target])
    assert second.fingerprint == first.fingerprint
    if name != "hashes.json":  # which knows when the files were written
        assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_folder(root)


def test_what_earlier_versions_kept_is_removed_and_nothing_else(root: Path) -> None:
    hashed = "0123456789abcdef" * 2
    earlier = [cache_folder() / name for name in (f"folder-{hashed}", f"ntu60-{hashed}", f".cmu-{hashed}.a1_b2c3d")]
    others = [
        (f"folder-{hashed[1:]}f", "hashes.json", 2),  # of this version
        (f"bvh-{hashed}", "mine.npy", 2),
        (f"cmu-{hashed}", "frames.npy", 0.5),  # somebody may be at work
        ("notes", "frames.npy", 2),
    ]
    laid = [*((folder.name, "frames.npy", 2) for folder in earlier), *others]
    for name, file, days in laid:
        folder = cache_folder() / name
        folder.mkdir(parents=True)
        (folder / file).touch()
        os.utime(folder, 2 * (time.time() - days * 24 * 3600,))
    link = cache_folder() / f"nw-ucla-{hashed}"
    link.symlink_to(earlier[0], target_is_directory=True)
    with pytest.warns(UserWarning, match=f"removed what earlier versions of crrl kept in {cache_folder()}: 3 folders"):
        made = prepare_folder(root)
    assert not any(folder.exists() for folder in earlier)
    assert link.is_symlink()
    assert len(cached()) == len(others) + 2
    assert len(made.clips) == 5


def test_a_damaged_set_that_two_find_at_once_is_made_once_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(root)
    (target,) = cached()
    (target / "labels.npy").unlink()
    monkeypatch.setattr(sources, "discard", lambda path: (discard(path), discard(path)))
    with pytest.warns(UserWarning, match="made again"):
        prepare_folder(root)
    assert cached() == [target]
    assert not damage(target, sources.CACHED)


def replace_clip(root: Path) -> None:
    save_clip(root, 5, seed=99)
    (root / "5.npy").replace(root / "3.npy")


def write_into_clip(root: Path) -> None:
    save_clip(root, 3, seed=99)


def list_another_clip(root: Path) -> None:
    with (root / "labels.csv").open("a") as file:
        file.write("\n")


@pytest.mark.parametrize("change", [replace_clip, write_into_clip, list_another_clip])
def test_a_file_that_changes_between_hashing_and_reading_is_kept_under_no_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    source = registry.SOURCES["folder"]

    def load(files: list[Path]) -> Clips:
        change(root)
        return source.load(files)

    with monkeypatch.context() as patch:
        patch.setitem(registry.SOURCES, "folder", replace(source, load=load))
        with pytest.raises(
            CrrlError, match=r"(3\.npy|labels\.csv) changed while it was read: run the same command again"
        ):
            prepare_folder(root)
    assert cached() == []
    prepare_folder(root)


def test_a_file_that_was_exchanged_and_put_back_is_kept_under_no_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = registry.SOURCES["folder"]

    def load(files: list[Path]) -> Clips:
        (root / "3.npy").rename(root / "aside")
        save_clip(root, 3, seed=99)
        clips = source.load(files)
        (root / "aside").rename(root / "3.npy")
        return clips

    monkeypatch.setitem(registry.SOURCES, "folder", replace(source, load=load))
    with pytest.raises(CrrlError, match=r"3\.npy changed while it was read"):
        prepare_folder(root)


def test_a_prepared_folder_that_changes_while_it_is_read_is_kept_under_no_name(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare_whole("folder", root, out)
    source = registry.SOURCES["prepared"]

    def load(files: list[Path]) -> Clips:
        clips = source.load(files)
        np.save(out / "frames.npy", np.zeros_like(clips.frames))
        return clips

    monkeypatch.setitem(registry.SOURCES, "prepared", replace(source, load=load))
    with pytest.raises(CrrlError, match=r"frames\.npy is no longer what was prepared"):
        prepare_folder(out)
    assert cached() == []


@pytest.mark.skipif(os.name == "nt", reason="needs modes")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_who_may_read_the_cache_is_for_the_umask_to_say(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        prepare_folder(root)
    finally:
        os.umask(before)
    (target,) = cached()
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o666 & ~umask}


def test_a_cache_of_no_use_is_named_with_its_variable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_CACHE", str(root / "0.npy"))
    with pytest.raises(CrrlError, match=r"0\.npy/folder-.*: set CRRL_CACHE to another folder"):
        prepare_folder(root)
    monkeypatch.delenv("CRRL_CACHE")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where a user is unknown
    with pytest.raises(CrrlError, match=r"no home folder to keep prepared sets in: set CRRL_CACHE to a folder$"):
        prepare_folder(root)


def test_crrl_data_names_the_folder_where_none_is_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_DATA", str(root))
    assert len(prepare("folder", None, "default", STEPS).clips) == 5


@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
@pytest.mark.parametrize("dataset", ["nw-ucla", "folder"])
def test_without_a_folder_the_remedy_names_option_and_variable(
    monkeypatch: pytest.MonkeyPatch, dataset: str, value: str | None
) -> None:
    monkeypatch.delenv("CRRL_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("CRRL_DATA", value)
    with pytest.raises(CrrlError, match=f"files of {dataset}. Give --data FOLDER or set CRRL_DATA"):
        prepare(dataset, None, "default", STEPS)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=f"{tmp_path / 'none'} is not a folder"):
        prepare_folder(tmp_path / "none")


@pytest.mark.parametrize("dataset", ["folder", "st-gcn", "ntu60", "prepared"])
def test_a_file_is_no_folder(root: Path, dataset: str) -> None:
    with pytest.raises(CrrlError, match=r"0\.npy is not a folder: give --data .* the folder that holds"):
        prepare(dataset, root / "0.npy", "default", STEPS)


@pytest.mark.parametrize("dataset", ["ctr-gcn", "pyskl"])
def test_the_file_of_a_set_of_one_file_is_taken_if_it_is_there(root: Path, dataset: str) -> None:
    assert sources.data_root(dataset, root / "0.npy") == root / "0.npy"
    with pytest.raises(CrrlError, match=r"none\.npz is not a folder"):
        sources.data_root(dataset, root / "none.npz")


def test_a_manifest_of_another_kind_makes_no_prepared_folder(root: Path) -> None:
    (root / "manifest.json").write_text("{}")
    assert len(prepare_folder(root).clips) == 5
    with pytest.raises(CrrlError, match=r"was not prepared \(no meta\.json, frames\.npy\)"):
        prepare("prepared", root, "default", STEPS)


@pytest.mark.parametrize("view_joints", [None, (0, 1, 4, 8)], ids=["sensor's axes", "body's axes"])
def test_synthetic_needs_no_files_and_fills_minus_one_to_one(
    monkeypatch: pytest.MonkeyPatch, view_joints: tuple[int, int, int, int] | None
) -> None:
    monkeypatch.delenv("CRRL_DATA", raising=False)
    frames = prepare("synthetic", None, "cross-subject", Preprocessing(view_joints=view_joints)).clips.frames
    assert (frames.min(), frames.max()) == (-1, 1)


def test_synthetic_is_generated_in_whatever_folder_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("manifest.json", "meta.json", "frames.npy"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert len(prepare("synthetic", None, "cross-subject", STEPS).clips) > 0


@pytest.mark.parametrize(("dataset", "joints"), [("ntu60", "25 or 50"), ("cmu", "31"), ("prepared", "")])
def test_skeletons_that_cannot_be_the_data_sets_are_refused(
    root: Path, tmp_path: Path, dataset: str, joints: str
) -> None:
    prepare_whole("folder", root, tmp_path / "out")
    if not joints:
        assert prepare(dataset, tmp_path / "out", "default", STEPS).clips.num_joints == 5
        return
    with pytest.raises(CrrlError, match=f"out holds skeletons of 5 joints, those of {dataset} have {joints}: give"):
        prepare(dataset, tmp_path / "out", "default", STEPS)


def imported(module: str, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """The module and all of crrl.data that its import lines name, theirs included."""
    known |= {module}
    for node in ast.walk(ast.parse(Path(str(sys.modules[module].__file__)).read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("crrl.data"):
            for name in (f"{node.module}", *(f"{node.module}.{each.name}" for each in node.names)):
                if name in sys.modules and name not in {"crrl.data", "crrl.data.readers", *known}:
                    known = imported(name, known)
    return known


@pytest.mark.parametrize("name", registry.SOURCES)
def test_the_code_that_reads_a_set_is_all_that_its_reader_imports(name: str) -> None:
    source = registry.SOURCES[name]
    files = [Path(str(sys.modules[each].__file__)) for each in sorted(imported(source.code.__name__))]
    assert list(source.code_parts()) == [path.read_bytes() for path in files]
