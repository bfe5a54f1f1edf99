"""The classifier that an evaluation trains on an encoder's features, and its file, classifier.safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from crrl.data.naming import wrong_name
from crrl.errors import CrrlError, command
from crrl.files import check_kind, explain_damage, read_bytes
from crrl.models import FeatureExtractor, FeatureKind
from crrl.runs import EncoderFile, RunFolder
from crrl.sealed import check_shapes, facts_of, write_sealed

FORMAT = 1
"""Version of the facts in a classifier file."""
MARK = "crrl-classifier"
REFITTED = ("center", "scale", "nuisances")
"""The buffers of a feature extractor that are fitted to training clips."""

ClassifierProtocol = Literal["linear", "logistic"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear classifier: logits are ((features - center) * scale) @ weights.T + biases, in the weights' dtype.

    Attributes:
        weights: float32 or float64 [C, D]. biases: [C], -inf for a class that is never predicted.
        center, scale: [D], the standardisation.
    """

    weights: Tensor
    biases: Tensor
    center: Tensor
    scale: Tensor

    @classmethod
    def plain(cls, weights: Tensor, biases: Tensor) -> Classifier:
        """A classifier of features without standardisation."""
        return cls(weights, biases, torch.zeros_like(weights[0]), torch.ones_like(weights[0]))

    def logits(self, features: Tensor) -> Tensor:
        """Logits [N, C] of features [N, D]."""
        return F.linear((features.to(self.weights.dtype) - self.center) * self.scale, self.weights, self.biases)

    def labels(self, features: Tensor) -> Tensor:
        """The most probable class of each clip, int64 [N], of features [N, D]."""
        return self.logits(features).argmax(1)

    def probabilities(self, features: Tensor) -> Tensor:
        """Probabilities [N, C] of features [N, D]; each row adds up to 1."""
        return self.logits(features).softmax(1)


@dataclass(frozen=True)
class Facts:
    """The facts in a classifier file beside its format and hash.

    Attributes:
        protocol: the protocol that trained the classifier. class_names: C, in the order of the weights' rows.
        double: whether the weights are float64. fingerprint: the fingerprint of the clips it was trained on.
        encoder: the SHA-256 of the encoder file whose features it takes.
        refitted: the kind of features, if they were fitted anew for this classifier; None: those of the encoder file.
        nuisances: the number of nuisances of refitted features, else 0.
    """

    protocol: ClassifierProtocol
    class_names: tuple[str, ...]
    double: bool
    fingerprint: str
    encoder: str
    refitted: FeatureKind | None
    nuisances: int

    def __post_init__(self) -> None:
        if not self.class_names or any(map(wrong_name, self.class_names)):
            raise CrrlError("class_names are none")


@dataclass(frozen=True)
class ClassifierFile:
    """The content of a classifier file.

    Attributes:
        classifier: the classifier. facts: the facts about it. features: the extractor of the features that it takes.
    """

    classifier: Classifier
    facts: Facts
    features: FeatureExtractor


def save_classifier(
    path: Path,
    classifier: Classifier,
    protocol: ClassifierProtocol,
    class_names: Sequence[str],
    encoder: EncoderFile,
    refitted: FeatureExtractor | None = None,
    fingerprint: str | None = None,
) -> None:
    """Write a classifier with all that is needed to use it with its encoder; equal classifiers give equal bytes.

    Args:
        refitted: the features that it takes; None: those of the encoder file.
        fingerprint: the fingerprint of the clips that it was trained on; None: that of the encoder's clips.
    """
    facts = Facts(
        protocol,
        tuple(class_names),
        classifier.weights.dtype == torch.float64,
        fingerprint or encoder.fingerprint,
        encoder.digest,
        refitted.kind if refitted else None,
        refitted.nuisances.shape[1] if refitted else 0,
    )
    fitted = {f"features.{name}": getattr(refitted, name) for name in REFITTED} if refitted else {}
    write_sealed(path, MARK, FORMAT, vars(classifier) | fitted, facts)


def load_classifier(run: RunFolder, encoder: EncoderFile) -> ClassifierFile:
    """The classifier of a run.

    Raises:
        CrrlError: the run has none, or its file is damaged, of another program, or belongs to another encoder.
    """
    path = run.classifier_path
    again = command("evaluate", run.path, "--protocol", "linear")
    if not path.exists():
        raise CrrlError(f"{run.path} has no classifier: train one on the labelled clips by {again}")
    content = read_bytes(path)
    check_kind(path, content, "a classifier", "safetensors")
    with explain_damage(path, "damaged or cut short", f"restore it, or make it again: {again}"):
        facts = facts_of(content, MARK, FORMAT, Facts)
        if facts is None:
            raise CrrlError(f"{path} was not written by this version of crrl: make it again by {again}")
        if facts.encoder != encoder.digest:
            raise CrrlError(f"{path} was trained on another encoder than {run.encoder_path}: make it again by {again}")
        return _with(encoder.features, facts, load(content))


def _with(own: FeatureExtractor, facts: Facts, tensors: dict[str, Tensor]) -> ClassifierFile:
    """The classifier made of a file's tensors, which are checked, on features of the encoder of `own`."""
    features = FeatureExtractor(own.encoder, facts.refitted) if facts.refitted else own
    size, classes = len(features.center), len(facts.class_names)
    with torch.device("meta"):  # checks the sizes that the file states without allocating them
        line = torch.empty(size, dtype=torch.float64 if facts.double else torch.float32)
        expected = vars(Classifier(line.expand(classes, size), line.new_empty(classes), line, line))
        shapes = ((size,), (size,), (size, facts.nuisances))
        fitted = {name: torch.empty(shape) for name, shape in zip(REFITTED, shapes, strict=True) if facts.refitted}
    check_shapes(tensors, expected | {f"features.{name}": tensor for name, tensor in fitted.items()})
    for name in fitted:
        setattr(features, name, tensors[f"features.{name}"])
    return ClassifierFile(Classifier(**{name: tensors[name] for name in expected}), facts, features.eval())
