"""The classifier that an evaluation keeps: what was written comes back, what was changed since is refused."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

pytest.importorskip("tyro", reason="tyro is not installed")

import crrl
from crrl import evaluate
from crrl.classifier import FORMAT, MARK, Classifier, ClassifierFile, Facts, load_classifier, save_classifier
from crrl.errors import CrrlError
from crrl.models import FeatureExtractor
from crrl.runs import RunFolder, load_encoder
from crrl.sealed import NO_HASH, write_sealed


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run, tmp_path / "run")))


def loaded(run: RunFolder) -> ClassifierFile:
    return load_classifier(run, load_encoder(run.encoder_path))


def test_logits_are_of_standardised_features_in_the_weights_type() -> None:
    classifier = Classifier(
        weights=torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], dtype=torch.float64),
        biases=torch.tensor([0.5, 0.0, -torch.inf], dtype=torch.float64),
        center=torch.tensor([1.0, 1.0], dtype=torch.float64),
        scale=torch.tensor([1.0, 10.0], dtype=torch.float64),
    )
    features = torch.tensor([[3.0, 1.0], [1.0, 1.5]])
    expected = torch.tensor([[2.5, 0.0, -torch.inf], [0.5, 10.0, -torch.inf]], dtype=torch.float64)
    torch.testing.assert_close(classifier.logits(features), expected)
    assert classifier.labels(features).tolist() == [0, 1]
    probabilities = classifier.probabilities(features)
    assert probabilities[:, 2].tolist() == [0, 0], "a class that is never told"
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_written_comes_back(run: RunFolder, refitted: bool, dtype: torch.dtype) -> None:
    encoder = load_encoder(run.encoder_path)
    features = FeatureExtractor(encoder.features.encoder, "tuned", 3) if refitted else encoder.features
    size = len(features.center)
    features.nuisances = torch.rand_like(features.nuisances)
    classifier = Classifier(*(torch.rand(*shape, dtype=dtype) for shape in ((2, size), (2,), (size,), (size,))))
    contents = set()
    for _ in range(2):
        save_classifier(
            run.classifier_path, classifier, "logistic", ["a", "0" * 64], encoder, features if refitted else None
        )
        contents.add(run.classifier_path.read_bytes())
    assert len(contents) == 1, "equal ones are equal files"
    found = loaded(run)
    assert found.facts.class_names == ("a", "0" * 64)
    assert found.facts.protocol == "logistic"
    for name, tensor in vars(classifier).items():
        assert torch.equal(getattr(found.classifier, name), tensor)
    x, lengths = torch.rand(2, 4, 15), torch.tensor([4, 3])
    assert torch.equal(found.features(x, lengths), features(x, lengths))


def test_an_evaluation_that_is_no_transfer_keeps_the_run_s_own(run: RunFolder) -> None:
    before = run.classifier_path.read_bytes()
    evaluate.main([str(run.path), "--protocol", "linear", "--split", "default"])
    evaluate.main([str(run.path), "--protocol", "knn"])
    assert run.classifier_path.read_bytes() == before
    evaluate.main([str(run.path), "--protocol", "logistic"])
    assert loaded(run).facts.protocol == "logistic"
    assert loaded(run).facts.refitted is None
    evaluate.main([str(run.path), "--protocol", "linear", "--features", "tuned"])
    assert loaded(run).facts.refitted == "tuned"
    assert loaded(run).features.center.shape == (64,)


def test_a_transfer_keeps_its_own_where_the_run_has_none(run: RunFolder, clip_folder: Path) -> None:
    own = run.classifier_path.read_bytes()
    other = ["--dataset", "folder", "--data", str(clip_folder)]
    evaluate.main([str(run.path), "--protocol", "logistic", *other])
    assert run.classifier_path.read_bytes() == own
    run.classifier_path.unlink()
    evaluate.main([str(run.path), "--protocol", "logistic", *other])
    assert loaded(run).facts.class_names == ("left", "right")
    clips = [np.load(path) for path in sorted(clip_folder.glob("*.npy"))]
    assert set(crrl.load(run.path).predict(clips).labels) <= {"left", "right"}


def test_any_changed_bit_is_found(run: RunFolder) -> None:
    content, draw = run.classifier_path.read_bytes(), random.Random(0)
    for bit in (*range(64), *(draw.randrange(8 * len(content)) for _ in range(40))):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        run.classifier_path.write_bytes(changed)
        with pytest.raises(CrrlError, match=rf"^{run.classifier_path} is .*: .*(restore|make it again|give|unpack)"):
            loaded(run)


def test_a_run_without_a_classifier_says_what_to_run(run: RunFolder) -> None:
    run.classifier_path.unlink()
    with pytest.raises(
        CrrlError, match=f"{run.path} has no classifier: .* python -m crrl.evaluate {run.path} --protocol"
    ):
        loaded(run)


def test_one_of_another_encoder_is_refused(run: RunFolder) -> None:
    file = load_encoder(run.encoder_path)
    save_classifier(
        run.classifier_path, loaded(run).classifier, "linear", ["a", "b"], type(file)(**vars(file) | {"digest": "0"})
    )
    with pytest.raises(CrrlError, match=r"was trained on another encoder than .*: make it again by"):
        loaded(run)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_weights_of_other_shapes_than_it_says_are_refused(run: RunFolder, names: list[str]) -> None:
    encoder = load_encoder(run.encoder_path)
    save_classifier(run.classifier_path, loaded(run).classifier, "linear", names, encoder)
    with pytest.raises(CrrlError, match="the names or shapes that it states"):
        loaded(run)


def test_sizes_that_are_only_said_take_no_memory(run: RunFolder) -> None:
    encoder = load_encoder(run.encoder_path)
    facts = Facts("linear", ("a", "b"), False, "", encoder.digest, "tuned", 10**12)
    write_sealed(run.classifier_path, MARK, FORMAT, vars(loaded(run).classifier), facts)
    with pytest.raises(CrrlError, match="the names or shapes that it states"):
        loaded(run)


@pytest.mark.parametrize("names", [(), ("a", "\x1b[2J")], ids=["none", "a terminal's control"])
def test_classes_that_can_be_none_are_refused(run: RunFolder, names: tuple[str, ...]) -> None:
    content = run.classifier_path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    said = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][MARK]) | {"class_names": names}
    said["sha256"] = NO_HASH
    content = save(load(content), {MARK: json.dumps(said)})
    run.classifier_path.write_bytes(content.replace(NO_HASH.encode(), hashlib.sha256(content).hexdigest().encode(), 1))
    with pytest.raises(CrrlError, match="class_names are none"):
        loaded(run)


def test_the_encoder_is_no_classifier(run: RunFolder) -> None:
    shutil.copy(run.encoder_path, run.classifier_path)
    with pytest.raises(CrrlError, match="was not written by this version of crrl"):
        loaded(run)
