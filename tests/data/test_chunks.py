"""Kept chunks: when one is read again, and how crrl prepare goes on with the data sets that are read in text."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crrl.data import chunks, packing, registry
from crrl.data.chunks import Chunk, Files, Place, Shown, keep_in, read_in_order
from crrl.data.packing import prepare_folder
from crrl.data.parallel import use_workers
from crrl.data.readers import cmu
from crrl.errors import CrrlError, Interrupted

COUNT = 20
"""Items of each data set, four to a chunk: five chunks."""

pytestmark = pytest.mark.filterwarnings("ignore:.* actions of PKU-MMD have no frame:UserWarning")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(packing, "CHUNK_FILES", 4)


def write_cmu(root: Path) -> list[Path]:
    """Two subjects of ten trials; all bones hang on the root and stand still."""
    bones = cmu.JOINTS[1:]
    fields = " direction 0 1 0\n length 2\n axis 0 0 0 XYZ\nend\n"
    skeleton = (
        ":units\n length 0.45\n angle deg\n:root\n order TX TY TZ RX RY RZ\n axis XYZ\n position 0 0 0\n"
        " orientation 0 0 0\n:bonedata\n"
        + "".join(f"begin\n id {number}\n name {name}\n{fields}" for number, name in enumerate(bones))
        + f":hierarchy\nbegin\nroot {' '.join(bones)}\nend\n"
    )
    paths = [root / f"{1 + n // 10:02}_{1 + n % 10:02}.amc" for n in range(COUNT)]
    for n, path in enumerate(paths):
        frames = "".join(f"{t}\nroot {n} {t} 0 0 {t} 0\n" for t in range(1, 3 + n % 3))
        path.write_text(f":FULLY-SPECIFIED\n:DEGREES\n{frames}")
    for subject in ("01", "02"):
        (root / f"{subject}.asf").write_text(skeleton)
    write_labels(root, paths)
    return paths


def write_bvh(root: Path) -> list[Path]:
    paths = [root / f"{n:02}.bvh" for n in range(COUNT)]
    for n, path in enumerate(paths):
        path.write_text(bvh_text("hips", [f"{n} {t} 2 45\n" for t in range(2 + n % 3)]))
    write_labels(root, paths)
    return paths


def bvh_text(root_joint: str, rows: list[str]) -> str:
    channels = "CHANNELS 4 Xposition Yposition Zposition Xrotation"
    joint = f"ROOT {root_joint}\n{{\nOFFSET 0 0 0\n{channels}\nEnd Site\n{{\nOFFSET 0 1 0\n}}\n}}\n"
    return f"HIERARCHY\n{joint}MOTION\nFrames: {len(rows)}\nFrame Time: 0.03\n{''.join(rows)}"


def write_labels(root: Path, paths: list[Path]) -> None:
    rows = "".join(f"{path.name},{'run' if n % 2 else 'walk'}\n" for n, path in enumerate(paths))
    (root / "labels.csv").write_text(f"file,label\n{rows}")


def write_pku(root: Path) -> list[Path]:
    """Videos of two actions; the second one shows nobody in every third video."""
    names = [f"{n:04}-L" for n in range(COUNT)]
    for folder in ("label", "skeleton"):
        (root / folder).mkdir()
    for n, name in enumerate(names):
        rows = np.random.default_rng(n).normal(size=(3, 150)).round(3)
        rows[2] *= n % 3 > 0
        text = "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist())
        (root / "skeleton" / f"{name}.txt").write_text(text)
        (root / "label" / f"{name}.txt").write_text("6,0,2,1\n7,2,3,1\n")
    sides = (", ".join(side) for side in (names[:9], names[9:]))
    (root / "cross-subject.txt").write_text("Training videos:\n{}\nValidation videos:\n{}\n".format(*sides))
    return [root / "skeleton" / f"{name}.txt" for name in names]


def write_ntu(root: Path, ntu_files: Any) -> list[Path]:
    """Clips of one body; every sixth file shows nobody."""
    paths = sorted(root / f"S001C00{1 + n % 3}P{n:03}R001A00{1 + n % 2}.skeleton" for n in range(1, COUNT + 1))
    for n, path in enumerate(paths):
        bodies = np.random.default_rng(n).normal((0, 0, 3), size=(2 + n % 3, 25, 3))
        path.write_bytes(ntu_files.text([[(1, joints)] if n % 6 else [] for joints in bodies]))
    return paths


WRITERS = {"cmu": write_cmu, "bvh": write_bvh, "pku-mmd": write_pku}
ntu_too = pytest.mark.parametrize("raw", [*WRITERS, "ntu60"], indirect=True)
"""NTU RGB+D's files are kept in chunks of arrays, by packing."""


