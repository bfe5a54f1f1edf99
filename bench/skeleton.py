"""Reading a .skeleton file of NTU RGB+D, on one core: ours against the parsers one writes line by line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.rows import CRRL, Row, to_beat
from bench.timing import Absent, Contender, Entry
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


def entries() -> Iterator[partial[Entry]]:
    yield partial(entry)


def entry() -> Entry:
    folder = tempfile.TemporaryDirectory()  # goes with the last of its readers

    def path() -> Path:
        return Path(folder.name) / "clip.skeleton"

    path().write_text(skeleton_text())

    def joints_of(parse: Callable[[bytes], skeleton.SkeletonFile]) -> list[Tensor]:
        return [torch.tensor(body.joints) for body in parse(path().read_bytes()).bodies]

    def native() -> Contender:
        if cpu.missing is not None:
            raise Absent(cpu.missing)
        return Contender(lambda: joints_of(skeleton.parse), limit=0)

    by_hand = "line by line, all 12 numbers"
    builds = {
        CRRL: native,
        by_hand: lambda: Contender(lambda: [by_line(path(), 12)], limit=0),
        "line by line, x y z alone": lambda: Contender(lambda: [by_line(path(), 3)], limit=0),
        "crrl without C++": lambda: Contender(lambda: joints_of(skeleton.parse_by_line), limit=0),
    }
    row = Row(".skeleton file", f"one body, {FRAMES} frames; one core", bars=to_beat(by_hand))
    return Entry(row, builds, lambda: [by_line(path(), 12)])
