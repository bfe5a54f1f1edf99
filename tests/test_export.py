"""A run as a file that runs without crrl: its outputs, what it says of itself, and what is refused."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crrl
from crrl import export
from crrl.classifier import Classifier, save_classifier
from crrl.data import Clips, Prepared, Preprocessing, Preprocessor
from crrl.exporting.agreement import run_torch
from crrl.exporting.torch_program import ABOUT, Exported, torch_program
from crrl.facts import build
from crrl.models import Encoder, FeatureExtractor, FeatureKind
from crrl.runs import RunFolder, load_encoder, save_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.* ha(s|ve) one frame")

HIDDEN, JOINTS, CLASSES = 8, 5, ("sit", "stand", "wave")
LENGTHS = [7, 1, 30, 3]
PAGE = Path(__file__).parents[1] / "docs" / "export.md"


def raw_clips(lengths: list[int] = LENGTHS, joints: int = JOINTS) -> list[np.ndarray]:
    """Metres from a sensor; now and then a joint is not seen."""
    rng = np.random.default_rng(lengths)
    clips = [rng.normal((0, 0, 3), 0.5, (frames, joints, 3)).astype(np.float32) for frames in lengths]
    for clip in clips:
        clip[rng.random(clip.shape[:2]) < 0.1] = 0
    return clips


def extractor(encoder: Encoder, kind: FeatureKind) -> FeatureExtractor:
    """Features as if fitted: standardised, three directions shrunk."""
    features = FeatureExtractor(encoder, kind, 3 if kind == "tuned" else 0)
    if kind == "tuned":
        features.center.normal_()
        features.scale.uniform_(0.5, 2)
        features.nuisances.copy_(0.8 * torch.linalg.qr(torch.randn_like(features.nuisances))[0])
    return features.eval()


def make_run(folder: Path, kind: FeatureKind, head: str | None) -> Path:
    """An untrained run; head: None, "own" (a classifier of its features) or "refitted" (of others, in float64)."""
    features = extractor(Encoder(3 * JOINTS, HIDDEN), kind)
    clips = Clips.from_arrays(raw_clips(), labels=[0] * 4, names=list("abcd"), class_names=["any"])
    preprocessor = Preprocessor(Preprocessing(max_frames=10, view_joints=(0, 1, 2, 3), normalization="clip"), JOINTS)
    folder.mkdir()
    run = RunFolder(folder)
    save_encoder(run.encoder_path, features, Prepared(clips, preprocessor, "any"), "cml")
    if head:
        taken = extractor(features.encoder, "tuned") if head == "refitted" else features
        weights = torch.randn(len(CLASSES), len(taken.center), dtype=torch.float64 if head == "refitted" else None)
        known = replace(Classifier.plain(weights, torch.zeros_like(weights[:, 0])), scale=torch.rand_like(weights[0]))
        refitted = taken if head == "refitted" else None
        save_classifier(run.classifier_path, known, "linear", CLASSES, load_encoder(run.encoder_path), refitted)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", "tuned", "own")


@pytest.fixture
def runtime() -> Any:
    pytest.importorskip("onnx", reason="onnx is not installed")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def exported(path: Path) -> Exported:
    encoder, head = export.open_run(path)
    return Exported(encoder.features, head)


def wanted(path: Path, clips: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What the run itself gives of raw clips."""
    encoder = crrl.load(path)
    outputs = {"features": encoder.embed(clips)}
    if (path / "classifier.safetensors").exists():
        outputs["probabilities"] = encoder.predict(clips).probabilities
    return outputs


def assert_same(got: dict[str, np.ndarray], path: Path, clips: list[np.ndarray]) -> None:
    want = wanted(path, clips)
    assert got.keys() == want.keys()
    for name, value in got.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, want[name], atol=1e-5 * np.abs(want[name]).max(), rtol=0)


def snippets(language: str) -> list[str]:
    """The page's pieces of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def from_page() -> dict[str, Any]:
    """What the page's first snippet defines: preprocess and padded."""
    names: dict[str, Any] = {}
    exec(snippets("python")[0], names)
    return names


def inputs(path: Path, clips: list[np.ndarray]) -> dict[str, np.ndarray]:
    x, lengths = from_page()["padded"](clips, load_encoder(path / "encoder.safetensors").preprocessor.to_dict())
    return {"x": x, "lengths": lengths}


def main(path: Path, format: str, out: Path) -> int:
    return export.main([str(path), "--format", format, "--out", str(out)])


