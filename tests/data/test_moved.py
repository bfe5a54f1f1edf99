"""Names of modules that are elsewhere now: `crrl.data.bvh` is `crrl.data.readers.bvh`."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import crrl.data

SCRIPT = """
from crrl.data.folder import read_clip
import crrl.data.pickles
from crrl.data import asf, bvh
from crrl.data.readers import asf as reader
assert reader is asf
print(read_clip.__module__, crrl.data.pickles.__name__, bvh.__name__)
"""


@pytest.mark.parametrize("name", crrl.data.MOVED)
def test_a_reader_is_one_module_by_both_names(name: str) -> None:
    reader = import_module(f"crrl.data.readers.{name}")
    assert reader.__name__ == f"crrl.data.readers.{name}"
    assert import_module(f"crrl.data.{name}") is reader
    assert getattr(crrl.data, name) is reader


def test_a_script_may_begin_with_an_old_name() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"crrl.data.readers.{name}" for name in ("folder", "pickles", "bvh")]
