"""crrl prepare: what lies in a prepared folder, how it goes on after any stop, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data import Clips, Preprocessing, packing, parallel, prepared, registry, sources
from crrl.data.chunks import Chunk
from crrl.data.packing import prepare_folder
from crrl.data.readers import ntu
from crrl.errors import CrrlError, Interrupted
from tests.clips import write_clips

pytest.importorskip("tyro", reason="tyro is not installed")

from crrl import evaluate, prepare, train

NAMES = {
    "ntu60": [f"S001C{c:03}P{p:03}R001A{a:03}" for c, p, a in product((1, 2, 3), (1, 3), (1, 2, 50))],
    "ntu120": [f"S{s:03}C001P{p:03}R001A{a:03}" for s, p, a in product((17, 18), (45, 48), (61, 106, 120))],
}
NOBODY = "S002C001P001R001A007"


@pytest.fixture(scope="session")
def raw_folders(tmp_path_factory: pytest.TempPathFactory, ntu_files: Any) -> dict[str, Path]:
    """The raw files of either edition: bodies, clutter and gaps; one file that shows nobody."""
    root = tmp_path_factory.mktemp("ntu")
    for dataset, names in NAMES.items():
        ntu_files.write(root / dataset, names)
        (root / dataset / f"{NOBODY}.skeleton").write_bytes(ntu_files.text([[]] * 4))
    return {dataset: root / dataset for dataset in NAMES}


@pytest.fixture
def raw(raw_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NTU 60's raw files, as links that a test may replace, read four to a chunk: 19 files, 5 chunks."""
    monkeypatch.setattr(packing, "CHUNK_FILES", 4)
    folder = tmp_path / "raw"
    folder.mkdir()
    for path in raw_folders["ntu60"].iterdir():
        os.link(path, folder / path.name)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first file of each chunk that this process has read."""
    made: list[str] = []
    original = packing.make_chunk

    def make_chunk(dataset: str, root: Path, chunk: Chunk) -> None:
        made.append(chunk.items[0][0].stem)
        original(dataset, root, chunk)

    monkeypatch.setattr(packing, "make_chunk", make_chunk)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def prepare_ntu(raw: Path, out: Path, **options: Any) -> str:
    return prepare_folder("ntu60", raw, out, **{"workers": 1, **options})


def test_a_prepared_folder_holds_every_clip_and_says_so(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = prepare_ntu(raw, out)
    clips, manifest = prepared.load([out / "manifest.json"]), prepared.read_manifest(out)
    assert clips.names == tuple(sorted(NAMES["ntu60"]))
    for i, name in enumerate(clips.names):
        np.testing.assert_array_equal(clips.clip(i), ntu.read((raw / f"{name}.skeleton").read_bytes())[0])
    assert (manifest["clips"], manifest["frames"], manifest["joints"]) == (18, len(clips.frames), 50)
    assert manifest["splits"]["cross-subject"] == {"train": 9, "all": 9}
    assert manifest["splits"]["cross-view"] == {"train": 12, "all": 6}
    assert manifest["subjects"] == {"1": 9, "3": 9}
    assert manifest["classes"]["drink water"] == manifest["classes"]["punch person"] == 6
    assert manifest["dropped"] == {NOBODY: "shows nobody"}
    assert manifest["left_out"].keys() == {"frames without a body", "bodies too short", "bodies too wide"}
    assert "train 9, all 9 (differs from the official train 40091, all 16487)" in summary
    assert f"dropped {NOBODY}: shows nobody" in (out / "report.txt").read_text()


def test_inputs_are_listed_as_b2sum_lists_them(raw: Path, tmp_path: Path) -> None:
    prepare_ntu(raw, tmp_path / "out")
    listed = dict(line.split("  ")[::-1] for line in (tmp_path / "out" / "inputs.b2").read_text().splitlines())
    assert listed == {path.name: prepared.digest(path) for path in raw.iterdir()}


def test_inputs_of_any_name_are_listed_as_b2sum_lists_them(raw: Path, tmp_path: Path) -> None:
    """In folders called in Latin-1, with a backslash, or on two lines."""
    for number, name in enumerate([b"caf\xe9", b"a\\b", b"two\nlines"]):
        folder = os.path.join(os.fsencode(raw), name)
        os.mkdir(folder)
        moved = NAMES["ntu60"][number]
        os.rename(raw / f"{moved}.skeleton", os.path.join(folder, os.fsencode(f"{moved}.skeleton")))
    prepare_ntu(raw, tmp_path / "out")
    listed = (tmp_path / "out" / "inputs.b2").read_bytes()
    assert b"  caf\xe9/S001" in listed
    if shutil.which("b2sum"):
        checked = subprocess.run(
            ["b2sum", "-l", "128", "-c", tmp_path / "out" / "inputs.b2"], cwd=raw, capture_output=True
        )
        assert checked.returncode == 0, checked.stdout


def test_several_workers_give_the_same_bytes_as_one(raw: Path, tmp_path: Path) -> None:
    prepare_ntu(raw, tmp_path / "one")
    prepare_ntu(raw, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "raw", "two"]


def damage(raw: Path, name: str) -> None:
    lines = (raw / f"{name}.skeleton").read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b".", b",", 1)
    replace(raw / f"{name}.skeleton", b"".join(lines))


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_files_are_refused_by_file_and_line(raw: Path, tmp_path: Path, workers: int) -> None:
    first, _, second = sorted(NAMES["ntu60"])[4:7]
    damage(raw, second)
    with pytest.raises(CrrlError, match=rf"{second}.skeleton, line 8: '.*,.*' is no number: restore the file"):
        prepare_ntu(raw, tmp_path / "out", workers=workers)
    damage(raw, first)
    with pytest.raises(CrrlError, match=rf"{first}.skeleton, line 8: .* \(the first of 2 damaged files\)"):
        prepare_ntu(raw, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_a_raw_file_that_cannot_be_read_is_named_itself(raw: Path, tmp_path: Path) -> None:
    path = raw / f"{NAMES['ntu60'][3]}.skeleton"
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(CrrlError, match=f"^cannot read {path}: No such file or directory; check the path$"):
        prepare_ntu(raw, tmp_path / "out")


def test_damaged_files_can_be_dropped_with_their_reason(raw: Path, tmp_path: Path, read: list[str]) -> None:
    name = NAMES["ntu60"][5]
    damage(raw, name)
    with suppress(CrrlError):
        prepare_ntu(raw, tmp_path / "out")
    read.clear()
    summary = prepare_ntu(raw, tmp_path / "out", skip_damaged=True)
    assert read == []
    assert "dropped clips: 1 damaged" in summary
    assert prepared.read_manifest(tmp_path / "out")["dropped"][name].startswith("damaged, line 8: '")
    assert name not in Clips.open(tmp_path / "out").names


def test_listed_clips_are_left_out_unread(raw: Path, tmp_path: Path) -> None:
    name = NAMES["ntu60"][5]
    damage(raw, name)
    (tmp_path / "list.txt").write_text(f"these are missing:\n\n{name}\nS017C003P038R002A060\n")
    prepare_ntu(raw, tmp_path / "out", missing=[tmp_path / "list.txt"])
    assert prepared.read_manifest(tmp_path / "out")["dropped"][name] == "listed in list.txt"
    assert f"{name}.skeleton" not in (tmp_path / "out" / "inputs.b2").read_text()


def test_files_that_all_show_nobody_make_no_data_set(tmp_path: Path, ntu_files: Any) -> None:
    (tmp_path / f"{NOBODY}.skeleton").write_bytes(ntu_files.text([[]]))
    with pytest.raises(CrrlError, match="no clip of ntu60 is left of the 1 files"):
        prepare_ntu(tmp_path, tmp_path / "out")


def test_a_mistake_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"no \.skeleton files"):
        prepare_ntu(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=f"{tmp_path} already exists"):
        prepare_ntu(raw, tmp_path)


def test_of_two_at_once_with_one_out_the_second_is_refused(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused = tmp_path / "out", []
    original = packing.make_chunk

    def make_chunk(*arguments: Any) -> None:
        with pytest.raises(CrrlError) as error:
            prepare_ntu(raw, out)
        refused.append(str(error.value))
        original(*arguments)

    monkeypatch.setattr(packing, "make_chunk", make_chunk)
    prepare_ntu(raw, out)
    line = f"{out}.partial is in use by another crrl prepare: wait for it, then run the same command again"
    assert refused == [line] * 5
    assert len(prepared.load([out / "manifest.json"])) == 18
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_who_was_alone_just_before_has_made_it_already(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = packing.content_hash

    def overtaken(*arguments: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(packing, "content_hash", original)
            prepare_ntu(raw, tmp_path / "out")
        return original(*arguments)

    monkeypatch.setattr(packing, "content_hash", overtaken)
    with pytest.raises(CrrlError, match="out already exists"):
        prepare_ntu(raw, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_nothing_is_written_through_a_symbolic_link(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "000000-0.npz").touch()
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(CrrlError, match=r"out already exists: remove it"):
        prepare_ntu(raw, tmp_path / "out")
    with pytest.raises(CrrlError, match=r"\.\. already exists: remove it"):
        prepare_ntu(raw, tmp_path / "new" / "..")
    (tmp_path / "out").unlink()
    (tmp_path / "out.partial").symlink_to("own")
    with pytest.raises(CrrlError, match=r"out\.partial is a symbolic link"):
        prepare_ntu(raw, tmp_path / "out")
    assert contents(tmp_path / "own") == {"000000-0.npz": b""}


def test_what_killed_processes_left_of_chunks_goes_at_the_end(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    for name in ("000000-0.npz", ".000000-0.npz.123.tmp"):
        (tmp_path / "out.partial" / name).touch()
    prepare_ntu(raw, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    (tmp_path / "out.partial" / "whole").mkdir(parents=True)
    (tmp_path / "out.partial" / "000000-0.npz").touch()
    with pytest.raises(CrrlError, match="out already exists"):
        prepare_ntu(raw, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize("put_back", [False, True])
def test_a_file_that_changes_while_its_set_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_back: bool
) -> None:
    root = write_clips(tmp_path / "clips", ["sit"] * 5)
    source = registry.SOURCES["folder"]

    def load(files: list[Path]) -> Clips:
        (root / "3.npy").rename(root / "aside")
        np.save(root / "3.npy", np.ones((2, 5, 3)))
        (tmp_path / "out.partial" / "000000-0.npz").touch()  # kept of it, by its old name
        clips = source.load(files)
        if put_back:
            (root / "aside").rename(root / "3.npy")
        return clips

    with monkeypatch.context() as patch:
        patch.setitem(registry.SOURCES, "folder", dataclasses.replace(source, load=load))
        with pytest.raises(CrrlError, match=r"3\.npy changed while it was read: run the same command again"):
            prepare_folder("folder", root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]
    prepare_folder("folder", root, tmp_path / "out")


def test_an_unknown_source_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match=r"no data set 'ntu': choose from synthetic, ntu60, ntu120"):
        prepare_folder("ntu", tmp_path, tmp_path / "out")


@pytest.fixture
def ready(raw: Path, tmp_path: Path) -> Path:
    prepare_ntu(raw, tmp_path / "out")
    return tmp_path / "out"


STEPS = Preprocessing(max_frames=20, view_joints=(0, 1, 4, 8))


def test_a_prepared_set_is_read_once_however_often_it_is_used(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sources.prepare("ntu60", ready, "cross-view", STEPS)
    monkeypatch.setattr(prepared, "digest", lambda path: pytest.fail("reads the arrays again"))
    second = sources.prepare("ntu60", ready, "cross-view", STEPS)
    assert first.fingerprint == second.fingerprint
    assert isinstance(second.clips.frames, np.memmap)
    assert second.clips.lengths.max() == 20
    frames, _ = first.preprocessor.apply(*(np.load(ready / f"{name}.npy") for name in ("frames", "offsets")))
    np.testing.assert_array_equal(second.clips.frames, frames)


def test_raw_files_are_sent_to_prepare(raw: Path) -> None:
    with pytest.raises(CrrlError, match=f"python -m crrl.prepare ntu60 --data {raw} --out FOLDER"):
        sources.prepare("ntu60", raw, "cross-view", STEPS)


def test_a_prepared_folder_serves_its_own_data_set_and_prepared(ready: Path) -> None:
    assert len(sources.prepare("prepared", ready, "cross-view", STEPS).clips) == 18
    with pytest.raises(CrrlError, match="was prepared from ntu60, not nw-ucla"):
        sources.prepare("nw-ucla", ready, "cross-view", STEPS)


@pytest.mark.parametrize("name", ["frames.npy", "labels.npy", "meta.json"])
def test_a_prepared_folder_that_changed_is_refused(ready: Path, name: str) -> None:
    content = bytearray((ready / name).read_bytes())
    content[-3] ^= 1
    (ready / name).write_bytes(content)
    with pytest.raises(CrrlError, match=f"{name} is no longer what was prepared"):
        sources.prepare("ntu60", ready, "cross-view", STEPS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda manifest: manifest.pop("files"), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest.update(files=[1]), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest["files"].pop("frames.npy"), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest["files"].pop("meta.json"), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest.pop("dataset"), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest.update(dataset=3), "is damaged, it does not say what it stands for"),
        (lambda manifest: manifest["files"].update({"frames.npy": 3}), "names 'frames.npy', no file of its folder"),
        (lambda manifest: manifest["files"].update({"/dev/zero": "0"}), "names '/dev/zero', no file of its folder"),
        (lambda manifest: manifest["files"].update({"../x": "0"}), "names '../x', no file of its folder"),
        (lambda manifest: manifest["files"].update({"..": "0"}), r"names '\.\.', no file of its folder"),
        (lambda manifest: manifest["files"].update({"\ud800": "0"}), r"names '\?', no file of its folder"),
        (lambda manifest: manifest["files"].update({"x" * 5000: "0"}), "no file of its folder"),
        (lambda manifest: manifest["files"].update({"absent.npy": "0"}), "cannot read .*absent.npy"),
    ],
)
def test_a_manifest_names_the_files_of_its_folder_alone(
    ready: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    manifest = json.loads((ready / "manifest.json").read_text())
    change(manifest)
    (ready / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CrrlError, match=problem):
        sources.prepare("ntu60", ready, "cross-view", STEPS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("name", ["frames.npy", "labels.npy", "inputs.b2"])
def test_a_prepared_folder_holds_regular_files_alone(ready: Path, name: str, kind: str) -> None:
    (ready / name).unlink()
    if kind == "pipe":
        os.mkfifo(ready / name)
    else:
        (ready / name).symlink_to(kind)
    with pytest.raises(CrrlError, match=rf"{name} is not a regular file|was not prepared|prepared once from its raw"):
        sources.prepare("ntu60", ready, "cross-view", STEPS)


def test_a_prepared_folder_of_pointers_says_so(ready: Path) -> None:
    (ready / "frames.npy").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(CrrlError, match=r"frames\.npy is a git-lfs pointer, not a file of a prepared folder: fetch"):
        sources.prepare("ntu60", ready, "cross-view", STEPS)


def test_a_manifest_that_cannot_be_right_is_refused(ready: Path, tmp_path: Path) -> None:
    with pytest.raises(CrrlError, match="was not prepared"):
        sources.prepare("prepared", tmp_path, "cross-view", STEPS)
    (ready / "manifest.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(CrrlError, match=r"manifest\.json is damaged or of another version"):
        sources.prepare("ntu60", ready, "cross-view", STEPS)


def test_a_source_that_is_loaded_whole_is_prepared_too(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "clips", ["sit"] * 5)
    prepare_folder("folder", root, tmp_path / "out")
    steps = Preprocessing(max_frames=4)
    direct, via = (sources.prepare("folder", path, "default", steps) for path in (root, tmp_path / "out"))
    assert direct.fingerprint == via.fingerprint
    assert len((tmp_path / "out" / "inputs.b2").read_text().splitlines()) == 6
    with pytest.raises(CrrlError, match="--missing and --skip-damaged are for"):
        prepare_folder("folder", root, tmp_path / "other", skip_damaged=True)


def test_a_class_that_only_tests_is_told(tmp_path: Path) -> None:
    split = ["train"] * 3 + ["test"] * 2
    root = write_clips(tmp_path / "clips", ["sit", "run", "walk", "sit", "jump"], split=split)
    with pytest.warns(UserWarning, match=r"1 classes have test clips, but no training clip \(default: jump\)"):
        prepare_folder("folder", root, tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 3])
def test_the_reader_of_a_set_that_is_loaded_whole_is_told_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    told: list[int] = []
    source = registry.SOURCES["synthetic"]
    monkeypatch.setattr(parallel, "cores", lambda: 5)

    def load(files: list[Path]) -> Clips:
        told.append(parallel.processes_for(1000, 1000))
        return Clips.from_arrays([np.ones((2, 5, 3))], labels=[0], names=["a"], class_names=["any"])

    monkeypatch.setitem(registry.SOURCES, "synthetic", dataclasses.replace(source, load=load))
    prepare_folder("synthetic", None, tmp_path / "out", workers=workers)
    assert told == [workers or 5]
    assert parallel.processes_for(1000, 1000) == 5


@pytest.mark.parametrize(("whole", "said"), [(True, "nothing is kept"), (False, "what is read is kept")])
def test_a_stop_says_whether_anything_is_kept(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: bool,
    said: str,
) -> None:
    def stop(*arguments: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(packing, "manifest_of", stop)
    source = ["synthetic"] if whole else ["ntu60", "--data", str(raw), "--workers", "1"]
    assert prepare.main([*source, "--out", str(tmp_path / "out")]) == 128 + signal.SIGTERM
    assert f"stopped by SIGTERM; {said}: run the same command again" in capsys.readouterr().err


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A file of CTR-GCN's, among others: four clips of which the second shows nobody."""
    path = tmp_path / "raw" / "NTU60_CV.npz"
    path.parent.mkdir()
    values = np.random.default_rng(0).normal(size=(2, 8, 150)).astype(np.float32)
    labels = np.eye(2)
    np.savez(path, x_train=values * [[[1]], [[0]]], y_train=labels, x_test=values, y_test=labels)
    return path


