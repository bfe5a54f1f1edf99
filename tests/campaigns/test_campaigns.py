"""The campaigns in short: each comes to its end and finds nothing; and where there is a fault it is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")
if not hasattr(os, "fork") or not Path("/proc/self/statm").exists():
    pytest.skip("the campaigns fork, and read /proc", allow_module_level=True)

ROOT = Path(__file__).parents[2]
READERS = (
    "bvh asf amc cmu-labels pku-mmd ntu ntu-missing nw-ucla folder-labels folder-npy folder-npz folder-npz-inside "
    "ctr-gcn ctr-gcn-inside st-gcn pyskl coco openpose mediapipe pickles prepared config model encoder-inside "
    "classifier-inside"
)
QUICK_BOMBS = ("bvh: a joint", "folder: a header", "pickle: bytes", "ntu: 10^9", "nw-ucla: lists", "a pipe", "manifest")


def campaign(*arguments: str) -> tuple[int, str]:
    """The exit code and the last line of a campaign."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.campaigns", *arguments],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
    )  # fmt: skip
    return result.returncode, (result.stdout.splitlines() or [""])[-1] + result.stderr


PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fuzz", "--count", "80", "--reader", *READERS.split()), "25 readers, 2000 files"),
        (("bombs", "--only", *QUICK_BOMBS), " 0 faults"),
        (("kill", "--count", "3", "--only", "prepare-bvh"), " SIGKILLs"),
        (("disk", "--count", "2", "--only", "prepare-bvh"), "2 commands then done with the same bits"),
        (("threads", "--count", "1"), "150 calls in 10 threads, 0 with other bits"),
    ],
    ids=["fuzz", "bombs", "kill", "disk", "threads"],
)
def test_a_short_campaign_finds_nothing(arguments: tuple[str, ...], words: str) -> None:
    if arguments[0] == "threads":
        pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    code, said = campaign(*arguments)
    assert code == 0, said
    assert words in said
    assert "; seed 0" in said


BROKEN = """
import sys
import numpy as np
from crrl.data.readers import folder
from tests.campaigns import __main__ as campaigns

read = folder.read_clip

def broken(path):
    if path.name == 'clip.npy' and {when}:
        {what}
    return read(path)

folder.read_clip = broken
sys.argv = ["campaigns", "fuzz", "--count", "20", "--reader", "folder-npy"]
sys.exit(campaigns.main())
"""
FAULTS = {
    "wrong": ("True", "return read(path) + np.float32(1)"),
    "exception": ("True", "raise KeyError('lost')"),
    "memory": ("True", "np.empty(1 << 28)"),
    "crash": ("True", "import os; os.abort()"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    when, what = FAULTS[fault]
    result = subprocess.run(
        [sys.executable, "-c", BROKEN.format(when=when, what=what)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATH},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert f" {fault}" in result.stdout.splitlines()[-1]
    assert f"{fault}: --reader folder-npy --seed 0 --first " in result.stderr
