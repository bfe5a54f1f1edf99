"""What a user installs: sdist to wheel to a fresh folder, with and without a C++ compiler, and never through torch."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "setup.py")
FOLDERS = ("crrl", "csrc", "kernels")

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="needs a C++ compiler",
)


@dataclass(frozen=True)
class Project:
    """A copy of the sources, and the environment it is built in: `torch` there is a stub that notes its import."""

    root: Path
    stubs: Path

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(self.stubs), "CRRL_CUDA": "0"} | env,
            capture_output=True,
            text=True,
        )

    @property
    def torch_was_imported(self) -> bool:
        return (self.stubs / "imported").exists()


@dataclass(frozen=True)
class Built:
    """The sdist of a project, and the wheel that was built from it."""

    project: Project
    sdist: Path
    wheel: Path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_project(tmp_path)


QUICK_COMPILER = """#!/bin/sh
for word; do shift; [ "$word" = -O3 ] && word=-O0; set -- "$@" "$word"; done
exec c++ "$@"
"""
"""Does not optimize, which takes most of the time."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    compiler = folder / "quick-c++"
    compiler.write_text(QUICK_COMPILER)
    compiler.chmod(0o755)
    project = copy_project(folder)
    result = project.run("build", "--no-isolation", CRRL_CPU="1", CC=str(compiler), CXX=str(compiler))
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = project.root.glob("dist/*.tar.gz")
    (wheel,) = project.root.glob("dist/*.whl")
    return Built(project, sdist, wheel)


def copy_project(folder: Path) -> Project:
    project = Project(folder / "project", folder / "stubs")
    project.root.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, project.root)
    built_in_place = shutil.ignore_patterns("__pycache__", "*.so")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, project.root / name, symlinks=True, ignore=built_in_place)
    (project.stubs / "torch").mkdir(parents=True)
    note = project.stubs / "imported"
    stub = f"import pathlib\npathlib.Path({str(note)!r}).touch()\nraise ImportError('the build imports torch')\n"
    (project.stubs / "torch" / "__init__.py").write_text(stub)
    return project


def build_wheel_without_compiler(
    project: Project, mode: str, no_compiler: str = shutil.which("false") or "no-compiler"
) -> subprocess.CompletedProcess[str]:
    return project.run("build", "--no-isolation", "--wheel", CC=no_compiler, CXX=no_compiler, CRRL_CPU=mode)


@needs_compiler
def test_the_sdist_holds_headers_license_and_kernels(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isreg()}
    headers = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix in (".hpp", ".cu")}
    assert headers
    assert headers | {"LICENSE", "crrl/kernels/__init__.py"} <= files


@needs_compiler
def test_the_wheel_of_the_sdist_installs_and_imports(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pip_install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip_install, "--target", str(target), str(built.wheel)], check=True, capture_output=True)
    code = "import importlib.util as u; print(u.find_spec('crrl').origin); import crrl._cpu; print(crrl._cpu.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert all(Path(line).is_relative_to(target) for line in found.stdout.split())
    assert (target / "crrl" / "kernels" / "__init__.py").is_file()
    assert not (target / "crrl" / "kernels").is_symlink()
    assert (target / "crrl" / "py.typed").is_file()
    assert (target / "crrl" / "_cpu.pyi").is_file()


def test_the_citation_is_of_this_version() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]


@needs_compiler
def test_building_never_imports_torch(built: Built) -> None:
    assert not built.project.torch_was_imported


@needs_compiler
def test_what_is_packed_are_files_that_nobody_else_may_write_and_that_do_not_run(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        modes = {each.filename: each.external_attr >> 16 for each in wheel.infolist() if not each.is_dir()}
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    modes |= {member.name: stat.S_IFREG | member.mode for member in members if member.isfile()}
    assert "crrl/__init__.py" in modes
    for name, mode in modes.items():
        assert stat.S_ISREG(mode), name
        assert mode & 0o444 == 0o444, name
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), name
        assert not mode & 0o111 or name.endswith(".so"), name
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts


AUDITED = """
import sys
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.", "tempfile.")
RUNS = ("subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.system", "pickle.find_class")
WRITING = 0o1103  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC

def note(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if writes or event.startswith({events}):
        print(event, arguments, flush=True)

sys.addaudithook(note)
"""
COMMANDS = ("train", "evaluate", "predict", "embed", "export", "prepare", "reproduce", "doctor")
IMPORTS = f"import crrl, crrl.nn, {', '.join(f'crrl.{name}' for name in COMMANDS)}"
TRAINS = """
from crrl import evaluate, train
train.main(["--dataset", "folder", "--data", {data!r}, "--out", {out!r}, "--device", "cpu", "--hidden-size", "8",
    "--batch-size", "8", "--epochs-cml", "1", "--epochs-ser", "1"])
evaluate.main([{out!r}, "--protocol", "knn"])
"""


