"""The kernels for tile registers, on any processor: built with tests/ops/host/tile.hpp for the tile instructions."""

from __future__ import annotations

import platform
import shutil
import zlib
from pathlib import Path

import pytest
import torch

from crrl.ops import cpu
from tests.cuda.build import ROOT, build
from tests.ops.test_gru_backends import SIZES, errors

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("g++"), reason="no g++, or another processor than x86-64"
)

STAND_IN = Path(__file__).parent / "host" / "tile.hpp"


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """crrl._cpu with the stand-in, made to use it."""
    version = zlib.crc32(STAND_IN.read_bytes())  # what it was compiled of decides whether it is compiled again
    defines = [f'CRRL_TILE_STAND_IN="{STAND_IN}"', f"CRRL_TILE_STAND_IN_VERSION={version}", "_cpu=_cpu_of_tiles"]
    module = build("_cpu_of_tiles", sorted((ROOT / "csrc" / "cpu").glob("*.cpp")), defines, ["-pthread", "-O0"])
    monkeypatch.setattr(cpu, "native", module)
    monkeypatch.setattr(cpu, "BEST", {False: "amx", True: "amx"})
    monkeypatch.setattr(cpu, "isa", "amx")


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("tiles")
def test_float32_by_tiles_is_the_reference_up_to_rounding(
    size: tuple[list[int], int, int, int, bool], repeated: bool
) -> None:
    for error, _, norm in errors(torch.float32, size, with_h0=True, reverse=True, repeated=repeated):
        assert error <= 2e-6 * norm


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("tiles")
def test_bfloat16_by_tiles_errs_no_more_than_twice_what_the_reference_does(
    size: tuple[list[int], int, int, int, bool],
) -> None:
    for error, own, norm in errors(torch.bfloat16, size, with_h0=True, reverse=True):
        assert error <= 2 * own + 1e-6 * norm
