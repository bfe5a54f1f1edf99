"""What all tests share: a cache of their own, the real data where there is any, repeatable property tests."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined: before any module that holds one is imported

with suppress(ImportError):  # without it the modules that need it are skipped
    from hypothesis import settings

    settings.register_profile("crrl", deadline=None, derandomize=True)
    settings.load_profile("crrl")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache of prepared sets."""
    monkeypatch.setenv("CRRL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that $CRRL_DATA names; without it the test is skipped."""
    root = os.environ.get("CRRL_DATA")
    if not root:
        pytest.skip("needs real data: set CRRL_DATA to its folder")
    return Path(root)