def audited(code: str, events: str) -> list[str]:
    """What an interpreter of its own does of `events` (NETWORK, CHANGES, RUNS) in `code`, writing of files included."""
    result = subprocess.run(
        [sys.executable, "-B", "-c", AUDITED.replace("{events}", events) + code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in result.stdout.splitlines() if re.match(r"(\w+\.\w+|open) \(", line)]


def test_an_import_opens_no_connection_writes_nothing_and_runs_nothing() -> None:
    assert audited(IMPORTS, "NETWORK + CHANGES + RUNS") == []


def test_training_and_evaluating_open_no_connection(clip_folder: Path, tmp_path: Path) -> None:
    found = audited(TRAINS.format(data=str(clip_folder), out=str(tmp_path / "run")), "NETWORK")
    assert any("checkpoint" in line for line in found), "its own files are written, and seen"
    assert [line for line in found if not line.startswith("open ")] == []


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "open('/dev/null', 'w')",
        "import tempfile; tempfile.mkdtemp()",
    ],
)
def test_the_audit_sees(code: str) -> None:
    assert audited(code, "NETWORK + CHANGES + RUNS")


@pytest.mark.parametrize("no_compiler", [shutil.which("false") or "no-compiler", "/nowhere/c++"])
def test_without_a_compiler_the_wheel_is_pure_and_says_what_is_lost(project: Project, no_compiler: str) -> None:
    result = build_wheel_without_compiler(project, "auto", no_compiler)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path.name for path in project.root.glob("dist/*")] == ["crrl-0.1.0-py3-none-any.whl"]
    (line,) = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("crrl: ")]
    assert line.startswith(
        "crrl: crrl._cpu cannot be built: installing without it; PyTorch gathers batches and runs the GRU instead, "
        "slower; install g++ or clang and reinstall to get it back ("
    )


def test_without_a_compiler_a_forced_extension_fails_with_the_reason(project: Project) -> None:
    result = build_wheel_without_compiler(project, "1")
    assert result.returncode != 0
    assert "CRRL_CPU=1, but crrl._cpu cannot be built" in result.stdout + result.stderr
    assert not list(project.root.glob("dist/*.whl"))


BUILT_BY_MSVC = """
import os, runpy, setuptools, sys, types
sys.platform = "win32"
setuptools.setup = lambda **given: None
parts = runpy.run_path("setup.py")
command = parts["BuildExt"](setuptools.Distribution())
command.compiler = types.SimpleNamespace(compiler_type="msvc")
command.extensions = [parts["cpu_extension"]()]
command.build_extension(command.extensions[0])
print(len(command.extensions))
"""


def test_msvc_is_not_tried_and_the_remedy_is_another(project: Project) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BUILT_BY_MSVC], cwd=project.root, capture_output=True, text=True, check=True,
        env=os.environ | {"CRRL_CPU": "auto", "CRRL_CUDA": "0"},
    )  # fmt: skip
    assert result.stdout == "0\n"
    assert result.stderr.endswith(
        "slower; the kernels need g++ or clang, which WSL has (MSVC compiles none of GCC's vector types)\n"
    )


def test_clang_is_given_the_instruction_sets_that_the_sources_name(project: Project, tmp_path: Path) -> None:
    compiler = tmp_path / "clang++"
    compiler.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "clang version 14.0.6"; exit; fi
echo "$@" >> {tmp_path}/calls
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
"""
    )
    compiler.chmod(0o755)
    result = build_in_place(project, tmp_path, CRRL_CPU="1", CRRL_CUDA="0", CXX=str(compiler), CC=str(compiler))
    assert result.returncode == 0, result.stdout + result.stderr
    calls = [call.split() for call in (tmp_path / "calls").read_text().splitlines()]
    options = {word: call for call in calls for word in call if word.startswith("csrc/cpu/")}
    assert {"-mavx2", "-mfma"} <= {*options["csrc/cpu/gru_avx2.cpp"]}
    assert "-mavx512f" in options["csrc/cpu/step_avx512.cpp"]
    for plain in ("gru_plain", "step_plain", "gru", "bindings"):
        assert not [word for word in options[f"csrc/cpu/{plain}.cpp"] if word.startswith(("-mavx", "-mfma", "-mamx"))]


@needs_compiler
def test_the_extension_links_neither_torch_nor_an_openmp_runtime(built: Built, tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if re.fullmatch(r"crrl/_cpu\..*so", name)]
        library = wheel.extract(name, tmp_path)
    shown = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
    assert "libc.so.6" in needed
    assert not [each for each in needed if re.match("lib(torch|c10|python|gomp|omp|cuda)", each)]


def test_an_unknown_mode_is_refused(project: Project) -> None:
    result = project.run("build", "--no-isolation", "--wheel", CRRL_CPU="yes")
    assert result.returncode != 0
    assert "CRRL_CPU must be auto, 0 or 1, not 'yes'" in result.stdout + result.stderr


def fake_nvcc(folder: Path, release: str = "13.0", status: int = 0) -> Path:
    """A CUDA_HOME whose nvcc notes how it is called and makes empty files."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Cuda compilation tools, release {release}, V{release}.88"; exit; fi
