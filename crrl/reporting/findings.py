"""What a report shows of a run's clips: the map of their features, predictions, neighbours and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from crrl.data import Clips, Prepared, prepare
from crrl.data.clips import FloatArray
from crrl.data.skeletons import Skeleton, skeleton_of, up_of
from crrl.evaluation.frozen import Features
from crrl.evaluation.inspection import confusions, linear_scores, tsne
from crrl.evaluation.protocols import EvaluateOptions, Evaluation
from crrl.files import explain_damage
from crrl.methods import METHODS
from crrl.models import Decoder, Encoder, SequenceReconstructor
from crrl.reporting.motion import MOST_FRAMES, pack, upright
from crrl.reporting.records import Phase, Table, read_phases, read_tables
from crrl.runs import RunFolder

TESTS = "all"
"""The test set that a report shows."""
MOST_CLIPS = 3000
"""A map shows at most so many clips, evenly spaced over the training and test clips."""
NEIGHBOURS = 6
"""Nearest training clips that are shown for a clip."""
MOST_MISTAKES = 60
RECITED = 12
"""Test clips that are shown beside their reconstruction."""


@dataclass(frozen=True)
class Recited:
    """Test clips and the decoder's reconstructions of them, both after preprocessing.

    Attributes:
        missing: why there are none, in words; "" if there are. direction: the direction of the reconstruction.
        clips: places among the clips shown. own, recited: each clip and its reconstruction, [T, J, 3].
    """

    missing: str
    direction: str = "forward"
    clips: tuple[int, ...] = ()
    own: tuple[FloatArray, ...] = ()
    recited: tuple[FloatArray, ...] = ()


class Findings:
    """What a report shows of a finished and evaluated run.

    Attributes:
        phases, tables: the losses and evaluations in its folder. shown: int64 [M], the clips that the map shows.
        tested: bool [M], which of them are test clips.
        unscored: why no clip is classified, in words; "" if test clips are.
        scores: float32 [S, C], the probabilities of the S test clips among those shown, if they are classified.
        classifier: the classifier in words.

    Raises:
        CrrlError: the run is not finished, or has no evaluation though it can have one, or its files are damaged, or
            its clips have changed.
    """

    def __init__(self, run: RunFolder, data: Path | None, device: torch.device):
        self.run, self.config = run, run.config()
        self.phases: list[Phase] = read_phases(run)
        self.work = Evaluation(run, EvaluateOptions(run.path, data=data), device)
        self.unscored = self.work.missing()
        self.tables: list[Table] = read_tables(run, needed=not self.unscored)
        self.data = data or self.config.data
        train, tests = self.work.features(self.config.method)
        test = tests.get(TESTS, Features(train.features[:0], train.labels[:0]))
        logits, self.classifier = (test.features[:, :1], "") if self.unscored else _told(self.work, train, test)
        self.labels, self.predicted = test.labels.numpy(), logits.argmax(1).numpy()
        one, other = _thinned(len(train.labels), len(test.labels))
        tested = self.work.tests.get(TESTS, self.work.train[:0])
        self.shown = torch.cat([self.work.train[one], tested[other]]).numpy()
        self.tested = np.arange(len(self.shown)) >= len(one)
        self.features = torch.cat([train.features[one], test.features[other]])
        self.scores = logits[other].softmax(1).float().numpy()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; clips without labels are all of one class."""
        return self.work.class_names or ("without label",)

    @property
    def accuracy(self) -> float:
        """Percent of the test clips that are classified correctly; meaningless if `unscored`."""
        return 100 * float((self.labels == self.predicted).mean())

    @cached_property
    def confusions(self) -> npt.NDArray[np.float64]:
        """How many test clips of each class (a row) are classified as each class, [C, C]."""
        return confusions(self.labels, self.predicted, len(self.class_names))

    @cached_property
    def shown_labels(self) -> npt.NDArray[np.int64]:
        """The classes of the clips shown, [M]; 0 without labels."""
        return self.work.tensors.labels[torch.from_numpy(self.shown)].clamp(min=0).numpy()

    @cached_property
    def taken_for(self) -> npt.NDArray[np.int64]:
        """The predicted classes of the clips shown, [M]; for training clips, and for all if `unscored`, their own."""
        if self.unscored:
            return self.shown_labels
        return np.concatenate([self.shown_labels[~self.tested], self.scores.argmax(1)])

    @cached_property
    def places(self) -> npt.NDArray[np.float32]:
        """The place of each clip on the map, [M, 2]."""
        return tsne(self.features.numpy())

    @cached_property
    def neighbours(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """For each clip shown, the nearest other training clips shown, by cosine and nearest first.

        Returns their places among the clips shown, and the cosines, [M, K] each; K is at most NEIGHBOURS.
        """
        directions = F.normalize(self.features, dim=1)
        training = int((~self.tested).sum())
        similarity = directions @ directions[:training].t()
        similarity[:training].fill_diagonal_(-torch.inf)
        values, nearest = similarity.topk(min(NEIGHBOURS, training - 1), dim=1)
        return nearest.numpy(), values.numpy()

    @cached_property
    def mistakes(self) -> list[int]:
        """Places, among the clips shown, of test clips that are misclassified, the most probable prediction first."""
        wrong = np.flatnonzero(self.tested & (self.taken_for != self.shown_labels))
        sure = self.scores.max(1)[wrong - int((~self.tested).sum())]
        return [int(place) for place in wrong[np.argsort(-sure, kind="stable")]]

    @cached_property
    def drawn(self) -> Prepared:
        """All clips as a page draws them: preprocessed as for the network, but with fewer frames and one scale each."""
        steps = self.config.preprocessing
        drawn = replace(steps, max_frames=min(steps.max_frames, MOST_FRAMES), normalization="clip")
        return prepare(self.config.dataset, self.data, self.config.split_name, drawn)

    @property
    def clips(self) -> Clips:
        return self.drawn.clips

    @cached_property
    def skeleton(self) -> Skeleton:
        """The skeleton of the clips."""
        return skeleton_of(self.clips.frames, self.clips.tree)

    def packed(self, clips: Sequence[FloatArray], like: Sequence[FloatArray] | None = None) -> dict[str, Any]:
        """Clips, each [T, J, 3], turned upright and packed; see `pack`."""
        up = up_of(self.skeleton, self.clips.frames)
        turned = [[upright(clip, up)[0] for clip in some] for some in (clips, like or clips)]
        return pack(turned[0], self.skeleton, turned[1])

    @cached_property
    def recited(self) -> Recited:
        """At most RECITED test clips, one per class, and their reconstructions.

        Without classes, evenly spaced clips; training clips if no test clip is shown.
        """
        found = _reconstructor(self.run, self.work)
        if isinstance(found, str):
            return Recited(found)
        first = np.flatnonzero(self.tested if self.tested.any() else ~self.tested)
        if self.work.class_names:
            first = first[np.unique(self.shown_labels[first], return_index=True)[1]]
        places = [int(place) for place in first[np.linspace(0, len(first) - 1, min(RECITED, len(first))).astype(int)]]
        return _recite(found, self.work, self.shown, places)


def _told(work: Evaluation, train: Features, test: Features) -> tuple[Tensor, str]:
    """Logits [N, C] of the test clips, and the classifier in words: the one that evaluation kept, else a new one."""
    if kept := work.kept_logits(TESTS):
        logits, protocol = kept
        return logits, f"By the classifier that crrl evaluate kept in the run folder (protocol {protocol})"
    words = "By a linear classifier, trained for this page as crrl evaluate trains it, since the run folder keeps none"
    return linear_scores(train, test, len(work.class_names)), words


def _thinned(train: int, test: int) -> tuple[Tensor, Tensor]:
    """Evenly spaced places of training and of test clips, int64; together about MOST_CLIPS at most."""
    share = min(1.0, MOST_CLIPS / (train + test))
    one, other = (
        torch.from_numpy(np.linspace(0, count - 1, min(count, max(1, int(count * share)))).astype(np.int64))
        for count in (train, test)
    )
    return one, other


def _reconstructor(run: RunFolder, work: Evaluation) -> SequenceReconstructor | str:
    """The encoder and decoder of a run's last phase, from its checkpoint, or the reason why there is no decoder."""
    config, plan = work.config, METHODS[work.config.method][-1]
    if "coordinates" not in plan.recite:
        return f"method {config.method} ends with a phase that has no decoder of coordinates"
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        return f"the decoder is in checkpoint.pt alone, which {run.path} does not hold"
    channels, sizes = work.tensors.channels, config.encoder
    encoder = Encoder(channels, sizes.hidden_size)
    model = SequenceReconstructor(
        encoder, Decoder(encoder.features, channels, config.ser.decoder_hidden), plan.directions
    )
    own = "reconstructor."
    with explain_damage(run.checkpoint_path, "no checkpoint of this run", "restore it"):
        weights = checkpoint["module"].items()
        model.load_state_dict({name.removeprefix(own): value for name, value in weights if name.startswith(own)})
    return model.eval().to(work.tensors.frames.device)


@torch.no_grad()
def _recite(model: SequenceReconstructor, work: Evaluation, shown: npt.NDArray[np.int64], places: list[int]) -> Recited:
    batch = work.tensors.batch(torch.from_numpy(shown[places]))
    forward, reverse = model.reconstruct(model.encoder(batch.x, batch.lengths), batch.lengths)
    made, lengths = forward if forward is not None else reverse, batch.lengths.tolist()
    assert made is not None

    def clips(x: Tensor, turned: bool = False) -> tuple[FloatArray, ...]:
        frames = x.float().cpu().numpy().reshape(len(lengths), x.shape[1], -1, 3)
        return tuple(clip[:length][:: -1 if turned else 1] for clip, length in zip(frames, lengths, strict=True))

    direction = "forward" if forward is not None else "reverse"
    return Recited("", direction, tuple(places), clips(batch.x), clips(made, direction == "reverse"))
