"""The arrows of ARCHITECTURE.md: who may import whom."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "crrl"

ALLOWED = {
    "errors": set(),
    "bars": set(),
    "files": {"errors"},
    "facts": {"files", "errors"},
    "reference": set(),
    "kernels": set(),
    "ops": {"reference", "kernels", "files", "errors", "_cpu", "_cuda"},
    "nn": {"ops", "reference"},
    "optim": {"ops"},
    "models": {"optim", "nn", "ops", "reference", "errors"},
    "data": {"bars", "ops", "reference", "facts", "files", "errors"},
    "methods": set(),
    "config": {"data", "facts", "errors", "methods", "models"},
    "recipes": {"config", "data"},
    "device": {"errors"},
    "sealed": {"facts", "files", "errors"},
    "runs": {"config", "data", "methods", "models", "sealed", "facts", "files", "errors"},
    "classifier": {"data", "models", "runs", "sealed", "files", "errors"},
    "features": {"bars", "ops", "config", "data", "models"},
    "training": {"bars", "ops", "optim", "config", "methods", "data", "models", "features", "runs", "files", "errors"},
    "evaluation": {
        *("bars", "ops", "optim", "classifier", "config", "recipes", "data", "models", "features", "runs", "errors"),
    },
    "reproduction": {
        *("bars", "evaluation", "features", "runs", "config", "recipes", "device", "methods"),
        *("data", "facts", "files", "errors"),
    },
    "embedding": {"bars", "classifier", "data", "models", "features", "runs", "files", "errors"},
    "exporting": {"embedding", "classifier", "nn", "ops", "reference", "data", "models", "errors"},
    "given": {"bars", "data", "runs", "files", "errors"},
    "card": {"config", "data", "evaluation", "methods", "runs", "files", "errors"},
    "reporting": {"evaluation", "runs", "config", "methods", "models", "data", "files", "errors"},
}
"""For each room the rooms it may import; the commands and crrl/__init__.py, at the top, may import all of them."""

STANDARD = {"crrl", "__future__", "collections", "dataclasses", "typing"}
"""What kernels and reference may import beside torch and triton."""

BENEATH_READERS = {"naming", "clips", "folds", "chunks", "parallel", "prepared"}
"""What readers may import of data/; it imports no reader."""
ABOVE_READERS = {"registry", "sources"}
"""What else of data/ imports readers: the table, and whoever looks for a user's own clips."""

COMMANDS = {"view", "prepare", "train", "evaluate", "predict", "embed", "export", "report", "reproduce", "doctor"}
COMMANDS |= {"__main__", "__init__"}


def modules() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").rglob("*.py")])  # kernels is a symbolic link


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a module imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_every_room_is_known() -> None:
    assert {room(path) for path in modules()} == ALLOWED.keys() | COMMANDS


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    if room(path) in COMMANDS:
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("crrl.")}
    assert rooms <= ALLOWED[room(path)] | {room(path)}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("data/**/[!_]*.py")), ids=lambda path: path.stem)
def test_readers_know_clips_and_hardly_anybody_of_data_knows_readers(path: Path) -> None:
    data = {name.split(".")[2] for name in imported(path) if name.startswith("crrl.data.")}
    if path.parent.name == "readers":
        assert data <= BENEATH_READERS | {"readers"}
    elif path.stem in BENEATH_READERS:
        assert data <= BENEATH_READERS
    else:
        assert "readers" not in data or path.stem in ABOVE_READERS


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_tests_bench_or_examples_or_unpickles(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"tests", "bench", "examples", "kernels"}
    assert "pickle.load" not in path.read_text()
    assert "weights_only=False" not in path.read_text()


def test_kernels_and_reference_know_torch_and_triton_alone() -> None:
    for path in modules():
        if room(path) in ("kernels", "reference"):
            outside = {name.split(".")[0] for name in imported(path)} - STANDARD
            assert outside <= {"torch", "triton"}


def test_crrl_imports_without_triton_and_the_extension() -> None:
    code = (
        "import sys\n"
        "sys.modules['triton'] = sys.modules['crrl._cpu'] = None\n"
        "import crrl, crrl.train, crrl.evaluate, crrl.reproduce, crrl.doctor\n"
        "from crrl import ops\nimport torch\n"
        "print(dict(row[:2] for row in ops.choices(ops.Case('cpu', torch.float32)))['ragged_gather'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["reference"]


COMPUTE = """
from crrl.nn import GRU
from crrl import ops
import torch
y, _ = GRU(3, 4, 2)(torch.ones(5, 2, 3), lengths=[5, 2])
y.sum().backward()
ops.ragged_gather(torch.ones(7, 2), torch.tensor([0, 3, 7]), torch.tensor([1, 0]), 4, True)
"""


def test_the_files_that_the_makefile_names_are_there() -> None:
    named = re.findall(r"\b(?:tests|bench|docs)/[\w/]+\.\w+", (ROOT / "Makefile").read_text())
    assert len(named) > 3
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_compiler_is_imported_by_nobody_who_does_not_compile(tmp_path: Path) -> None:
    """torch.compile takes longer to import than torch itself, and leaves a folder behind."""
    everything = ", ".join(f"crrl.{name}" for name in sorted(COMMANDS - {"__init__"}))
    for code in ("import crrl", f"import {everything}", COMPUTE):
        found = [
            subprocess.run(
                [sys.executable, "-c", f"{each}\nimport sys; print(*sys.modules)"],
                env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True,
            ).stdout.split()
            for each in ("import torch", code)
        ]  # fmt: skip
        more = set(found[1]) - set(found[0])
        assert "crrl" in more
        assert not [name for name in more if name.startswith(("torch._dynamo", "torch._inductor", "triton"))]
        assert not list(tmp_path.iterdir())
