"""Builds the native extensions; everything else about the package is in pyproject.toml. Never imports torch.

CRRL_CPU=auto (the default) installs without `crrl._cpu` where it cannot be built, 1 fails there, 0 does not try.
CRRL_CUDA says the same of `crrl._cuda`, which needs nvcc of CUDA 12.4 or newer (in $CUDA_HOME; without
it on the PATH or in /usr/local/cuda), and which auto tries only where an NVIDIA driver is, too;
TORCH_CUDA_ARCH_LIST, such as "8.0;9.0a+PTX", names the GPUs it is built for.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

# pybind11 adds -std=c++17 and -fvisibility=hidden. No -march=native: wheels travel to other machines, so a GRU kernel
# names its own target. No -ffast-math: results must not depend on what the compiler makes of it.
# A sum of products is rounded once, by GCC's default and so by clang.
FLAGS = ["-O3", "-Wall", "-Wextra", "-ffp-contract=fast"]
LIBRARIES = ["-pthread", *(["-ldl"] if sys.platform == "linux" else [])]
if sys.platform == "darwin":  # torch has wheels for no other Macs
    os.environ.setdefault("ARCHFLAGS", "-arch arm64")

MISSING = {
    "crrl._cpu": "crrl: crrl._cpu cannot be built: installing without it; PyTorch gathers batches and runs the GRU "
    "instead, slower; {remedy} ({reason})",
    "crrl._cuda": "crrl: crrl._cuda cannot be built: installing without it; on a GPU cuDNN runs the GRU instead "
    "({reason})",
}
REMEDY = "install g++ or clang and reinstall to get it back"
REMEDY_ON_WINDOWS = "the kernels need g++ or clang, which WSL has"

NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"]
# A target's own code runs on GPUs of its number (sm_80 also on 8.6 and 8.9); all later ones compile the PTX.
TARGETS = ["sm_80", "sm_90a", "sm_100a", "sm_120", "compute_90"]
NEWER_TARGETS = {"sm_100a", "sm_120"}  # than the oldest nvcc
OLDEST_NVCC, OLDEST_FOR_NEWER = (12, 4), (12, 8)
MINUTES_A_TARGET = 4  # of one core


def mode(variable: str) -> str:
    value = os.environ.get(variable, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"crrl: {variable} must be auto, 0 or 1, not {value!r}")
    return value


def find_nvcc() -> str | None:
    """nvcc's path, if it is there and new enough."""
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin"] if home else [None, "/usr/local/cuda/bin"]  # None: the PATH
    found = filter(None, (shutil.which("nvcc", path=place) for place in places))
    return next((path for path in found if nvcc_version(path) >= OLDEST_NVCC), None)