@pytest.mark.filterwarnings("ignore:.* clips show no body:UserWarning")
def test_what_a_reader_leaves_out_is_in_manifest_and_report(npz: Path, tmp_path: Path) -> None:
    summary = prepare_folder("ctr-gcn", npz.parent, tmp_path / "out")
    assert "dropped clips: 1 shows nobody" in summary
    assert prepared.read_manifest(tmp_path / "out")["dropped"] == {"train[1]": "shows nobody"}
    assert "dropped train[1]: shows nobody" in (tmp_path / "out" / "report.txt").read_text().splitlines()
    assert len(Clips.open(tmp_path / "out")) == 3


@pytest.mark.filterwarnings("ignore:.* clips show no body:UserWarning")
@pytest.mark.parametrize("relative", [False, True])
def test_a_set_of_one_file_is_prepared_from_that_file_among_others(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    (npz.parent / "NTU60_CS.npz").touch()
    monkeypatch.chdir(npz.parent)
    prepare_folder("ctr-gcn", Path(npz.name) if relative else npz, tmp_path / "out")
    assert list(Clips.open(tmp_path / "out").splits) == ["cross-view"]
    digest = prepared.digest(npz)
    assert (tmp_path / "out" / "inputs.b2").read_text() == f"{digest}  NTU60_CV.npz\n"


OPTIONS = ["--device", "cpu", "--batch-size", "4", "--hidden-size", "4", "--queue-size", "6", "--epochs-cml", "1"]


@pytest.mark.parametrize(("dataset", "split"), [("ntu60", "cross-view"), ("ntu120", "cross-setup")])
def test_from_raw_files_to_accuracy(
    raw_folders: dict[str, Path], tmp_path: Path, dataset: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "out", tmp_path / "run"
    missing = tmp_path / "missing.txt"
    missing.write_text(f"{NAMES[dataset][0]}\n")
    command = [dataset, "--data", str(raw_folders[dataset]), "--out", str(out), "--missing", str(missing)]
    assert prepare.main([*command, "--workers", "2"]) == 0
    data = ["--dataset", dataset, "--data", str(out), "--split", split]
    assert train.main([*data, *OPTIONS, "--epochs-ser", "2", "--out", str(run)]) == 0
    capsys.readouterr()
    assert evaluate.main([str(run), "--protocol", "knn"]) == 0
    assert evaluate.main([str(run), "--protocol", "linear"]) == 0
    tested = len(Clips.open(out).split(split).test["all"])
    assert f"{dataset}, {split}" in capsys.readouterr().out
    accuracy = json.loads((run / "evaluation-linear.json").read_text())
    assert accuracy["test_clips"] == {"all": tested}
