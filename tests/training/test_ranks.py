"""Several processes that train together under torchrun: the same weights as one, and what happens when one is lost."""

from __future__ import annotations

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


def both(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [*TORCHRUN, *arguments], {**ENVIRONMENT, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


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


# 40 training clips: batches of 16, 16 and 8; or of 13, 13, 13 and 1, of which the second rank has no clip.
@pytest.mark.parametrize(
    ("batch_sizes", "extra"),
    [(("16", "8"), ()), (("26", "13"), ("--no-drop-last",)), (("16", "8"), ("--method", "ser-distill-cml"))],
)
def test_two_ranks_give_the_weights_of_one(
    options: list[str], tmp_path: Path, batch_sizes: tuple[str, str], extra: tuple[str, ...]
) -> None:
    not_drawn = ["--dropout", "0", "--turn-yaw", "0", "--no-takes"]  # each rank draws its own
    options = [*options, "--recipe", "tuned", *not_drawn, *extra]
    one, two = tmp_path / "one", tmp_path / "two"
    train.main([*options, "--batch-size", batch_sizes[0], "--out", str(one)])
    result = both("-m", "crrl.train", *options, "--batch-size", batch_sizes[1], "--out", str(two))
    assert result.returncode == 0, result.stderr
    for name in ("encoder.safetensors", "teacher.safetensors"):
        # Weights of about 0.3; sums of the gradients in another order, carried through a dozen steps of Adam.
        assert largest_difference(one, two, name) < 2e-4
    assert len((one / "metrics.jsonl").read_text().splitlines()) == len(
        (two / "metrics.jsonl").read_text().splitlines()
    )


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_other_with_a_clear_error_and_a_checkpoint(
    options: list[str], tmp_path: Path, lost: int
) -> None:
    options = [*options, "--turn-yaw", "20", "--takes"]
    whole, cut, script = tmp_path / "whole", tmp_path / "cut", tmp_path / "killed.py"
    script.write_text(KILLED)
    assert both("-m", "crrl.train", *options, "--out", str(whole)).returncode == 0
    killed = both(str(script), *options, "--out", str(cut), LOST=str(lost))
    assert killed.returncode != 0
    assert "error: another rank is lost" in killed.stderr
    checkpoint = torch.load(cut / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == (
        4 if lost == 1 else 3
    )  # rank 0 writes one as it ends; else the last regular one stays
    with pytest.raises(CrrlError, match="is of 2 processes, here are 1"):
        train.main(["--resume", str(cut)])
    assert both("-m", "crrl.train", "--resume", str(cut)).returncode == 0
    assert largest_difference(whole, cut, "encoder.safetensors") == 0


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
    assert "stopped by SIGTERM; go on with" in errors
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] > 3
