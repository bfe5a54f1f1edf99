"""What a report shows of a run's clips: where its features put them, what they are taken for, what it recites."""

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
"""The test set that is shown."""
MOST_CLIPS = 3000
"""Clips that a map shows at most, evenly spaced over the training and test clips."""
NEIGHBOURS = 6
"""Training clips that are shown beside one."""
MOST_MISTAKES = 60
RECITED = 12
"""Test clips that are shown as they are recited."""


@dataclass(frozen=True)
class Recited:
    """Test clips beside what the decoder makes of them, both as the network sees them.

    Attributes:
        missing: why there are none, in words; "" where there are. direction: in which they are recited.
        clips: places among those shown. own, recited: for each [T, J, 3].
    """

    missing: str
    direction: str = "forward"
    clips: tuple[int, ...] = ()
    own: tuple[FloatArray, ...] = ()
    recited: tuple[FloatArray, ...] = ()


class Findings:
    """A finished and evaluated run, looked at.

    Attributes:
        phases, tables: what its folder says. shown: int64 [M], the clips that the map shows.
        tested: bool [M], which of them are test clips.
        unscored: why no clip is taken for anything, in words; "" where test clips are.
        scores: float32 [M, C], the classifier's probabilities. classifier: which one it is, in words.

    Raises:
        CrrlError: the run is not finished, or not evaluated though it can be, or its files are damaged, or its clips
            have changed.
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
        """Without labels all clips are of one."""
        return self.work.class_names or ("without label",)

    @property
    def accuracy(self) -> float:
        """Percent of the test clips that the classifier tells right; where they are scored."""
        return 100 * float((self.labels == self.predicted).mean())

    @cached_property
    def confusions(self) -> npt.NDArray[np.float64]:
        """How many test clips of each class are taken for each class, [C, C]."""
        return confusions(self.labels, self.predicted, len(self.class_names))

    @cached_property
    def shown_labels(self) -> npt.NDArray[np.int64]:
        """The classes of the clips shown, [M]."""
        return self.work.tensors.labels[torch.from_numpy(self.shown)].clamp(min=0).numpy()

    @cached_property
    def taken_for(self) -> npt.NDArray[np.int64]:
        """The classes that the clips shown are taken for, [M]; a training clip's is its own, as is that of each clip
        where none is scored.
        """
        if self.unscored:
            return self.shown_labels
        return np.concatenate([self.shown_labels[~self.tested], self.scores.argmax(1)])

    @cached_property
    def places(self) -> npt.NDArray[np.float32]:
        """Where the map has each clip shown, [M, 2]."""
        return tsne(self.features.numpy())

    @cached_property
    def neighbours(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Of each clip shown the nearest training clips shown, by cosine, the nearest first, but itself: their places
        among those shown, and the cosines, [M, NEIGHBOURS] each.
        """
        directions = F.normalize(self.features, dim=1)
        training = int((~self.tested).sum())
        similarity = directions @ directions[:training].t()
        similarity[:training].fill_diagonal_(-torch.inf)
        values, nearest = similarity.topk(min(NEIGHBOURS, training - 1), dim=1)
        return nearest.numpy(), values.numpy()

    @cached_property
    def mistakes(self) -> list[int]:
        """Places of the test clips shown that are taken for another class, the surest first."""
        wrong = np.flatnonzero(self.tested & (self.taken_for != self.shown_labels))
        sure = self.scores.max(1)[wrong - int((~self.tested).sum())]
        return [int(place) for place in wrong[np.argsort(-sure, kind="stable")]]

    @cached_property
    def drawn(self) -> Prepared:
        """All clips as a page draws them: as the network sees them, but in one scale for all axes of a clip."""
        steps = self.config.preprocessing
        drawn = replace(steps, max_frames=min(steps.max_frames, MOST_FRAMES), normalization="clip")
        return prepare(self.config.dataset, self.data, self.config.split_name, drawn)

    @property
    def clips(self) -> Clips:
        return self.drawn.clips

    @cached_property
    def skeleton(self) -> Skeleton:
        """What the clips show."""
        return skeleton_of(self.clips.frames, self.clips.tree)

    def packed(self, clips: Sequence[FloatArray], like: Sequence[FloatArray] | None = None) -> dict[str, Any]:
        """Clips, each [T, J, 3], turned upright and packed; see `pack`."""
        up = up_of(self.skeleton, self.clips.frames)
        turned = [[upright(clip, up)[0] for clip in some] for some in (clips, like or clips)]
        return pack(turned[0], self.skeleton, turned[1])

    @cached_property
    def recited(self) -> Recited:
        """Some test clips, of as many classes as there are, as the run's decoder recites them; where there are no test
        clips, training clips.
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
    """Logits [N, C] of the test clips, by the classifier that evaluation kept, else by one that is trained now; and
    which one, in words.
    """
    if kept := work.kept_logits(TESTS):
        logits, protocol = kept
        return logits, f"By the classifier that crrl evaluate kept in the run folder (protocol {protocol})"
    words = "By a linear classifier, trained for this page as crrl evaluate trains it, since the run folder keeps none"
    return linear_scores(train, test, len(work.class_names)), words


def _thinned(train: int, test: int) -> tuple[Tensor, Tensor]:
    """Places of training and test clips, evenly spaced, that are MOST_CLIPS together at most."""
    share = min(1.0, MOST_CLIPS / (train + test))
    one, other = (
        torch.from_numpy(np.linspace(0, count - 1, min(count, max(1, int(count * share)))).astype(np.int64))
        for count in (train, test)
    )
    return one, other


def _reconstructor(run: RunFolder, work: Evaluation) -> SequenceReconstructor | str:
    """The encoder and decoder of a run's last phase, from its checkpoint; or why there are none."""
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
