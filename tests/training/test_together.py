"""Runs side by side in one process: each has the bits that it has alone, its own files, and its own end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import train
from crrl.errors import CrrlError
from crrl.ops import cpu
from crrl.recipes import preset
from crrl.runs import RunFolder
from crrl.training import runs_that_help, trainer, turns
from tests.training.runs import metrics, stop_after

FUSED = pytest.param("--fused", marks=pytest.mark.skipif(cpu.missing is not None, reason="no C++ extension"))
MIXED = (["--seed", "0"], ["--seed", "1"], ["--method", "cml-ser-joint"], ["--method", "ser", "--epochs-ser", "1"])
"""Two seeds and three methods, of one phase and of two, with dropout and turns, one of them soon done."""
Alone = Callable[[list[str]], Path]


@pytest.fixture
def drawing(options: list[str]) -> list[str]:
    return [*options, "--dropout", "0.3", "--turn-yaw", "30"]


def together(options: list[str], runs: Sequence[list[str]], folder: Path) -> int:
    """Begin the runs, or go on with those that have begun; run number N is in folder/N."""
    words: list[str] = []
    for number, own in enumerate(runs):
        path = folder / str(number)
        begun = (path / "config.json").exists()
        words += ["--", *(["--resume", str(path), "--no-evaluate"] if begun else [*options, *own, "--out", str(path)])]
    return train.main(words[1:])


def assert_same(got: Path, want: Path) -> None:
    assert metrics(got) == metrics(want)
    for name in ("encoder.safetensors", "teacher.safetensors"):
        assert (got / name).exists() == (want / name).exists()
        assert not (want / name).exists() or (got / name).read_bytes() == (want / name).read_bytes()
    ours, theirs = (RunFolder(path).load_checkpoint() for path in (got, want))
    assert ours is not None
    assert theirs is not None
    assert ours["step"] == theirs["step"]
    assert torch.equal(ours["rng"], theirs["rng"])
    for name, value in theirs["module"].items():
        assert torch.equal(ours["module"][name], value), name
    torch.testing.assert_close(ours["optimizer"], theirs["optimizer"], rtol=0, atol=0)


@pytest.mark.parametrize("backends", ["--no-fused", FUSED])
def test_every_run_has_the_bits_that_it_has_alone(
    drawing: list[str], undisturbed: Alone, tmp_path: Path, backends: str
) -> None:
    drawing = [*drawing, backends]
    state = torch.get_rng_state()
    assert together(drawing, MIXED, tmp_path) == 0
    assert torch.equal(torch.get_rng_state(), state), "the process keeps its own random numbers"
    for number, own in enumerate(MIXED):
        assert_same(tmp_path / str(number), undisturbed([*drawing, *own]))
        assert list((tmp_path / str(number)).glob("events.*"))


def test_their_steps_take_turns_on_the_same_tensors(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    original = train.Trainer.train

    def noted(self: train.Trainer) -> object:
        for _ in original(self):
            made.append((self.config.seed, id(self.tensors.frames)))
            yield

    monkeypatch.setattr(train.Trainer, "train", noted)
    together(options, MIXED[:2], tmp_path)
    seeds, tensors = zip(*made, strict=True)
    assert seeds == (0, 1) * 25
    assert len(set(tensors)) == 1


@pytest.mark.parametrize("steps", [7, 36], ids=["cml", "ser"])
def test_a_signal_stops_all_after_their_step_and_they_go_on_with_the_same_bits(
    drawing: list[str],
    undisturbed: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps, lambda: signal.raise_signal(signal.SIGINT))
        assert together(drawing, MIXED[:2], tmp_path) == 128 + signal.SIGINT
    assert "stopped by SIGINT" in capsys.readouterr().err
    done = [RunFolder(tmp_path / name).load_checkpoint()["step"] for name in "01"]  # type: ignore[index]
    assert abs(done[0] - done[1]) <= 1
    assert together(drawing, MIXED[:2], tmp_path) == 0
    for number, own in enumerate(MIXED[:2]):
        assert_same(tmp_path / str(number), undisturbed([*drawing, *own]))


def test_a_signal_in_the_first_runs_first_step_begins_no_other(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop_after(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGTERM))
    assert together(options, MIXED[:2], tmp_path) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "0" / "checkpoint.pt").exists()
    assert not (tmp_path / "1" / "config.json").exists()


@pytest.mark.parametrize("error", [CrrlError("the disk is full"), RuntimeError("a bug")])
def test_one_that_fails_says_so_in_its_log_and_the_others_go_on(
    drawing: list[str],
    undisturbed: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    save = RunFolder.save_checkpoint

    def failing(self: RunFolder, state: dict[str, object]) -> None:
        if self.path.name == "1" and state["step"] == 9:
            raise error
        save(self, state)

    monkeypatch.setattr(RunFolder, "save_checkpoint", failing)
    assert together(drawing, MIXED[:3], tmp_path) == 2
    assert f"failed: {tmp_path / '1'}: " in capsys.readouterr().err
    logs = [(tmp_path / name / "train.log").read_text() for name in "012"]
    assert str(error) in logs[1].splitlines()[-1]
    assert ("Traceback" in logs[1]) == isinstance(error, RuntimeError)
    assert str(error) not in logs[0] + logs[2]
    for number in (0, 2):
        assert_same(tmp_path / str(number), undisturbed([*drawing, *MIXED[number]]))


def test_a_loss_that_is_no_longer_finite_ends_its_run_alone(options: list[str], tmp_path: Path) -> None:
    assert together(options, [["--lr-cml", "1e9", "--weight-decay", "1"], ["--seed", "1"]], tmp_path) == 2
    assert "error: the training of cml is no longer finite" in (tmp_path / "0" / "train.log").read_text()
    assert (tmp_path / "1" / "encoder.safetensors").exists()


def test_each_log_has_its_own_run(options: list[str], tmp_path: Path) -> None:
    assert together(options, MIXED, tmp_path) == 0
    for number, own in enumerate(MIXED):
        log = (tmp_path / str(number) / "train.log").read_text()
        assert "\x1b" not in log, "no bar moves the cursor past another run's"
        assert log.startswith(f"{own[1] if own[0] == '--method' else 'crrl'}, recipe paper, on folder")
        assert all(str(tmp_path / str(other)) not in log for other in range(len(MIXED)) if other != number)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (["--out", "a"], [], "need --out or --resume each"),
        (["--out", "a"], ["--out", "b", "--fused"], "share one device and its backends"),
    ],
)
def test_what_cannot_share_a_process_is_refused(
    options: list[str],
    one: list[str],
    other: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrrlError, match=message):
        train.main([*options, *one, "--", *options, *other])
    assert not list(tmp_path.iterdir())


class Default:
    """A GPU's default generator, which has a state that can be put in its place: a list, drawn from by adding to it."""

    def __init__(self) -> None:
        self.state: list[str] = ["seed"]

    def clone_state(self) -> list[str]:
        return list(self.state)

    def graphsafe_get_state(self) -> list[str]:
        return self.state

    def graphsafe_set_state(self, state: list[str]) -> None:
        self.state = state


