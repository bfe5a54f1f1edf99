"""Reading a .skeleton file of NTU RGB+D, on one core: ours against the parsers one writes line by line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.rows import Row
from bench.timing import Contender
from crrl.data.readers import skeleton
from crrl.ops import cpu

FRAMES = 90
"""A usual clip of NTU RGB+D: 3 seconds of one body, some 240 kB of text."""


def skeleton_text() -> str:
    """One body whose numbers have as many digits as the sensor's."""
    rng = np.random.default_rng(0)
    lines = [str(FRAMES)]
    for _ in range(FRAMES):
        lines += ["1", "72057594037931101 0 1 1 0 2 0 -0.03473434 0.2194396 2", "25"]
        for x, y, z in rng.normal((0, 0, 3.5), 0.4, (25, 3)):
            seen = (x, y, z, 256 + 366 * x / z, 212 - 366 * y / z, 960 + 1081 * x / z, 540 - 1081 * y / z)
            lines.append(" ".join(f"{value:.7g}" for value in (*seen, *rng.uniform(-1, 1, 4))) + " 2")
    return "\r\n".join(lines) + "\r\n"


def by_line(path: Path, fields: int) -> Tensor:
    """[T, 25, 3] as code usually reads it, converting the first `fields` numbers of a joint; checks nothing."""
    bodies = []
    with open(path) as file:
        for _ in range(int(file.readline())):
            for _ in range(int(file.readline())):
                file.readline()
                joints = int(file.readline())
                bodies.append([[float(field) for field in file.readline().split()[:fields]] for _ in range(joints)])
    return torch.tensor(np.array(bodies, np.float32)[:, :, :3])


@pytest.mark.skipif(cpu.missing is not None, reason=cpu.missing or "")
def test_skeleton_file(compare: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "clip.skeleton"
    path.write_text(skeleton_text())

    def joints_of(parse: Callable[[bytes], skeleton.Skeleton]) -> list[Tensor]:
        return [torch.tensor(body.joints) for body in parse(path.read_bytes()).bodies]

    runs = {
        "crrl": lambda: joints_of(skeleton.parse),
        "line by line, all 12 numbers": lambda: [by_line(path, 12)],
        "line by line, x y z alone": lambda: [by_line(path, 3)],
        "crrl without C++": lambda: joints_of(skeleton.parse_by_line),
    }
    row = Row(".skeleton file", f"one body, {FRAMES} frames; one core", bar="line by line, all 12 numbers")
    compare(row, [Contender(name, run, limit=0) for name, run in runs.items()], [by_line(path, 12)])
