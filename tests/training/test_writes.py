"""A full disk at any write of a run, and two processes in one: a line, and nothing lost."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import evaluate, train
from crrl.errors import CrrlError
from crrl.files import Busy
from crrl.recipes import preset
from crrl.runs import RunFolder
from crrl.training import loop
from crrl.training.progress import Progress

FREE = resource.getrlimit(resource.RLIMIT_FSIZE)
FILLED = (0, FREE[1])


@contextmanager
def full_from(name: str, time: int) -> Iterator[None]:
    """The disk is full from the moment at which a file with this in its name is written for the so-manieth time."""
    times, open_file, explain = [], os.open, Progress._explain

    def count() -> None:
        times.append(1)
        if len(times) == time:
            resource.setrlimit(resource.RLIMIT_FSIZE, FILLED)

    def opening(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and name in Path(path).name:
            count()
        return open_file(path, flags, *rest, **more)

    def explaining(self: Progress) -> Any:
        if name == "events":
            count()
        return explain(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opening)
        patch.setattr(Progress, "_explain", explaining)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, FREE)


@pytest.fixture(scope="module", autouse=True)
def a_failed_thread_is_silent() -> Iterator[None]:
    """TensorBoard writes from a thread, whose error reaches the command too.

    pytest's hook would format a traceback there while the next command starts, and CPython before 3.11.8 fails to parse
    Python in two threads at once (gh-106905).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda failed: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def checkpoints_within_phases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY", 3)
        yield


def content(run: Path, name: str) -> bytes:
    return (run / name).read_bytes()


@pytest.fixture(scope="module")
def whole(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train.main([*small(clip_folder), "--out", str(run)])
    return run


def small(clips: Path) -> list[str]:
    """Both phases, an epoch each, with checkpoints within."""
    return [
        *("--dataset", "folder", "--data", str(clips), "--device", "cpu", "--batch-size", "8", "--hidden-size", "8"),
        *("--queue-size", "12", "--epochs-cml", "2", "--epochs-ser", "1"),
    ]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("config.json", 1),
        ("metrics.jsonl", 1),
        ("metrics.jsonl", 3),
        ("events", 1),
        ("events", 3),
        ("checkpoint.pt", 1),
        ("checkpoint.pt", 3),
        ("teacher.safetensors", 1),
        ("encoder.safetensors", 1),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_to_the_same_bits(
    whole: Path, clip_folder: Path, tmp_path: Path, name: str, time: int
) -> None:
    run = tmp_path / "run"
    command = [*small(clip_folder), "--out", str(run)]
    with full_from(name, time), pytest.raises(CrrlError, match=r"; free some disk space") as caught:
        train.main(command)
    assert str(run) in str(caught.value)
    assert name in str(caught.value)
    assert not list(run.glob(".*.tmp"))
    train.main(["--resume", str(run)] if name != "config.json" else command)
    for file in ("encoder.safetensors", "teacher.safetensors"):
        assert content(run, file) == content(whole, file)
    assert content(run, "metrics.jsonl").count(b"\n") == content(whole, "metrics.jsonl").count(b"\n")


def test_a_full_disk_at_an_evaluation_leaves_the_last_one(whole: Path, clip_folder: Path) -> None:
    command = [str(whole), "--protocol", "knn", "--data", str(clip_folder)]
    evaluate.main(command)
    before = content(whole, "evaluation-knn.json")
    with full_from("evaluation-knn.json", 1), pytest.raises(CrrlError, match=r"evaluation-knn.*free some disk space"):
        evaluate.main(command)
    assert content(whole, "evaluation-knn.json") == before


def test_a_second_process_in_a_run_is_refused(whole: Path, clip_folder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(Busy, match=f"^{run.path} is in use by another process"):
        train.main([*small(clip_folder), "--out", str(run.path)])
    with full_from("encoder.safetensors", 1), pytest.raises(CrrlError):
        train.main([*small(clip_folder), "--out", str(run.path)])
    with run.lock(), pytest.raises(Busy):
        train.main(["--resume", str(run.path)])
    with RunFolder(whole).lock(), pytest.raises(Busy):
        evaluate.main([str(whole), "--protocol", "knn", "--data", str(clip_folder)])
    with RunFolder(whole).lock(shared=True):
        evaluate.main([str(whole), "--protocol", "knn", "--data", str(clip_folder)])


def test_a_folder_that_another_run_took_meanwhile_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.create(preset())
    train.claim(run, preset())
    with pytest.raises(CrrlError, match=f"another process has started a run in {tmp_path} meanwhile"):
        train.claim(run, preset("synthetic", "tuned"))


def test_a_checkpoint_of_other_content_is_one_line(clip_folder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with full_from("teacher.safetensors", 1), pytest.raises(CrrlError):
        train.main([*small(clip_folder), "--out", str(run.path)])
    whole = run.load_checkpoint()
    assert whole is not None
    group = {**whole["optimizer"]["param_groups"][0], "lr": "fast"}
    wrong = {
        "step": [10**6],
        "module": [{}, {"a": 1}],
        "optimizer": [{}, {"state": 1, "param_groups": 2}, {"state": {}, "param_groups": [{}]}],
        "rng": [whole["rng"][:5], whole["rng"].double()],
        "sums": [whole["sums"][:0]],
        "phase": ["x"],
        "ranks": [2],
    }
    for key, values in wrong.items():
        for value in values:
            run.save_checkpoint({**whole, key: value})
            with pytest.raises(CrrlError, match=str(run.checkpoint_path)):
                train.main(["--resume", str(run.path)])
    run.save_checkpoint({**whole, "optimizer": {**whole["optimizer"], "param_groups": [group]}})
    assert train.main(["--resume", str(run.path)]) == 0, "settings are the configuration's"
