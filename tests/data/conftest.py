"""Generated .skeleton files, as NTU RGB+D's owners describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

Frame = Sequence[tuple[int, np.ndarray]]
"""The bodies that one frame shows: (number, [25, 3])."""


def _text(frames: Sequence[Frame], newline: str = "\r\n") -> bytes:
    """A .skeleton file's content."""
    lines = [str(len(frames))]
    for frame in frames:
        lines.append(str(len(frame)))
        for number, joints in frame:
            lines += [f"{number} 0 1 1 0 2 0 -0.0347 0.2194 2", "25"]
            for x, y, z in joints.tolist():
                image = (
                    f"{256 + 366 * x / z:.4f} {212 - 366 * y / z:.4f} {960 + 1081 * x / z:.3f} {540 - 1081 * y / z:.3f}"
                )
                lines.append(f"{x:.7g} {y:.7g} {z:.7g} {image} -0.2059 0.0507 0.9691 -1.266e-05 2")
    return (newline.join(lines) + newline).encode()


def _person(seed: int, frames: int = 45) -> np.ndarray:
    """One body who stands before the sensor and sways, float32 [frames, 25, 3]."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(25, 3)) * (0.1, 0.5, 0.1) + (0, 0, 3)
    return (pose + rng.normal(scale=0.01, size=(frames, 25, 3)).cumsum(axis=0)).astype(np.float32)


def _frames(bodies: dict[int, np.ndarray], present: Callable[[int, int], bool] = lambda number, t: True) -> list[Frame]:
    """Frames of bodies [T_i, 25, 3] that all begin at 0; `present` says which of them is seen when."""
    length = max(map(len, bodies.values()))
    return [
        [(number, joints[t]) for number, joints in bodies.items() if t < len(joints) and present(number, t)]
        for t in range(length)
    ]


def _clutter(length: int, seed: int) -> np.ndarray:
    """What the sensor takes for a body and is none: wider than high, [length, 25, 3]."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(length, 25, 3)) * (0.5, 0.05, 0.1) + (0, 0, 3)).astype(np.float32)


def _write_ntu(root: Path, names: Sequence[str]) -> None:
    """Files of these names under root: one or two bodies, clutter, short-lived noise, frames that show nobody."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        bodies = {72057594037930000 + seed: _person(seed)}
        if int(name[17:20]) % 2 == 0:
            bodies[72057594037940000 + seed] = _person(seed + 1000)
        if seed % 3 == 0:
            bodies[72057594037950000 + seed] = _clutter(20, seed)
        if seed % 4 == 0:
            bodies[72057594037960000 + seed] = _person(seed + 2000, 5)
        gap = 5 + seed % 7
        (root / f"{name}.skeleton").write_bytes(_text(_frames(bodies, lambda number, t, gap=gap: t != gap)))


class NtuFiles:
    """What this module makes, for the tests."""

    text = staticmethod(_text)
    person = staticmethod(_person)
    frames = staticmethod(_frames)
    clutter = staticmethod(_clutter)
    write = staticmethod(_write_ntu)


@pytest.fixture(scope="session")
def ntu_files() -> type[NtuFiles]:
    return NtuFiles
