"""A run that is finished and evaluated, of bodies that move, in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers import synthetic

HOSTILE = "</script><script>document.title='broken'</script>"
"""The name of a class."""
HIPS_FIRST = [0, 1, 20, 3, *range(4, 20)]
"""Joints of Kinect v2 in the order of Kinect v1."""


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 clips of 20 joints, 3 classes, the first joint of a clip's first frames missing in some; 27 of them train."""
    folder, made = tmp_path_factory.mktemp("bodies"), synthetic.generate()
    lines = ["file,label,split"]
    for label, name in enumerate(("wave", "jump", HOSTILE)):
        for number, index in enumerate(np.flatnonzero(made.labels == 4 * label)[:12]):
            clip = made.clip(int(index))[:40, HIPS_FIRST]
            clip[:2, 0] *= number % 3 > 0
            np.save(folder / f"{label}-{number}.npy", clip)
            lines.append(f'{label}-{number}.npy,"{name}",{"train" if number < 9 else "test"}')
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def evaluated(bodies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of method crrl with an evaluation by the linear protocol."""
    for library in ("tyro", "tensorboard", "jinja2", "plotly", "sklearn"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    from crrl import evaluate, train

    path = tmp_path_factory.mktemp("runs") / "run"
    options = ("--dataset", "folder", "--data", str(bodies), "--recipe", "tuned", "--out", str(path))
    sizes = ("--batch-size", "9", "--hidden-size", "8", "--epochs-cml", "2", "--epochs-ser", "2", "--no-evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        train.main([*options, *sizes])
        evaluate.main([str(path), "--device", "cpu"])
    return path


@pytest.fixture(scope="session")
def report_page(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    from crrl import report

    page = tmp_path_factory.mktemp("pages") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert report.main([str(evaluated), "--out", str(page), "--device", "cpu"]) == 0
    return page
