"""Compiles C++ and CUDA sources into a Python module, by g++, for which the threads of a GPU are fibers, or by nvcc.

What was compiled once is kept in build/, named by a hash of all that went into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pybind11

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "modules"
KERNELS, HOST = ROOT / "csrc" / "cuda", Path(__file__).parent / "host"

# g++ 12.2 takes another register's contents for a bit mask's in its second peephole pass (seen in choose_warp of
# primitives.cpp). No -ffast-math: NaN means something here.
FLAGS = ["-std=c++17", "-O2", "-fno-peephole2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"]
HEADERS = {".hpp", ".h", ".cuh"}


class Compiler(NamedTuple):
    """path: of the program. compiling, linking: its options."""

    path: str
    compiling: tuple[str, ...]
    linking: tuple[str, ...] = ()


GXX = Compiler("g++", (*FLAGS, "-x", "c++"))


def build(
    module_name: str,
    sources: Sequence[Path],
    defines: Sequence[str] = (),
    flags: Sequence[str] = (),
    system: Sequence[Path] = (),
    include: Sequence[Path] = (HOST, KERNELS),
    compiler: Compiler = GXX,
) -> ModuleType:
    """The module `module_name` of these sources (.cpp and .cu), which find their headers beside themselves, in
    `include` and in `system`, which is taken as it is. Raises RuntimeError with the compiler's words."""
    CACHE.mkdir(parents=True, exist_ok=True)
    headers = _digest(sorted({path for folder in include for path in folder.rglob("*") if path.suffix in HEADERS}))
    folders = [*map(str, (*include, *system)), pybind11.get_include(), sysconfig.get_paths()["include"]]
    with (CACHE / f"{module_name}.lock").open("w") as lock:  # nobody compiles what somebody else is compiling
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = [*flags, *(f"-D{name}" for name in defines), *(f"-I{folder}" for folder in folders)]
        objects = [_object(source, compiler, options, headers) for source in sources]
        command = [compiler.path, "-shared", *compiler.linking, *flags, *map(str, objects)]
        library = _once(module_name, sysconfig.get_config_var("EXT_SUFFIX"), command)
    return _load(module_name, library)


def _object(source: Path, compiler: Compiler, options: Iterable[str], headers: str) -> Path:
    beside = sorted(path for path in source.parent.iterdir() if path.suffix in HEADERS)
    command = [compiler.path, *compiler.compiling, *options, "-c", str(source)]
    return _once(source.stem, ".o", command, headers, _digest([source, *beside]))


def _once(stem: str, suffix: str, command: list[str], *inputs: str) -> Path:
    """What `command` makes of these inputs; all that its name depends on is in the arguments and the compiler."""
    name = hashlib.sha256("\0".join([_version(command[0]), sys.version, *command, *inputs]).encode()).hexdigest()[:16]
    target = CACHE / f"{stem}-{name}{suffix}"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}.draft")
        done = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        print(done.stderr, end="", file=sys.stderr)
        os.replace(draft, target)  # whoever looks sees all of it or nothing
    return target


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(str(path).encode() + path.read_bytes() for path in paths)).hexdigest()


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _load(module_name: str, library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
