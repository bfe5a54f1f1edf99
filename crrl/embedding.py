"""A trained encoder as a function from skeleton clips to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from crrl.data import Clips, ClipTensors, Preprocessor
from crrl.data.clips import FloatArray, refuse_half
from crrl.features import encode
from crrl.files import explain_os_errors
from crrl.models import FeatureExtractor
from crrl.runs import RunFolder, load_encoder


class SkeletonEncoder:
    """A trained encoder with the preprocessing it was trained with.

    Attributes:
        features: the network and what is made of its states, in eval mode.
        preprocessor: the steps and the joint count.
    """

    def __init__(self, features: FeatureExtractor, preprocessor: Preprocessor):
        self.features = features
        self.preprocessor = preprocessor

    def embed(self, clips: Sequence[npt.ArrayLike]) -> FloatArray:
        """Features of raw clips, each [T, J, 3] in the units of the training data: float32 [N, 512], or
        [N, 2048] where its features are tuned.

        Raises:
            CrrlError: no clips, an empty clip, NaN, or another joint count than the encoder was trained on.
        """
        names = [f"clip {i}" for i in range(len(clips))]
        raw = Clips.from_arrays(clips, labels=np.zeros(len(clips)), names=names, class_names=["unknown"])
        refuse_half(raw, self.preprocessor.num_joints)
        frames, offsets = self.preprocessor.apply(raw.frames, raw.offsets)
        device = next(self.features.parameters()).device
        tensors = ClipTensors(replace(raw, frames=frames, offsets=offsets), device)
        return encode(self.features, tensors, torch.arange(len(clips))).cpu().numpy()


def load(path: str | Path) -> SkeletonEncoder:
    """The encoder of a run folder, or of an encoder.safetensors file.

    Raises:
        CrrlError: there is none, or the file is damaged.
    """
    path = Path(path)
    with explain_os_errors(path, "read"):
        file = load_encoder(RunFolder(path).encoder_path if path.is_dir() else path)
    return SkeletonEncoder(file.features, file.preprocessor)
