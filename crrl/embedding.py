"""A trained encoder as a function from skeleton clips to features and, with a classifier, to labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crrl.bars import counted
from crrl.classifier import ClassifierFile, load_classifier
from crrl.data import Clips, ClipTensors, Preprocessor
from crrl.data.clips import FloatArray, IntArray, check_clip, check_shape, of_joints
from crrl.data.readers.arrays import drop_scores
from crrl.data.readers.clip_files import BODIES
from crrl.errors import CrrlError
from crrl.features import encode
from crrl.files import explain_os_errors
from crrl.runs import EncoderFile, RunFolder, load_encoder

GROUP_FRAMES = 1 << 16
"""At most so many frames are in memory at a time, unless a single clip has more."""

Named = Iterable[tuple[str, npt.ArrayLike]]
"""(name, clip [T, J, 3]) of each clip; errors call the clip by its name."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The probability of each class for each clip.

    Attributes:
        probabilities: float64 [N, C]; each row adds up to 1. class_names: C.
    """

    probabilities: npt.NDArray[np.float64]
    class_names: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each clip."""
        return [self.class_names[place] for place in self.probabilities.argmax(axis=1)]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """For each clip, its `count` most probable classes (all, if there are fewer), the most probable first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.class_names[place], float(row[place])) for place in places]
            for places, row in zip(order, self.probabilities, strict=True)
        ]


class SkeletonEncoder:
    """A trained encoder with the preprocessing it was trained with, and the classifier of its run.

    Attributes:
        features: the network and the features of its states, in eval mode.
        preprocessor: the preprocessing steps and the joint count.
    """

    def __init__(self, file: EncoderFile, run: RunFolder | None = None):
        self._file, self._run = file, run
        self.features = file.features
        self.preprocessor: Preprocessor = file.preprocessor

    @cached_property
    def classifier(self) -> ClassifierFile:
        """The classifier that `predict` uses.

        Raises:
            CrrlError: the run has no classifier of this encoder, or an encoder file alone was loaded.
        """
        if self._run is None:
            raise CrrlError("an encoder file alone has no classifier: load the run folder, which holds both")
        return load_classifier(self._run, self._file)

    def to(self, device: torch.device) -> SkeletonEncoder:
        """Move the encoder to `device`; returns itself."""
        self.features.to(device)
        return self

    def embed(self, clips: Iterable[npt.ArrayLike]) -> FloatArray:
        """Features, float32 [N, D], of raw clips, each [T, J, 3] in the units of the training data.

        D is 512 for the paper's features and 2048 for tuned ones, at the default hidden size of 256. Clips may come
        from a generator: only some at a time are in memory.

        Raises:
            CrrlError: no clips, an empty clip, NaN, or another joint count than the encoder was trained on.
        """
        return self.embed_named(_numbered(clips))

    def embed_named(self, clips: Named) -> FloatArray:
        """`embed` for clips with names."""
        return np.concatenate([part.cpu().numpy() for part in self._encoded(self.features, clips)])

    def predict(self, clips: Iterable[npt.ArrayLike]) -> Predictions:
        """The action of each raw clip, by the run's classifier; clips as for `embed`.

        Raises:
            CrrlError: there is no classifier, or `embed` would refuse the clips.
        """
        return self.predict_named(_numbered(clips))

    def predict_named(self, clips: Named) -> Predictions:
        """`predict` for clips with names."""
        file = self.classifier
        features = file.features.to(next(self.features.parameters()).device)
        parts = [file.classifier.probabilities(part.cpu()).double() for part in self._encoded(features, clips)]
        return Predictions(torch.cat(parts).numpy(), file.facts.class_names)

    def predict_windows(
        self, recording: npt.ArrayLike, size: int, hop: int, name: str = "the recording"
    ) -> tuple[IntArray, Predictions]:
        """The action in each window (`window_starts`) of a recording, [T, J, 3], which may be memory-mapped.

        Each window's probabilities are averaged with those of the windows that overlap it, weighted by the number of
        frames they share.

        Args:
            size: frames of a window. hop: frames from a window's start to the next one's.

        Returns:
            The windows, int64 [N, 2]: the first frame of each and the one after its last; and their predictions.
        """
        frames = recording if isinstance(recording, np.ndarray) else check_clip(recording, name)
        check_shape(frames.shape, name)
        starts = window_starts(len(frames), size, hop)
        windows = ((f"{name}, frames from {start}", frames[start : start + size]) for start in starts)
        found = self.predict_named(counted(windows, len(starts), "predict", "window", delay=1, leave=False))
        spans = np.stack([starts, np.minimum(starts + size, len(frames))], axis=1)
        return spans, Predictions(smoothed(found.probabilities, starts, size), found.class_names)

    def _encoded(self, features: Callable[[Tensor, Tensor], Tensor], clips: Named) -> Iterator[Tensor]:
        """Yield the features of clips, [n, D], some clips at a time."""
        device = next(self.features.parameters()).device
        told = False
        for group in self._groups(clips):
            for place, name in enumerate(group.names):  # each clip by itself: others must not change it
                if (remark := drop_scores(group.clip(place))) and not told:
                    warnings.warn(f"{name}: {remark}", stacklevel=3)
                    told = True
            frames, offsets = self.preprocessor.apply(group.frames, group.offsets)
            tensors = ClipTensors(replace(group, frames=frames, offsets=offsets), device)
            yield encode(features, tensors, torch.arange(len(group)))

    def _groups(self, clips: Named) -> Iterator[Clips]:
        """Yield the clips, checked, some at a time."""
        group: list[tuple[str, FloatArray]] = []
        single: list[str] = []
        frames = 0
        for name, given in clips:
            joints = self.preprocessor.num_joints
            clip = of_joints(name, check_clip(given, name), joints, BODIES.get(joints))
            single += [name] if len(clip) == 1 else []
            if group and frames + len(clip) > GROUP_FRAMES:
                yield Clips.unlabelled(group)
                group, frames = [], 0
            group.append((name, clip))
            frames += len(clip)
        if not group:
            raise CrrlError("no clips given: at least one is needed")
        yield Clips.unlabelled(group)
        if single:
            has = f"and {len(single) - 1} more have" if len(single) > 1 else "has"
            warnings.warn(f"{single[0]} {has} one frame, which shows no motion: its features say little", stacklevel=4)


def _numbered(clips: Iterable[npt.ArrayLike]) -> Named:
    return ((f"clip {place}", clip) for place, clip in enumerate(clips))


def window_starts(frames: int, size: int, hop: int) -> IntArray:
    """The first frames of windows of `size` frames: one every `hop` frames, and one that ends at the last frame.

    A recording shorter than a window is one window.
    """
    last = max(frames - size, 0)
    return np.unique(np.append(np.arange(0, last + 1, hop), last))


def smoothed(probabilities: npt.NDArray[np.float64], starts: IntArray, size: int) -> npt.NDArray[np.float64]:
    """Probabilities [N, C] of windows of `size` frames, averaged over overlapping windows by the frames they share."""
    sums, weights = size * probabilities, np.full((len(starts), 1), float(size))
    for step in range(1, len(starts)):
        shared = np.maximum(size - (starts[step:] - starts[:-step]), 0)[:, None]
        if not shared.any():
            break
        sums[step:] += shared * probabilities[:-step]
        sums[:-step] += shared * probabilities[step:]
        weights[step:] += shared
        weights[:-step] += shared
    averages: npt.NDArray[np.float64] = sums / weights
    return averages


def load(path: str | Path) -> SkeletonEncoder:
    """The encoder of a run folder, or of an encoder.safetensors file.

    Raises:
        CrrlError: there is none, or the file is damaged.
    """
    path = Path(path)
    with explain_os_errors(path, "read"):
        run = RunFolder(path) if path.is_dir() else None
        file = load_encoder(run.encoder_path if run else path)
    return SkeletonEncoder(file, run)
