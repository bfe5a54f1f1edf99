"""What all tests share: a cache, random numbers, real data if there is any, repeatable properties, an emulated GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.clips import write_walks

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


@pytest.fixture(autouse=True)
def _own_numbers() -> None:
    """A test draws the same numbers, and has subnormal ones, whichever tests its process ran before."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that $CRRL_DATA names; without it the test is skipped."""
    root = os.environ.get("CRRL_DATA")
    if not root:
        pytest.skip("needs real data: set CRRL_DATA to its folder")
    return Path(root)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 clips of 1 to 14 frames, 5 joints, 2 classes; 40 of them train."""
    return write_walks(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def small_run(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder on `clip_folder` with an untrained encoder of 16 features, evaluated by the linear protocol."""
    pytest.importorskip("tyro", reason="tyro is not installed")
    from crrl import evaluate
    from crrl.data import prepare
    from crrl.models import Encoder, FeatureExtractor
    from crrl.recipes import preset
    from crrl.runs import RunFolder, save_encoder

    run, config = RunFolder(tmp_path_factory.mktemp("small") / "run"), preset("folder")
    config = replace(config, data=clip_folder, encoder=replace(config.encoder, hidden_size=8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        prepared = prepare("folder", clip_folder, "default", config.preprocessing)
        run.create(config)
        torch.manual_seed(0)
        save_encoder(run.encoder_path, FeatureExtractor(Encoder(15, 8)), prepared, "crrl")
        evaluate.main([str(run.path)])
    return run.path


@pytest.fixture(scope="session")
def build() -> Callable[..., ModuleType]:
    """build.py's function, where there is a compiler."""
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("needs g++ on Linux")
    pytest.importorskip("pybind11", reason="pybind11 is not installed")
    function: Callable[..., ModuleType] = module_of("cuda/build.py").build
    return function


@pytest.fixture(scope="session")
def emulated(build: Callable[..., ModuleType]) -> ModuleType:
    """crrl._cuda with its kernels on this processor."""
    folder = Path(__file__).parents[1] / "csrc" / "cuda"
    sources = sorted(
        [*folder.glob("*.cpp"), *folder.glob("*.cu"), *(Path(__file__).parent / "cuda" / "host").glob("*.cpp")]
    )
    return build("crrl_cuda_host", sources, ["CRRL_EMULATED"])


@pytest.fixture
def use_as_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """use_as_cuda(native): have crrl.ops call it for crrl._cuda, from a state in which nothing has gone wrong yet."""
    from crrl.ops import cuda

    def use(native: Any) -> None:
        for name, value in {"native": native, "missing": None, "off": None, "_words": {}}.items():
            monkeypatch.setattr(cuda, name, value)
        forget_checks(monkeypatch)

    return use


@pytest.fixture
def fake_cuda(use_as_cuda: Callable[[Any], None]) -> Any:
    """crrl._cuda replaced by its definition on memory of the host (tests/ops/fake_cuda.py), for tensors on a CPU."""
    fake = module_of("ops/fake_cuda.py").FakeCuda()
    use_as_cuda(fake)
    return fake


def forget_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have crrl.ops.trust know no more than a process that has just begun."""
    from crrl.ops import trust

    monkeypatch.setattr(trust, "_verdicts", {})
    monkeypatch.setattr(trust, "_found", {})


@pytest.fixture
def fresh_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been checked in this process yet."""
    forget_checks(monkeypatch)


def module_of(name: str) -> ModuleType:
    """A file beside the tests as a module: no name imports it."""
    path = Path(__file__).parent / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