class Raw:
    """A data set's raw files: all of them, and in `paths` one of each item."""

    def __init__(self, dataset: str, root: Path, ntu_files: Any = None):
        root.mkdir()
        self.dataset, self.root = dataset, root
        self.paths = WRITERS[dataset](root) if dataset in WRITERS else write_ntu(root, ntu_files)

    def prepare(self, out: Path, workers: int = 1) -> dict[str, bytes]:
        """What is in the prepared folder."""
        prepare_folder(self.dataset, self.root, out, workers=workers)
        assert not out.with_name(f"{out.name}.partial").exists()
        return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(params=list(WRITERS))
def raw(tmp_path: Path, request: pytest.FixtureRequest, ntu_files: Any) -> Raw:
    return Raw(request.param, tmp_path / "raw", ntu_files)


def watch(monkeypatch: pytest.MonkeyPatch, see: Callable[[int], object]) -> None:
    """Have `see` called with the number of a chunk's first item before this process makes it."""

    def watched(original: Callable[..., None]) -> Callable[..., None]:
        def make(*arguments: Any) -> None:
            see(int(arguments[-1].path.name[:6]))
            original(*arguments)

        return make

    monkeypatch.setattr(chunks, "_make", watched(chunks._make))
    monkeypatch.setattr(packing, "make_chunk", watched(packing.make_chunk))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that this process has made."""
    numbers: list[int] = []
    watch(monkeypatch, numbers.append)
    return numbers


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_by(stop: Callable[..., None], where: str, patch: pytest.MonkeyPatch) -> None:
    """Have `stop` called once three chunks of five are made, or once all are and the clips are joined."""
    if where == "reading":
        watch(patch, lambda first: stop() if first == 12 else None)
    else:
        patch.setattr(packing, "manifest_of", stop)


LEFT = {"reading": [12, 16], "joining": []}


@ntu_too
@pytest.mark.parametrize("where", LEFT)
def test_an_interrupted_preparation_goes_on_to_the_same_bytes(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int], where: str
) -> None:
    expected = raw.prepare(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_by(interrupt, where, patch)
        with pytest.raises(KeyboardInterrupt):
            raw.prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made.clear()
    assert raw.prepare(tmp_path / "out") == expected
    assert made == LEFT[where]


@ntu_too
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("where", LEFT)
def test_a_killed_preparation_goes_on_to_the_same_bytes(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int], where: str
) -> None:
    def run() -> None:
        stop_by(kill, where, monkeypatch)
        raw.prepare(tmp_path / "out")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    found = raw.prepare(tmp_path / "out")
    assert made == LEFT[where]
    assert found == raw.prepare(tmp_path / "whole")


def damage(path: Path) -> str:
    """Spoil the last number of a file; returns what the error says."""
    content = path.read_text()
    path.write_text(f"{content[:-2]},\n")
    return rf"/{path.name}, line {content.count(chr(10))}: '.*,' is not a finite number.* restore"


def test_a_refused_file_once_repaired_is_read_again_with_its_chunk(raw: Raw, tmp_path: Path, made: list[int]) -> None:
    content = raw.paths[9].read_text()
    message = damage(raw.paths[9])
    for _ in range(2):
        with pytest.raises(CrrlError, match=message):
            raw.prepare(tmp_path / "out")
    assert made == [0, 4, 8, 8]
    raw.paths[9].write_text(content)
    made.clear()
    found = raw.prepare(tmp_path / "out")
    assert made == [8, 12, 16]
    assert found == raw.prepare(tmp_path / "whole")


def test_workers_go_on_to_the_same_bytes_as_one_process(raw: Raw, tmp_path: Path) -> None:
    content = raw.paths[9].read_text()
    message = damage(raw.paths[9])
    with pytest.raises(CrrlError, match=message):
        raw.prepare(tmp_path / "out", workers=2)
    assert {path.name[:6] for path in (tmp_path / "out.partial").iterdir()} >= {"000000", "000004"}
    raw.paths[9].write_text(content)
    assert raw.prepare(tmp_path / "out", workers=2) == raw.prepare(tmp_path / "whole")


@pytest.fixture
def ready(raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]) -> Path:
    """Where a preparation was stopped that had made all chunks."""
    with monkeypatch.context() as patch:
        stop_by(interrupt, "joining", patch)
        with pytest.raises(KeyboardInterrupt):
            raw.prepare(tmp_path / "out")
    made.clear()
    return tmp_path / "out"


@ntu_too
def test_a_file_that_changed_is_read_again_with_its_chunk(
    raw: Raw, ready: Path, tmp_path: Path, made: list[int]
) -> None:
    raw.paths[9].write_bytes(raw.paths[10].read_bytes())
    found = raw.prepare(ready)
    assert made == [8]
    assert found == raw.prepare(tmp_path / "whole")


@pytest.mark.parametrize("changed", [True, False], ids=["of the same time", "touched"])
def test_each_file_of_an_item_counts_by_its_content_alone(
    raw: Raw, ready: Path, tmp_path: Path, made: list[int], changed: bool
) -> None:
    name, expected = {
        "cmu": ("01.asf", [0, 4, 8]),
        "bvh": ("13.bvh", [12]),
        "pku-mmd": ("label/0013-L.txt", [12]),
    }[raw.dataset]
    path = raw.root / name
    state = path.stat()
    if changed:
        path.write_bytes(path.read_bytes() + b"\n")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + (not changed)))
    found = raw.prepare(ready)
    assert made == (expected if changed else [])
    assert found == raw.prepare(tmp_path / "whole")


def test_other_code_reads_all_again(raw: Raw, ready: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]) -> None:
    monkeypatch.setattr(registry.Source, "code_parts", lambda self: [b"other code"])
    raw.prepare(ready)
    assert made == [0, 4, 8, 12, 16]


@ntu_too
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:300] + content[301:]])
def test_a_damaged_chunk_is_read_again(
    raw: Raw, ready: Path, tmp_path: Path, made: list[int], damage: Callable[[bytes], bytes]
) -> None:
    [path] = ready.with_name("out.partial").glob("000004-*.npz")
    path.write_bytes(damage(path.read_bytes()))
    found = raw.prepare(ready)
    assert made == [4]
    assert found == raw.prepare(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_skeleton_unlike_the_first_is_told_once_it_was_kept_too(tmp_path: Path, workers: int) -> None:
    raw = Raw("bvh", tmp_path / "raw")
    raw.paths[9].write_text(bvh_text("pelvis", ["9 1 2 45\n"]))
    for _ in range(2):
        with pytest.raises(CrrlError, match=r"/09\.bvh has another skeleton than .*/00\.bvh"):
            raw.prepare(tmp_path / "out", workers)


def test_what_is_not_prepared_is_not_kept_and_the_same_whoever_reads(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    source = registry.SOURCES[raw.dataset]
    assert source.load is not None
    found = []
    for workers in (1, 2):
        with use_workers(workers):
            found.append(source.load(source.find_files(raw.root)))
    one, two = found
    for name in ("frames", "offsets", "labels", "subjects", "views"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))
    assert (two.names, two.class_names) == (one.names, one.class_names)
    assert len(one) >= COUNT
    assert sorted(tmp_path.rglob("*")) == before


def test_who_stops_it_is_told_that_what_is_read_is_kept(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tyro", reason="tyro is not installed")
    from crrl import prepare

    def stop() -> None:
        raise Interrupted(signal.SIGINT)

    stop_by(stop, "reading", monkeypatch)
    command = [raw.dataset, "--data", str(raw.root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert prepare.main(command) == 128 + signal.SIGINT
    assert "stopped by SIGINT; what is read is kept: run the same command again" in capsys.readouterr().err


def test_a_chunk_is_whole_or_not_done_whichever_byte_is_damaged(tmp_path: Path) -> None:
    chunk = Chunk([], tmp_path / "chunk.npz")
    assert not chunk.is_done
    frames, facts = np.arange(12, dtype=np.float32).reshape(2, 2, 3), {"any": ["facts", 1]}
    chunk.write(frames, facts)
    content = chunk.path.read_bytes()
    seen = []
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
            chunk.path.write_bytes(damaged)
            seen.append((again := Chunk([], chunk.path)).is_done)
            if again.is_done:
                np.testing.assert_array_equal(again.frames(), frames)
                assert again.facts() == facts
    assert seen.count(False) > len(content)


@pytest.fixture
def items(tmp_path: Path) -> list[Files]:
    """Twenty items of two files each."""
    (tmp_path / "files").mkdir()
    items = [tuple(tmp_path / "files" / f"{n}.{kind}" for kind in "ab") for n in range(COUNT)]
    for path in (path for files in items for path in files):
        path.write_text(path.name)
    return items


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """A folder that chunks are kept in; two workers read."""
    folder = tmp_path / "kept"
    folder.mkdir()
    with keep_in(Place(folder, tmp_path, "code")), use_workers(2):
        yield folder


def number(files: Files) -> int:
    return int(files[0].stem)


def show(files: Files) -> Shown:
    """Of each item other counts of clips, frames and joints; with the process that read it."""
    n = number(files)
    return [([n, os.getpid()], np.full((n % 2, 1 + clip, 3), n, np.float32)) for clip in range(n % 3)]


def show_content(files: Files) -> Shown:
    return [(files[1].read_text(), np.zeros((1, 1, 3), np.float32))]


def show_undamaged(files: Files) -> Shown:
    if "damaged" in files[1].read_text():
        raise CrrlError(f"{files[1]} is damaged: restore it")
    return show(files)


def show_unless_killed(files: Files) -> Shown:
    if "kill" in files[1].read_text():
        kill()
    return show(files)


def read(items: list[Files], reader: Callable[[Files], Shown] = show) -> list[Shown]:
    with closing(read_in_order(reader, items, "read test")) as results:
        return list(results)


def processes(shown: list[Shown]) -> dict[int, int]:
    return {n: process for clips in shown for (n, process), _ in clips}


def test_clips_of_any_count_and_shape_come_in_order_read_or_kept(items: list[Files], kept: Path) -> None:
    first, second = read(items), read(items)
    for results in (first, second):
        assert len(results) == COUNT
        for n, clips in enumerate(results):
            assert [frames.shape for _, frames in clips] == [(n % 2, 1 + clip, 3) for clip in range(n % 3)]
            assert all((frames == n).all() and frames.dtype == np.float32 for _, frames in clips)
    assert processes(first) == processes(second)
    assert os.getpid() not in processes(first).values()
    assert len(list(kept.iterdir())) == 5


def test_files_are_told_apart_by_their_names(items: list[Files], kept: Path) -> None:
    """Those of one size and time, too, when they come in another order."""
    for path in (path for files in items for path in files):
        os.utime(path, ns=(0, 0))
    before = read(items, show_content)
    items[12:14] = items[13], items[12]
    after = read(items, show_content)
    assert (before[12][0][0], before[13][0][0]) == (after[13][0][0], after[12][0][0]) == ("12.b", "13.b")


def test_without_a_folder_nothing_is_kept(items: list[Files], kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt), keep_in(Place(folder, tmp_path, "code")):
        interrupt()
    read(items)
    assert list(folder.iterdir()) == []  # as before the block: in `kept`
    assert len(list(kept.iterdir())) == 5


def test_workers_read_what_is_missing_alone(items: list[Files], kept: Path) -> None:
    items[9][1].write_text("damaged")
    with pytest.raises(CrrlError, match=r"9\.b is damaged: restore it"):
        read(items, show_undamaged)
    assert multiprocessing.active_children() == []
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(before) >= 2
    items[9][1].write_text("repaired")
    assert [len(clips) for clips in read(items, show_undamaged)] == [n % 3 for n in range(COUNT)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(kept.iterdir())) == 5


def test_after_a_worker_was_killed_the_same_command_goes_on(items: list[Files], kept: Path) -> None:
    items[17][1].write_text("kill")
    with pytest.raises(CrrlError, match=r"a worker process was killed .*: run the same command again, it goes on"):
        read(items, show_unless_killed)
    before = {path.name for path in kept.iterdir()}
    assert before
    items[17][1].write_text("-")
    assert len(read(items, show_unless_killed)) == COUNT
    assert before <= {path.name for path in kept.iterdir()}


def test_the_bar_starts_at_what_is_kept(items: list[Files], kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(items)
    for path in list(kept.iterdir()):
        if not path.name.startswith(("000000", "000004")):
            path.unlink()
    capsys.readouterr()
    read(items)
    shown = capsys.readouterr().err
    assert "read test:  40%" in shown
    assert "8/20" in shown
    assert "20/20" in shown


def test_whoever_closes_early_has_no_workers_left(items: list[Files], kept: Path) -> None:
    with closing(read_in_order(show, items, "read test")) as results:
        next(results)
    assert multiprocessing.active_children() == []
    assert 1 <= len(list(kept.iterdir())) <= 5
