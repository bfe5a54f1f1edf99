"""Several processes that train together under torchrun: the same weights as one, and what happens when one is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crrl.training.ranks import Ranks

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import train
from crrl.errors import CrrlError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

EACH = """
import json, sys
import torch.distributed as dist
from crrl import train

dist.init_process_group("gloo")
for options in json.loads(sys.argv[1]):
    train.main(options)
dist.destroy_process_group()
"""

KILLED = """
import os, signal, sys
from crrl.errors import run_command
from crrl import train
from crrl.errors import CrrlError
from crrl.training import loop
from crrl.training.step import Step

loop.CHECKPOINT_EVERY = 3
step = Step.__call__

def killing(self, share, full):
    if self.phase.name == "cml" and self.number == 4 and share.rank == int(os.environ["LOST"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, share, full)

Step.__call__ = killing
sys.exit(run_command(train.main))
"""


def both(script: Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two ranks that run `code`, written to `script`."""
    script.write_text(code)
    command, env = [*TORCHRUN, str(script), *arguments], {**ENVIRONMENT, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def train_each(script: Path, *runs: list[str]) -> None:
    """Train by two ranks with each of these options, one after the other."""
    result = both(script, EACH, json.dumps(runs))
    assert result.returncode == 0, result.stderr


def largest_difference(one: Path, other: Path, name: str) -> float:
    weights, others = load_file(one / name), load_file(other / name)
    return float(torch.cat([(weights[key] - others[key]).abs().flatten() for key in weights]).max())


@pytest.mark.parametrize("clips", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_a_batch_are_the_batch(clips: int, size: int) -> None:
    batch = torch.arange(10, 10 + clips)
    shares = [Ranks(rank, size).share(clips) for rank in range(size)]
    taken = [share.of(batch)[: share.counts[share.rank]] for share in shares]
    assert torch.equal(torch.cat(taken), batch)
    assert all(len(share.of(batch)) == share.clips >= 1 for share in shares)
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert max(shares[0].counts) - min(shares[0].counts) <= 1


def test_one_process_waits_for_nobody() -> None:
    alone = Ranks()
    gradients, keys = torch.ones(3), torch.ones(2, 4)
    alone.sum_(gradients)
    assert torch.equal(gradients, torch.ones(3))
    assert alone.gather(keys, alone.share(2)) is keys


def test_two_ranks_give_the_weights_of_one(options: list[str], tmp_path: Path) -> None:
    not_drawn = ["--dropout", "0", "--turn-yaw", "0", "--no-takes"]  # each rank draws its own
    options = [*options, "--recipe", "tuned", *not_drawn]
    # 40 training clips: batches of 16, 16 and 8; or of 13, 13, 13 and 1, of which the second rank has no clip.
    runs = {"even": (16, []), "odd": (26, ["--no-drop-last"]), "distilled": (16, ["--method", "ser-distill-cml"])}
    ones, twos = (
        {
            name: [*options, *extra, "--batch-size", str(batch // ranks), "--out", str(tmp_path / f"{name}-{ranks}")]
            for name, (batch, extra) in runs.items()
        }
        for ranks in (1, 2)
    )
    for one in ones.values():
        train.main(one)
    train_each(tmp_path / "each.py", *twos.values())
    for name in runs:
        one, two = tmp_path / f"{name}-1", tmp_path / f"{name}-2"
        for file in ("encoder.safetensors", "teacher.safetensors"):
            # Weights of about 0.3; sums of the gradients in another order, carried through a dozen steps of Adam.
            assert largest_difference(one, two, file) < 2e-4, name
        assert len((one / "metrics.jsonl").read_text().splitlines()) == len(
            (two / "metrics.jsonl").read_text().splitlines()
        )


def test_a_killed_rank_ends_the_other_with_a_clear_error_and_a_checkpoint(options: list[str], tmp_path: Path) -> None:
    options = [*options, "--turn-yaw", "20", "--takes"]
    whole, cuts = tmp_path / "whole", [tmp_path / "cut-0", tmp_path / "cut-1"]
    for lost, cut in enumerate(cuts):
        killed = both(tmp_path / "killed.py", KILLED, *options, "--out", str(cut), LOST=str(lost))
        assert killed.returncode != 0
        assert "error: another rank is lost" in killed.stderr
        checkpoint = torch.load(cut / "checkpoint.pt", weights_only=True)
        # Rank 0 writes one as it ends; without it, the last regular one stays.
        assert checkpoint["step"] == (4 if lost == 1 else 3)
    with pytest.raises(CrrlError, match="was written by 2 processes, not 1"):
        train.main(["--resume", str(cuts[0])])
    train_each(tmp_path / "each.py", [*options, "--out", str(whole)], *(["--resume", str(cut)] for cut in cuts))
    for cut in cuts:
        assert largest_difference(whole, cut, "encoder.safetensors") == 0, cut.name


def test_a_signal_stops_all_ranks_after_the_same_step(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*TORCHRUN, "-m", "crrl.train", *options, "--epochs-cml", "5000", "--out", str(run)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopped by SIGTERM; resume with" in errors
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] > 3
