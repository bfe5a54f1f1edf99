"""Builds the native extension; everything else about the package is in pyproject.toml. Never imports torch.

CRRL_CPU=auto (the default) installs without `crrl._cpu` where it cannot be built, 1 fails there, 0 does not try.
"""

import os
import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# pybind11 adds -std=c++17 and -fvisibility=hidden. No -march=native: wheels travel to other machines, so a GRU kernel
# names its own target. No -ffast-math: results must not depend on what the compiler makes of it.
FLAGS = [] if sys.platform == "win32" else ["-O3", "-Wall", "-Wextra"]
# The GNU runtime, which torch's own wheels load under the same name; elsewhere the kernels run on one thread.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []

CPU_MISSING = (
    "crrl: no working C++ compiler: installing without crrl._cpu; PyTorch gathers batches and runs the GRU instead, "
    "slower; install g++ and reinstall to get it back"
)


def cpu_mode() -> str:
    mode = os.environ.get("CRRL_CPU", "auto")
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"crrl: CRRL_CPU must be auto, 0 or 1, not {mode!r}")
    return mode


def cpu_extension() -> Extension:
    return Pybind11Extension(
        "crrl._cpu",
        sources=sorted(glob("csrc/cpu/*.cpp")),
        depends=glob("csrc/cpu/*.hpp"),
        cxx_std=17,
        extra_compile_args=[*FLAGS, *OPENMP],
        extra_link_args=OPENMP,
    )


class BuildExt(build_ext):
    """Drops an extension that cannot be built, with one line that says what is lost, unless it was asked for."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            if cpu_mode() == "1":
                raise SystemExit(f"crrl: CRRL_CPU=1, but {ext.name} cannot be built: {error}") from error
            print(CPU_MISSING, file=sys.stderr)
            self._drop(ext)

    def _drop(self, ext: Extension) -> None:
        self.extensions = self.distribution.ext_modules = [other for other in self.extensions if other is not ext]
        # A wheel gets its tag after the build: without any extension it is a pure one.
        self.get_finalized_command("bdist_wheel").root_is_pure = not self.extensions


setup(
    ext_modules=[] if cpu_mode() == "0" else [cpu_extension()],
    cmdclass={"build_ext": BuildExt},
)
