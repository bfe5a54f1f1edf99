"""Holds an installed crrl to what a wheel promises where there is no compiler. Run by `make check-wheel` and by CI.

usage: PYTHON tests/wheel/check.py [--types]

PYTHON is that of an environment with crrl, pytest and hypothesis (for --types mypy and pyright, too).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import crrl
from crrl import doctor
from crrl.ops import cpu

TESTS = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "clang++", "nvcc")
PARITY = ("nn/test_gru.py", "nn/test_gru_ragged.py", "ops/test_gru_backends.py")


def run(command: str, *arguments: str | Path, folder: Path) -> None:
    """A command of this environment in `folder`, away from the sources; ends the check where it fails."""
    path = shutil.which(command, path=str(SCRIPTS))
    assert path is not None, f"{command} is not in {SCRIPTS}"
    print("$", command, *arguments, flush=True)
    if subprocess.run([path, *map(str, arguments)], cwd=folder, check=False).returncode:
        raise SystemExit(f"{command} failed")


def main(arguments: list[str]) -> None:
    """All of it, in about a minute."""
    found = [name for name in COMPILERS if shutil.which(name)]
    assert not found, f"a wheel is to be checked where there is no compiler, but there is {', '.join(found)}"
    package = Path(crrl.__file__).parent
    assert package.parent.name == "site-packages", f"crrl is {package}, no installed one"
    assert (package / "py.typed").is_file()
    assert cpu.missing is None, cpu.missing
    assert doctor.main([]) == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("pytest", "-q", *(TESTS / test for test in PARITY), folder=folder)
        sizes = ("--hidden-size", "16", "--epochs-cml", "1", "--epochs-ser", "1")
        run("crrl", "train", "--dataset", "synthetic", "--fused", *sizes, "--out", "run", folder=folder)
        run("crrl", "evaluate", "run", "--protocol", "knn", folder=folder)
        if "--types" in arguments:
            run("mypy", "--strict", TESTS / "wheel" / "typed.py", folder=folder)
            run("pyright", TESTS / "wheel" / "typed.py", folder=folder)


if __name__ == "__main__":
    main(sys.argv[1:])
