"""README and docs/: their links lead somewhere, their commands are commands, their Python runs."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import crrl
import crrl.data
import crrl.nn
import crrl.optim

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

import tyro

from crrl import embed, evaluate, export, predict, prepare, report, reproduce, train, view

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
OPTIONS = {
    "embed": embed.EmbedOptions,
    "evaluate": evaluate.EvaluateOptions,
    "export": export.ExportOptions,
    "predict": predict.PredictOptions,
    "prepare": prepare.PrepareOptions,
    "report": report.ReportOptions,
    "reproduce": reproduce.ReproduceOptions,
    "view": view.ViewOptions,
}
HISTORY = ("journal.md", "CHANGELOG.md")
"""Pages that keep options which are gone."""


def blocks(page: Path, language: str) -> Iterator[str]:
    """The code blocks of a page in that language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of each command of crrl in the shell blocks of all pages."""
    for page in PAGES:
        if page.name in HISTORY:
            continue
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(crrl|python -m crrl\.\w+) ", line + " "):
                    yield page.name, line


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_a_command_is_one_with_options_that_there_are(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    name, arguments = (words[1], words[2:]) if words[0] == "crrl" else (words[2].removeprefix("crrl."), words[3:])
    if name == "train":
        train.parse(arguments)
    elif name in OPTIONS:
        tyro.cli(OPTIONS[name], args=arguments)
    else:
        assert (name, arguments) in [("doctor", []), ("doctor", ["--no-check"])]


def test_commands_are_found_at_all() -> None:
    assert {name for name, _ in commands()} >= {"README.md", "data.md", "training.md", "use.md", "export.md"}


@pytest.fixture
def names(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the snippets take as given, in a folder that has the run they name."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/ucla").symlink_to(small_run)
    monkeypatch.chdir(tmp_path)
    joints = crrl.load(small_run).preprocessor.num_joints
    generator = np.random.default_rng(0)
    return {
        "clips": [generator.normal(size=(frames, joints, 3)).astype(np.float32) for frames in (5, 9)],
        "x": torch.randn(2, 7, 150),
        "v": torch.randn(2, 7, 150),
        "hint": torch.randn(2, 150),
        "lengths": torch.tensor([7, 3]),
        "model": torch.nn.Sequential(torch.nn.GRU(4, 4)),
        "key_gru": crrl.nn.GRU(150, 256, num_layers=2, bidirectional=True, batch_first=True),
    }


@pytest.mark.parametrize("page", ["README.md", "docs/use.md", "docs/gru.md"])
def test_the_python_of_a_page_runs(page: str, names: dict[str, object]) -> None:
    for block in blocks(ROOT / page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("module", [crrl, crrl.nn, crrl.optim, crrl.data], ids=lambda module: module.__name__)
def test_public_names_are_documented(module: ModuleType) -> None:
    public = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    for name in (name for name in public if not name.startswith("_")):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
        if inspect.isclass(value):
            for method, made in vars(value).items():
                if inspect.isfunction(made) and not method.startswith("_") and method != "forward":
                    assert inspect.getdoc(getattr(value, method)), f"{name}.{method}"