class Stream:
    current: Stream | None = None

    def __init__(self, *_: object) -> None:
        self.waited: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited.append(other)

    def __enter__(self) -> None:
        Stream.current = self

    def __exit__(self, *_: object) -> None:
        Stream.current = None


def test_on_a_gpu_each_has_a_stream_and_a_state_of_random_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    default, seen = Default(), []
    shared = default.state
    monkeypatch.setattr(torch.cuda, "default_generators", (default,))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: "the process's")

    def work(name: str) -> object:
        for step in range(3):
            default.state.append(f"{name}{step}")
            seen.append((name, Stream.current, default.state))
            yield

    with open(tmp_path / "log", "w") as log:
        everyone = [turns.Turns(work(name), torch.device("cuda", 0), log) for name in "ab"]  # type: ignore[arg-type]
        turns.take_turns(everyone, lambda *_: pytest.fail("none fails"))
    assert [name for name, _, _ in seen] == list("ababab")
    for name in "ab":
        ((stream, state),) = {id(s): (s, t) for n, s, t in seen if n == name}.values()
        assert state == ["seed", f"{name}0", f"{name}1", f"{name}2"]
        assert isinstance(stream, Stream)
        assert stream.waited == ["the process's"]
        assert len({id(t) for n, _, t in seen if n == name}) == 1, "the state that a graph would keep"
    assert seen[0][1] is not seen[1][1]
    assert default.state is shared
    assert shared == ["seed"]


@pytest.mark.parametrize(
    ("step", "kernels", "many"), [("eager", True, 1), ("captured", False, 4), ("captured", True, 2)]
)
def test_as_many_help_as_fill_the_gpu(monkeypatch: pytest.MonkeyPatch, step: str, kernels: bool, many: int) -> None:
    """Of 132 multiprocessors, where a backward recurrence keeps 64."""
    card = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(trainer, "fast_paths", lambda *_: {"step": (step, "")})
    monkeypatch.setattr(trainer.gru, "supports", lambda _: (kernels, ""))
    monkeypatch.setattr(trainer.gru, "backward_blocks", lambda *_: 64)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert runs_that_help(preset("synthetic", "tuned"), torch.device("cuda", 0)) == many
