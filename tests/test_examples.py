"""examples/ in short, and from a pose estimator's raw files to an accuracy."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crrl.errors import CrrlError

pytest.importorskip("tyro", reason="tyro is not installed")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from crrl import SkeletonEncoder, evaluate, prepare, train
from crrl.files import read_json
from crrl.reporting import motion

EXAMPLES = Path(__file__).parents[1] / "examples"
STANDING = np.array(
    [[0, 0], [3, -3], [-3, -3], [6, -2], [-6, -2], [15, 20], [-15, 20], [20, 45], [-20, 45], [22, 70], [-22, 70],
     [10, 75], [-10, 75], [11, 110], [-11, 110], [12, 145], [-12, 145]],
    float,
)  # fmt: skip
"""A body from the front in COCO's joints, pixels from the nose, y down."""


def keypoints(action: str, seed: int, frames: int = 20) -> np.ndarray:
    """[T, 1, 17, 3]: one who raises both arms ("raise") or squats ("squat"), as an estimator sees it."""
    rng = np.random.default_rng(seed)
    t = np.sin(np.linspace(0, np.pi, frames))[:, None] * rng.uniform(0.8, 1.2)
    pose = np.repeat(STANDING[None], frames, 0)
    if action == "raise":
        pose[:, [7, 8], 1] -= 50 * t
        pose[:, [9, 10], 1] -= 100 * t
    else:
        pose[:, :13, 1] += 40 * t
        pose[:, [13, 14], 0] += 15 * t * (1, -1)
    points = rng.uniform(0.8, 1.2) * pose + rng.uniform(100, 300, 2) + rng.normal(0, 0.5, pose.shape)
    return np.concatenate([points, rng.uniform(0.5, 1, (frames, 17, 1))], axis=2)[:, None].round(2)


def saved(points: np.ndarray) -> Any:
    """As rtmlib's arrays are saved."""
    return [[frame[..., :2].tolist(), frame[..., 2].tolist()] for frame in points]


ACTIONS = ("raise", "squat")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 recordings with their labels; 8 of them test."""
    root = tmp_path_factory.mktemp("recordings")
    rows = ["file,label,split"]
    for number in range(24):
        action = ACTIONS[number % 2]
        (root / f"{number}.json").write_text(json.dumps(saved(keypoints(action, number))))
        rows.append(f"{number}.json,{action},{'test' if number >= 16 else 'train'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def run(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on these recordings, prepared."""
    place = tmp_path_factory.mktemp("run")
    prepare.main(["coco", "--data", str(recordings), "--out", str(place / "clips"), "--workers", "1"])
    options = ["--hidden-size", "16", "--batch-size", "8", "--epochs-cml", "3", "--epochs-ser", "1", "--device", "cpu"]
    data = ["--dataset", "prepared", "--data", str(place / "clips")]
    train.main([*data, "--fused", *options, "--out", str(place / "run")])
    return place / "run"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_from_raw_files_to_an_accuracy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(run), "--protocol", "knn", "--device", "cpu"])
    assert "prepared, default" in capsys.readouterr().out
    (accuracy,) = (
        tests["all"]
        for row, tests in read_json(run / "evaluation-knn.json")["accuracy_percent"].items()
        if row.startswith("crrl")
    )
    assert accuracy >= 75  # two actions, eight test clips: by chance 50


