"""The commands that `kill` and `disk` disturb: small, in processes that are forked once all is imported."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from crrl import prepare, reproduce, train
from crrl.data.readers import synthetic
from crrl.errors import run_command
from crrl.reproduction.campaign import AGAIN
from crrl.training import loop
from tests.campaigns import guard
from tests.clips import write_walks

TRAINING = (
    *("--batch-size", "8", "--hidden-size", "8", "--queue-size", "12"),
    *("--epochs-cml", "3", "--epochs-ser", "2"),
)
"""5 steps an epoch."""


@dataclass(frozen=True)
class Command:
    """A command that is given again until it is done.

    Attributes:
        begin: starts it in a folder, new or left by an attempt before; returns its processes.
        result: what it leaves there when it is done, by name.
        cost: how many times one of `train`'s attempts it takes, about.
        within: kills come within this many times the time it takes in peace: the less, the more of them.
        busy: what it says, and ends, where a process that a killed one has started is still at work.
        made: what it says, and ends, where one that was killed had done all of it.
    """

    begin: Callable[[Path], list[int]]
    result: Callable[[Path], dict[str, str]]
    cost: int = 1
    within: float = 1.2
    busy: str = ""
    made: str = ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _of_run(run: Path) -> dict[str, str]:
    """A run's weights and metrics, but for the pace."""
    found = {name: _digest((run / name).read_bytes()) for name in ("encoder.safetensors", "teacher.safetensors")}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return found | {"metrics": str([{**each, "clips_per_second": 0} for each in metrics])}


def _of_folder(folder: Path) -> dict[str, str]:
    """A prepared folder's files; nothing of an attempt may be left beside it."""
    beside = [path.name for path in folder.parent.iterdir() if path.name not in (folder.name, "cache")]
    return {"beside": str(beside)} | {path.name: _digest(path.read_bytes()) for path in folder.iterdir()}


def _of_pages(root: Path) -> dict[str, str]:
    """The pages' numbers, and the weights of all runs."""
    weights = {str(path.relative_to(root)): path for path in root.rglob("*.safetensors")}
    pages = {path.name: path for path in (root / "runs" / "pages").glob("*.csv")}
    tests = {str(path.relative_to(root)): path for path in root.rglob("evaluation-*.json")}
    return {name: _digest(path.read_bytes()) for name, path in {**weights, **pages, **tests}.items()}


def _in_process(root: Path, main: Callable[[], int | None], **environment: str) -> int:
    """A command in a process of its own, with a cache in `root`; what it says goes to `root`/output."""

    def work() -> int:
        os.environ.update({"CRRL_CACHE": str(root / "cache"), **environment})
        loop.CHECKPOINT_EVERY = 3  # in mid-epoch
        with open(root.with_name("output"), "ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        return run_command(main)

    return guard.start(work, quiet=False)


def _train(root: Path, data: Path, *more: str) -> Callable[[], int]:
    run = root / "run"
    again = (run / "config.json").exists()
    new = ["--dataset", "folder", "--data", str(data), "--device", "cpu", *TRAINING, *more, "--out", str(run)]
    options = ["--resume", str(run), "--device", "cpu"] if again else new
    return lambda: train.main([*options, "--no-evaluate"])


def _begin_ranks(root: Path, data: Path) -> list[int]:
    """Two processes as torchrun starts them; without dropout, of which a rank that goes on draws another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    main = _train(root, data, "--dropout", "0")
    return [_in_process(root, main, RANK=str(rank), LOCAL_RANK=str(rank), **places) for rank in range(2)]


def _prepare(source: str, root: Path, data: Path) -> list[int]:
    arguments = [source, "--data", str(data), "--out", str(root / "made"), "--workers", "2"]
    return [_in_process(root, lambda: prepare.main(arguments))]


def _reproduce(root: Path, data: Path) -> list[int]:
    arguments = ["table4", "--dataset", "folder", "--data", str(data), "--quick", "--device", "cpu"]
    return [_in_process(root, lambda: reproduce.main([*arguments, "--runs", str(root / "runs")]))]


def _ntu(root: Path) -> Path:
    """600 short .skeleton files: three chunks."""
    root.mkdir()
    clips = synthetic.generate()
    for place in range(600):
        joints = clips.clip(place % len(clips))[:4]
        text = [str(len(joints))]
        for frame in joints:
            text += ["1", "7 0 1 1 0 2 0 -0.03 0.2 2", "25"]
            text += [f"{x:.5f} {y:.5f} {z:.5f} 0 0 0 0 0 0 0 1 2" for x, y, z in frame.tolist()]
        name = f"S001C{1 + place % 3:03}P{1 + place // 300:03}R{1 + place // 150 % 2:03}A{1 + place // 3 % 50:03}"
        (root / f"{name}.skeleton").write_text("\n".join(text) + "\n")
    return root


def _bvh(root: Path) -> Path:
    """40 BVH files of one joint and its tip."""
    root.mkdir()
    head = "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\nCHANNELS 3 Zrotation Xrotation Yrotation\n"
    head += "End Site\n{\nOFFSET 0 1 0\n}\n}\n"
    rows = ["file,label"]
    for place in range(40):
        motion = "".join(f"{place} {frame} 1.5\n" for frame in range(20))
        (root / f"{place}.bvh").write_text(f"{head}MOTION\nFrames: 20\nFrame Time: 0.03\n{motion}")
        rows.append(f"{place}.bvh,{'left' if place % 2 else 'right'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def build(work: Path) -> dict[str, Command]:
    """The commands by name; `work` keeps the files that they read."""
    torch.set_num_threads(1)  # threads do not outlive a fork
    own, ntu, bvh = write_walks(work / "own"), _ntu(work / "ntu"), _bvh(work / "bvh")
    prepared = partial(Command, result=lambda root: _of_folder(root / "made"), made="made already exists")
    return {
        "train": Command(lambda root: [_in_process(root, _train(root, own))], lambda root: _of_run(root / "run")),
        "prepare-ntu": prepared(lambda root: _prepare("ntu60", root, ntu)),
        "prepare-bvh": prepared(lambda root: _prepare("bvh", root, bvh)),
        "ranks": Command(lambda root: _begin_ranks(root, own), lambda root: _of_run(root / "run"), 5),
        "reproduce": Command(lambda root: _reproduce(root, own), _of_pages, 3, 0.4, AGAIN),
    }