KINDS = pytest.mark.parametrize(
    ("kind", "head"), [("paper", None), ("tuned", "own"), ("paper", "refitted"), ("tuned", "refitted")]
)
BATCHES = [LENGTHS, [1], [9], [1, 1, 1]]


@KINDS
def test_onnx_gives_what_the_run_gives(
    tmp_path: Path, kind: FeatureKind, head: str | None, runtime: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = make_run(tmp_path / "run", kind, head), tmp_path / "run.onnx"
    assert main(run, "onnx", file) == 0
    assert f"exported: {file} (onnx, " in capsys.readouterr().out
    session = runtime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    for lengths in BATCHES:
        clips = raw_clips(lengths)
        assert_same(dict(zip(names, session.run(None, inputs(run, clips)), strict=True)), run, clips)


@KINDS
def test_pt2_gives_what_the_run_gives(tmp_path: Path, kind: FeatureKind, head: str | None) -> None:
    run = make_run(tmp_path / "run", kind, head)
    program = torch.export.load(io.BytesIO(torch_program(exported(run), "{}"))).module()
    for lengths in BATCHES:
        clips = raw_clips(lengths)
        given = inputs(run, clips)
        outputs = program(torch.from_numpy(given["x"]), torch.from_numpy(given["lengths"]))
        assert_same({name: value.numpy() for name, value in outputs.items()}, run, clips)


def test_pt2_holds_torchs_own_operators_whatever_serves_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_BACKEND", "reference")
    program = torch.export.load(io.BytesIO(torch_program(exported(run), "{}")))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert {str(target).split(".")[0] for target in targets if isinstance(target, torch._ops.OpOverload)} == {"aten"}
    assert targets.count(torch.ops.aten.gru.input) == 4


def test_pt2_is_run_without_crrl_before_it_is_written(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.pt2"
    assert main(run, "pt2", file) == 0
    extra = {ABOUT: ""}
    torch.export.load(file, extra_files=extra)
    check_about(json.loads(extra[ABOUT]), run)


def test_a_program_that_needs_crrl_is_refused(run: Path) -> None:
    pytest.importorskip("crrl._cpu", reason="crrl._cpu is not built")  # whose operator then is in the graph
    example = torch.zeros(2, 3, 3 * JOINTS), torch.tensor([3, 2])
    file = io.BytesIO()
    torch.export.save(torch.export.export(exported(run), example), file)
    with pytest.raises(crrl.CrrlError, match=r"does not run without crrl \(.*\): nothing was written"):
        run_torch(file.getvalue(), [])


def check_about(about: dict[str, Any], run: Path) -> None:
    file = load_encoder(run / "encoder.safetensors")
    assert build(Preprocessor, about["preprocessing"]) == file.preprocessor
    assert tuple(about["class_names"]) == CLASSES
    assert (about["features"], about["classifier"], about["method"]) == ("tuned", "linear", "cml")
    assert (about["encoder_sha256"], about["data"]) == (file.digest, "any")
    assert about["versions"] == {"crrl": crrl.__version__, "torch": torch.__version__}


def test_onnx_says_what_it_is_and_leaves_sizes_open(run: Path, tmp_path: Path, runtime: Any) -> None:
    assert main(run, "onnx", tmp_path / "run.onnx") == 0
    session = runtime.InferenceSession(tmp_path / "run.onnx")
    check_about(json.loads(session.get_modelmeta().custom_metadata_map["crrl"]), run)
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "x": ["batch", "frames", 3 * JOINTS],
        "lengths": ["batch"],
        "features": ["batch", 8 * HIDDEN],
        "probabilities": ["batch", len(CLASSES)],
    }
    graph = importlib.import_module("onnx").load(tmp_path / "run.onnx").graph
    layers = [node for node in graph.node if node.op_type == "GRU"]
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    assert [casts[layer.input[4]] for layer in layers] == ["lengths", "lengths"]  # its sequence_lens


@pytest.mark.parametrize(
    ("name", "by", "said"), [("features", 1e-3, ""), ("probabilities", 1e-3, ""), ("features", np.nan, "nan")]
)
def test_a_file_that_does_not_agree_is_not_written(
    run: Path, tmp_path: Path, name: str, by: float, said: str, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_onnx = export.run_onnx

    def other(model: bytes, batches: Any) -> Any:
        found = run_onnx(model, batches)
        found[-1][name][-1, -1] += by
        return found

    monkeypatch.setattr(export, "run_onnx", other)
    (tmp_path / "run.onnx").write_text("before")
    message = f"gives other {name} than the run, by {said}.*, and nothing was written: export in the other"
    with pytest.raises(crrl.CrrlError, match=message):
        main(run, "onnx", tmp_path / "run.onnx")
    assert (tmp_path / "run.onnx").read_text() == "before"


def test_a_run_that_has_diverged_is_told_so(run: Path, tmp_path: Path, runtime: Any) -> None:
    file = load_encoder(run / "encoder.safetensors")
    with torch.no_grad():
        for weight in file.features.encoder.gru.parameters():
            weight *= 300
    clips = Clips.from_arrays(raw_clips(), labels=[0] * 4, names=list("abcd"), class_names=["any"])
    path = tmp_path / "diverged.safetensors"
    save_encoder(path, file.features, Prepared(clips, file.preprocessor, "any"), "cml")
    with pytest.raises(crrl.CrrlError, match=r"nothing was written: rounding alone changes .*; train it again"):
        main(path, "onnx", tmp_path / "run.onnx")


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_library_is_one_line_that_names_the_extra(
    run: Path, tmp_path: Path, name: str, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        crrl.CrrlError, match=rf"--format onnx needs onnx and onnxruntime \(.*{name}.*\): pip install 'crrl\[export\]'"
    ):
        main(run, "onnx", tmp_path / "run.onnx")
    assert not (tmp_path / "run.onnx").exists()


def test_an_encoder_file_alone_gives_features(run: Path, tmp_path: Path, runtime: Any) -> None:
    assert main(run / "encoder.safetensors", "onnx", tmp_path / "run.onnx") == 0
    outputs = runtime.InferenceSession(tmp_path / "run.onnx").get_outputs()
    assert [output.name for output in outputs] == ["features"]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(crrl.CrrlError, match=rf"cannot read {tmp_path}/encoder.safetensors: .*check the path"):
        main(tmp_path, "pt2", tmp_path / "run.pt2")
    assert not (tmp_path / "run.pt2").exists()


def test_a_classifier_of_another_encoder_is_refused(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", "tuned", None)
    (other / "classifier.safetensors").write_bytes((run / "classifier.safetensors").read_bytes())
    with pytest.raises(crrl.CrrlError, match="was trained on another encoder"):
        main(other, "pt2", tmp_path / "run.pt2")


@pytest.mark.parametrize("normalization", ["clip-axis", "clip"])
@pytest.mark.parametrize("view_joints", [None, (0, 1, 2, 3)])
@pytest.mark.parametrize("max_frames", [1, 10])
def test_the_pages_preprocessing_is_crrls(normalization: Any, view_joints: Any, max_frames: int) -> None:
    steps = Preprocessing(max_frames, view_joints, normalization)
    preprocessor = Preprocessor(steps, JOINTS)
    clips = [*raw_clips([*LENGTHS, 11, 25]), np.zeros((4, JOINTS, 3), np.float32), np.ones((2, JOINTS, 3), np.float32)]
    clips[3][0] = 0  # the first frame shows nothing
    for clip in clips:
        want, _ = preprocessor.apply(clip, np.array([0, len(clip)]))
        got = from_page()["preprocess"](clip, json.loads(json.dumps(preprocessor.to_dict())))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.reshape(len(want), -1), atol=2e-6)


def test_the_pages_python_runs(run: Path, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, by_torch, by_onnx = snippets("python")
    names = {**from_page(), "clips": raw_clips()}
    monkeypatch.chdir(tmp_path)
    encoder, head = export.open_run(run)
    Path("ucla.pt2").write_bytes(
        torch_program(Exported(encoder.features, head), json.dumps(export.about(encoder, head)))
    )
    main(run, "onnx", Path("ucla.onnx"))
    for code in (by_torch, by_onnx):
        exec(code, names)
        features = np.asarray(names["features"])
        np.testing.assert_allclose(features, crrl.load(run).embed(raw_clips()), atol=1e-5 * np.abs(features).max())


RUNTIME = """
import {{ execFileSync }} from "node:child_process";

export class Tensor {{
  constructor(type, data, dims) {{
    if (data.length !== dims.reduce((product, size) => product * size, 1)) throw new Error("sizes differ");
    if (!(data instanceof {{ float32: Float32Array, int64: BigInt64Array }}[type])) throw new Error(`no ${{type}}`);
    Object.assign(this, {{ type, data, dims }});
  }}
}}

export const InferenceSession = {{
  create: async (path) => ({{
    run: async (feeds) => {{
      const named = Object.entries(feeds);
      const plain = named.map(([name, each]) => [name, each.type, each.dims, Array.from(each.data, Number)]);
      const answer = execFileSync({python}, ["-c", {program}, path], {{ input: JSON.stringify(plain) }});
      const found = Object.entries(JSON.parse(answer));
      return Object.fromEntries(found.map(([name, [dims, data]]) => [name, {{ dims, data: Float32Array.from(data) }}]));
    }},
  }}),
}};
"""
"""onnxruntime-node as far as the page uses it: what it is given goes to Python's ONNX Runtime."""

ANSWER = """
import json, sys
import numpy, onnxruntime
feeds = {name: numpy.array(data, kind).reshape(dims) for name, kind, dims, data in json.load(sys.stdin)}
session = onnxruntime.InferenceSession(sys.argv[1])
names = [output.name for output in session.get_outputs()]
found = zip(names, session.run(names, feeds))
print(json.dumps({name: [value.shape, value.ravel().tolist()] for name, value in found}))
"""


def test_the_pages_javascript_runs(run: Path, tmp_path: Path, runtime: Any) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    library = tmp_path / "node_modules" / "onnxruntime-node"
    library.mkdir(parents=True)
    (library / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    text = RUNTIME.format(python=json.dumps(sys.executable), program=json.dumps(ANSWER))
    (library / "index.js").write_text(text)
    main(run, "onnx", tmp_path / "ucla.onnx")
    given = inputs(run, raw_clips())
    clips = [x[:length].tolist() for x, length in zip(given["x"], given["lengths"], strict=True)]
    (snippet,) = snippets("js")
    ask = f"console.log(JSON.stringify(await classify(session, {json.dumps(clips)})));"
    (tmp_path / "page.mjs").write_text(snippet + ask)
    said = subprocess.run([node, "page.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(json.loads(said), wanted(run, raw_clips())["probabilities"], atol=1e-5)


def test_the_pages_cpp_names_what_the_file_has(run: Path, tmp_path: Path, runtime: Any) -> None:
    """In their order, as names of types, and the metadata; the program itself is compiled by hand."""
    main(run, "onnx", tmp_path / "run.onnx")
    session = runtime.InferenceSession(tmp_path / "run.onnx")
    (code,) = snippets("cpp")

    def listed(name: str) -> list[str]:
        (found,) = re.findall(rf"{name}\[\] = {{(.*?)}}", code)
        return re.findall(r'"(\w+)"', found)

    assert listed("input_names") == [each.name for each in session.get_inputs()]
    assert listed("output_names") == [each.name for each in session.get_outputs()]
    types = {"float": "tensor(float)", "std::int64_t": "tensor(int64)"}
    made = re.findall(r"CreateTensor<([\w:]+)>", code)
    assert [types[each] for each in made] == [each.type for each in session.get_inputs()]
    assert [len(each.shape) for each in session.get_inputs()] == [3, 1]
    assert "shape{1, frames, channels}, batch{1}" in code
    (key,) = re.findall(r'LookupCustomMetadataMapAllocated\("(\w+)"', code)
    assert json.loads(session.get_modelmeta().custom_metadata_map[key])["class_names"] == list(CLASSES)
    (place,) = re.findall(r"outputs\[(\d)\]\.GetTensorData<float>", code)
    assert session.get_outputs()[int(place)].name == "probabilities"


def test_the_pages_table_is_what_the_file_has(run: Path, tmp_path: Path, runtime: Any) -> None:
    main(run, "onnx", tmp_path / "run.onnx")
    session = runtime.InferenceSession(tmp_path / "run.onnx")
    kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for what, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
        rows = re.findall(rf"^\| {what} \| `(\w+)` \| (\w+) \| \[(.*?)\]", PAGE.read_text(), re.MULTILINE)
        assert [row[:2] for row in rows] == [(each.name, kinds[each.type]) for each in found]
        assert [len(row[2].split(", ")) for row in rows] == [len(each.shape) for each in found]
    about = json.loads(session.get_modelmeta().custom_metadata_map["crrl"])
    table = PAGE.read_text().split("## What the file says of itself")[1].split("\n## ")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert {*named, "classifier"} == about.keys()