echo "$@" >> {folder}/calls
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
echo "nvcc: something is wrong"; exit {status}
"""
    )
    nvcc.chmod(0o755)
    return folder


ORDER = ["sm_80", "sm_86", "sm_90", "sm_90a", "sm_100a", "sm_120", "compute_90"]
"""Of targets, in any list of the tests."""


def build_in_place(project: Project, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    standard = {"PYTHONPATH": str(project.stubs), "CRRL_CPU": "0", "CRRL_CUDA": "auto", "CUDA_HOME": str(home)}
    standard["TORCH_CUDA_ARCH_LIST"] = ""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=project.root,
        env=os.environ | standard | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("release", "asked", "codes"),
    [
        ("13.0", None, {"sm_80", "sm_90a", "sm_100a", "sm_120", "compute_90"}),
        ("12.4", None, {"sm_80", "sm_90a", "compute_90"}),
        ("13.0", "8.6;9.0+PTX", {"sm_86", "sm_90", "compute_90"}),
        ("13.0", "10.0a 12.0", {"sm_100a", "sm_120"}),
        ("13.0", "7.5 8.0 9.0+PTX", {"sm_80", "sm_90", "compute_90"}),
    ],
)
def test_the_cuda_extension_is_compiled_for_the_targets(
    project: Project, tmp_path: Path, release: str, asked: str | None, codes: set[str]
) -> None:
    home = fake_nvcc(tmp_path, release)
    env = {} if asked is None else {"TORCH_CUDA_ARCH_LIST": asked}
    result = build_in_place(project, home, CRRL_CUDA="1", **env)
    assert result.returncode == 0, result.stdout + result.stderr
    calls = (home / "calls").read_text().splitlines()
    compiled = [call for call in calls if "-c csrc/" in call]
    assert len(compiled) == len([*(ROOT / "csrc/cuda").glob("*.c*"), *(ROOT / "csrc/cuda/device").glob("*.cu")])
    for call in compiled:
        assert set(re.findall(r",code=(\w+)", call)) == codes
    assert [call for call in calls if "-cudart=static" in call] == calls[-1:]
    assert list((project.root / "crrl").glob("_cuda*.so"))
    assert not project.torch_was_imported
    assert f"crrl: compiling crrl._cuda for {', '.join(sorted(codes, key=ORDER.index))}: about " in result.stderr


@pytest.mark.parametrize(
    ("setting", "release", "message"),
    [
        ("1", "12.3", "CRRL_CUDA=1, but crrl._cuda cannot be built: no nvcc of CUDA 12.4 or newer"),
        ("1", "13.0", "nvcc: something is wrong"),
        ("yes", "13.0", "CRRL_CUDA must be auto, 0 or 1, not 'yes'"),
        ("Hopper", "13.0", "cannot be built: TORCH_CUDA_ARCH_LIST has 'Hopper': write it as"),
    ],
)
def test_a_forced_cuda_extension_fails_with_the_reason(
    project: Project, tmp_path: Path, setting: str, release: str, message: str
) -> None:
    env = {"CRRL_CUDA": "1", "TORCH_CUDA_ARCH_LIST": setting} if setting == "Hopper" else {"CRRL_CUDA": setting}
    result = build_in_place(project, fake_nvcc(tmp_path, release, status=1), **env)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


def with_driver(folder: Path) -> dict[str, str]:
    """A PATH on which an NVIDIA driver's tool is."""
    (folder / "nvidia-smi").write_text("#!/bin/sh\n")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        ("Hopper", 0, "TORCH_CUDA_ARCH_LIST has 'Hopper': write it as 8.0, 9.0a or 9.0+PTX"),
        ("10.0f", 0, "TORCH_CUDA_ARCH_LIST has '10.0f': write it as 8.0, 9.0a or 9.0+PTX"),
        ("7.0;7.5", 0, "TORCH_CUDA_ARCH_LIST=7.0;7.5 names no GPU that crrl._cuda can be built for: 8.0 at least"),
        ("", 1, "nvcc: something is wrong"),
    ],
)
def test_a_cuda_extension_that_cannot_be_built_is_left_out_with_the_reason(
    project: Project, tmp_path: Path, asked: str, status: int, reason: str
) -> None:
    home = fake_nvcc(tmp_path, status=status)
    result = build_in_place(project, home, TORCH_CUDA_ARCH_LIST=asked, **with_driver(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "crrl: crrl._cuda cannot be built: installing without it; " in result.stderr
    assert f"({reason})" in result.stderr
    assert (tmp_path / "calls").exists() == bool(status)
    assert not list((project.root / "crrl").glob("_cuda*.so"))


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"), reason="of a machine without")
def test_without_a_driver_nvcc_is_not_called_unless_asked(project: Project, tmp_path: Path) -> None:
    result = build_in_place(project, fake_nvcc(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nvcc is here, but no NVIDIA driver: installing without crrl._cuda" in result.stderr
    assert "CRRL_CUDA=1 builds it" in result.stderr
    assert not (tmp_path / "calls").exists()