def has_driver() -> bool:
    """Whether a GPU of this machine could run what nvcc makes."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def nvcc_version(nvcc: str) -> tuple[int, int]:
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    found = re.search(r"release (\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def targets(version: tuple[int, int]) -> list[str]:
    """What to give nvcc to compile for: "sm_90a", or "compute_90" for PTX.

    Raises:
        CompileError: TORCH_CUDA_ARCH_LIST has no GPU that crrl._cuda can be built for, or one by another name.
    """
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if not asked:
        return [target for target in TARGETS if version >= OLDEST_FOR_NEWER or target not in NEWER_TARGETS]
    result = []
    for target in re.split(r"[;,\s]+", asked):
        found = re.fullmatch(r"(\d+)\.(\d)(a?)(\+PTX)?", target)
        if found is None:
            raise CompileError(f"TORCH_CUDA_ARCH_LIST has {target!r}: write it as 8.0, 9.0a or 9.0+PTX")
        if int(found[1]) < 8:  # lists of others begin with older GPUs: there cuDNN serves
            continue
        number = found[1] + found[2]
        result.append(f"sm_{number}{found[3]}")
        if found[4]:
            result.append(f"compute_{number}")
    if not result:
        raise CompileError(f"TORCH_CUDA_ARCH_LIST={asked} names no GPU that crrl._cuda can be built for: 8.0 at least")
    return result


def cpu_extension() -> Extension:
    return Pybind11Extension(
        "crrl._cpu",
        sources=sorted(glob("csrc/cpu/*.cpp")),
        depends=glob("csrc/cpu/*.hpp"),
        cxx_std=17,
        extra_compile_args=FLAGS,
        extra_link_args=LIBRARIES,
    )


def cuda_extension() -> Extension:
    sources = [*glob("csrc/cuda/*.cpp"), *glob("csrc/cuda/*.cu"), *glob("csrc/cuda/device/*.cu")]
    headers = [*glob("csrc/cuda/*.hpp"), *glob("csrc/cuda/device/*.hpp")]
    return Extension("crrl._cuda", sources=sorted(sources), depends=headers)


def extensions() -> list[Extension]:
    wanted = [] if mode("CRRL_CPU") == "0" else [cpu_extension()]
    asked = mode("CRRL_CUDA")
    if asked == "1" or (asked == "auto" and find_nvcc() and has_driver()):
        wanted.append(cuda_extension())
    elif asked == "auto" and find_nvcc():
        say("nvcc is here, but no NVIDIA driver: installing without crrl._cuda; CRRL_CUDA=1 builds it, in minutes")
    return wanted


def say(line: str) -> None:
    print(f"crrl: {line}", file=sys.stderr, flush=True)


class BuildExt(build_ext):
    """Drops an extension that cannot be built, with one line that says what is lost, unless it was asked for."""

    def build_extension(self, ext: Extension) -> None:
        try:
            if ext.name == "crrl._cuda":
                self._build_by_nvcc(ext)
            else:
                self._build_by_compiler(ext)
        except (BaseError, CCompilerError) as error:
            variable = ext.name.replace("crrl._", "crrl_").upper()
            if mode(variable) == "1":
                raise SystemExit(f"crrl: {variable}=1, but {ext.name} cannot be built: {error}") from error
            remedy = REMEDY_ON_WINDOWS if sys.platform == "win32" else REMEDY
            print(MISSING[ext.name].format(reason=_reason(str(error)), remedy=remedy), file=sys.stderr)
            self._drop(ext)

    def _build_by_compiler(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            raise CompileError("MSVC compiles none of GCC's vector types")
        if _is_clang(self.compiler.compiler_so_cxx[0]):
            compile_one = self.compiler._compile

            def compile_for_target(obj, source, extension, options, extra, preprocessor):
                compile_one(obj, source, extension, options, [*extra, *_clang_flags(source)], preprocessor)

            self.compiler._compile = compile_for_target
        super().build_extension(ext)

    def _build_by_nvcc(self, ext: Extension) -> None:
        """All sources by nvcc, side by side; it links the CUDA runtime statically."""
        to, inputs = Path(self.get_ext_fullpath(ext.name)), [*ext.sources, *ext.depends, "setup.py"]
        if not self.force and to.exists() and all(os.path.getmtime(name) <= to.stat().st_mtime for name in inputs):
            return
        nvcc = find_nvcc()
        if nvcc is None:
            raise CompileError(f"no nvcc of CUDA {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]} or newer")
        wanted = targets(nvcc_version(nvcc))
        minutes = -(-len(wanted) * MINUTES_A_TARGET // (os.cpu_count() or 1))
        say(f"compiling crrl._cuda for {', '.join(wanted)}: about {minutes} minutes on {os.cpu_count()} cores")
        # sm_90a is compiled from compute_90a; PTX is kept as it is.
        codes = [f"-gencode=arch={target.replace('sm_', 'compute_')},code={target}" for target in wanted]
        includes = [f"-I{path}" for path in ("csrc/cuda/device", pybind11.get_include(), sysconfig.get_path("include"))]
        command = [nvcc, *NVCC_FLAGS, *codes, *includes, f"-DCRRL_TARGETS={'.'.join(wanted)}", "-c"]
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        objects = {source: str(folder / f"{source.replace('/', '_')}.o") for source in ext.sources}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, ([*command, source, "-o", object_] for source, object_ in objects.items())))
        to.parent.mkdir(parents=True, exist_ok=True)
        _run([nvcc, "-shared", "-cudart=static", *objects.values(), "-o", str(to)])

    def _drop(self, ext: Extension) -> None:
        self.extensions = self.distribution.ext_modules = [other for other in self.extensions if other is not ext]
        # A wheel gets its tag after the build: without any extension it is a pure one.
        self.get_finalized_command("bdist_wheel").root_is_pure = not self.extensions


def _is_clang(compiler: str) -> bool:
    if shutil.which(compiler) is None:  # the build will say so
        return False
    return "clang" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout


def _clang_flags(source: str) -> list[str]:
    """What a source's `#pragma GCC target("avx2,fma")` says, as options: clang does not know the pragma."""
    found = re.search(r'^#pragma GCC target\("(.*)"\)', Path(source).read_text(), re.MULTILINE)
    features = found[1].split(",") if found and platform.machine() in ("x86_64", "AMD64") else []
    return ["-Wno-unknown-pragmas", *(f"-m{feature}" for feature in features)]


def _reason(output: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = output.strip().splitlines() or ["no reason given"]
    return next((line for line in lines if "error" in line.lower()), lines[-1]).strip()


def _run(command: list[str]) -> None:
    """Raises CompileError with what the command printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CompileError(f"{' '.join(command)}\n{done.stdout}")


with ParallelCompile():  # the C++ sources side by side: setuptools alone takes one after the other
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