def test_your_own_clips_are_embedded(run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [str(recordings / f"{number}.json") for number in range(16, 22)]
    example("embed_your_clips").main([str(run), *clips])
    first, *rows = capsys.readouterr().out.splitlines()
    assert re.match(r"6 clips, \d+ features each", first)
    assert [row.split()[0] for row in rows] == clips
    with pytest.raises(CrrlError, match="give two clips at least"):
        example("embed_your_clips").main([str(run), clips[0]])


def test_a_model_of_ones_own_gets_faster_layers(capsys: pytest.CaptureFixture[str]) -> None:
    example("drop_in_gru").main(batch=3, frames=5)
    said = capsys.readouterr().out
    differences = [float(number) for number in re.findall(r"by ([\d.e+-]+\d)", said)]
    assert len(differences) == 2
    assert max(differences) < 1e-4
    assert "gru: crrl.nn.GRU, " in said


RUN_CELLS = """
import json, sys, types
import matplotlib
matplotlib.use("Agg")
try:
    import IPython.display
except ImportError:  # all that the cells take of it
    sys.modules["IPython.display"] = types.SimpleNamespace(HTML=lambda page: page)
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
print()
print(json.dumps({
    "dots": [len(dots.get_offsets()) for dots in names["axes"].collections],
    "classes": [int((names["clips"].labels[names["unseen"]] == label).sum()) for label in range(14)],
    "legend": [text.get_text() for text in names["axes"].get_legend().get_texts()],
    "names": list(names["clips"].class_names),
    "frames": [len(names["clips"].clip(i)) for i in (names["unseen"][names["chosen"]], *names["nearest"])],
    "page": names["page"].read_text(),
}))
"""
"""The code cells of a notebook, one after the other, and what they have made."""


def test_the_notebook_ends_in_a_map_and_moving_clips(tmp_path: Path) -> None:
    for library in ("matplotlib", "sklearn", "jinja2"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    path = EXAMPLES / "features.ipynb"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN_CELLS, str(path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cml, 1-NN +\d+\.\d\n +random encoder, 1-NN +\d+\.\d\n +raw, 1-NN", done.stdout)
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["dots"] == made["classes"]
    assert sum(made["dots"]) == 336
    assert made["legend"] == made["names"]
    shown = json.loads(re.search(r'"lengths":(\[[^]]*\])', made["page"])[1])  # type: ignore[index]
    assert shown == [min(frames, motion.MOST_FRAMES) for frames in made["frames"]]


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = read_json(EXAMPLES / "features.ipynb")
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


class Recorded:
    """rtmlib and cv2, of keypoints that were recorded: a picture is the number of its frame."""

    def __init__(self, points: np.ndarray, rate: float = 10.0):
        self.points, self.rate, self.at = points, rate, -1

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cv2 = SimpleNamespace(VideoCapture=lambda video: self, CAP_PROP_FPS=5)
        rtmlib = SimpleNamespace(Body=None, PoseTracker=lambda body, **options: self.estimate)
        monkeypatch.setitem(sys.modules, "cv2", cv2)
        monkeypatch.setitem(sys.modules, "rtmlib", rtmlib)

    def isOpened(self) -> bool:
        return True

    def get(self, name: int) -> float:
        return self.rate

    def read(self) -> tuple[bool, int]:
        self.at += 1
        return self.at < len(self.points), self.at

    def estimate(self, picture: int) -> tuple[np.ndarray, np.ndarray]:
        frame = self.points[picture]
        return frame[..., :2].astype(np.float32), frame[..., 2].astype(np.float32)


@pytest.mark.skipif(not hasattr(SkeletonEncoder, "predict"), reason="crrl.load(RUN).predict is not there")
def test_a_camera_is_told_by_windows(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(run), "--protocol", "linear", "--device", "cpu"])
    nobody = np.zeros((25, 0, 17, 3))
    shown = [*keypoints("raise", 90), *keypoints("squat", 91), *nobody]
    Recorded(shown).install(monkeypatch)
    capsys.readouterr()
    example("webcam").main([str(run), "--video", "a.mp4", "--window", "2", "--hop", "0.5"])
    rows = [line.split(" s  ") for line in capsys.readouterr().out.splitlines()]
    assert [float(time) for time, _ in rows] == [2 + 0.5 * number for number in range(10)]
    assert all(re.fullmatch(r"(raise|squat) \(\d+%\)", told) for _, told in rows[:8])
    assert rows[-1][1] == "nobody"


def test_windows_carry_the_last_frames_alone() -> None:
    webcam = example("webcam")
    windows = webcam.Windows(size=4, hop=2, bodies=1)
    points = keypoints("raise", 0)
    clips = [windows.add(webcam.coco.frame_of(frame, "a")) for frame in saved(points)]
    assert [clip is not None for clip in clips] == [t >= 3 and t % 2 == 1 for t in range(20)]
    np.testing.assert_allclose(clips[9][:, :, 0], points[6:10, 0, :, 0], rtol=1e-6)
    assert len(windows.frames) == 4


def test_without_rtmlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(CrrlError, match=r"^rtmlib is not installed: pip install crrl\[webcam\]$"):
        next(example("webcam").see("a.mp4"))


def test_a_video_shorter_than_a_window_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded(keypoints("raise", 0)[:5]).install(monkeypatch)
    with pytest.raises(CrrlError, match=r"^a\.mp4 is over before a window of 2 s: give a shorter --window$"):
        example("webcam").main([str(run), "--video", "a.mp4"])


def test_a_run_of_other_joints_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    webcam = example("webcam")
    other = SimpleNamespace(preprocessor=SimpleNamespace(num_joints=25))
    monkeypatch.setattr(webcam.crrl, "load", lambda path: other)
    with pytest.raises(CrrlError, match=r"run was trained on 25 joints, not COCO's 17 \(or 34\)"):
        webcam.main(["run"])
