"""A phase of any method, for the one training loop, and the frozen teacher between two phases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crrl.config import Config
from crrl.data import Batch, ClipTensors
from crrl.data.augmentation import RandomTurn, noise, replayed, rotation, shear, take_turn
from crrl.data.clips import IntArray
from crrl.features import encode, encode_takes
from crrl.methods import PhaseSpec
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor, Views
from crrl.optim import Follow
from crrl.training.ranks import Ranks, Share

TEACHER_TAKES = 8
"""The number of other takes over which a teacher's features of a clip are averaged, besides the clip itself."""
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {"noise": noise, "shear": shear, "rotation": rotation}


def build_module(
    spec: PhaseSpec, config: Config, channels: int, previous: Encoder | None = None, compiled: bool = False
) -> InformationFuser:
    """The module that a phase trains, with weights from torch's random state.

    Args:
        channels: J·3. previous: the encoder of the phase before, for a spec that starts from it.
        compiled: compile the decoder by torch.compile.
    """
    cml, ser, dropout = config.cml, config.ser, config.encoder.dropout
    encoder = Encoder(channels, config.encoder.hidden_size, dropout, config.encoder.input_gain)
    if spec.start == "previous":
        assert previous is not None
        encoder.load_state_dict(previous.state_dict())

    def reciter() -> SequenceReconstructor:
        decoder = Decoder(encoder.features, channels, ser.decoder_hidden, dropout)
        made = SequenceReconstructor(encoder, decoder, spec.directions)
        made.compiled = compiled
        return made

    learner = None
    if spec.contrast is not None:
        settings = cml.queue_size, cml.temperature, cml.momentum_encoder, cml.momentum_mlp
        learner = ContrastiveMotionLearner(encoder, *settings)
    return InformationFuser(
        learner=learner,
        reconstructor=reciter() if "coordinates" in spec.recite else None,
        generator=reciter() if "velocity" in spec.recite else None,
        distill_weight=ser.distill_weight if spec.teacher else 0.0,
    )


class Phase:
    """One phase: keys (Algorithm 1, lines 8 and 9), loss, enqueue; the optimizer's pass does the momentum update.

    With one process, the call that computes the loss also enqueues the keys. With several ranks, the keys of all are
    enqueued once the weights are updated: if a rank is lost in between, queue and weights are of the same step.

    Args:
        spec: its specification. module: everything that is trained and saved. ranks: the processes that train together.
        teacher: gives TAP(f_t(x)) of a batch, for a spec that has a teacher.
        yaw: how far the encoders' inputs are turned, in degrees; what is recited is not turned.
        velocity_scale: a factor on the velocities that the key encoder reads.
        takes: the encoders' inputs are also tilted and stretched, and every batch cuts its clips and changes their
            pace, anew for each encoder; what is recited has the same cut and pace.

    Attributes:
        name: of the phase. with_velocity: whether its batches must hold velocities.
        losses: the names of the loss and then of its parts.
    """

    def __init__(
        self,
        spec: PhaseSpec,
        module: InformationFuser,
        ranks: Ranks,
        teacher: Teacher | None = None,
        yaw: float = 0.0,
        velocity_scale: float = 1.0,
        takes: bool = False,
    ):
        self.module, self._velocity_scale, self._takes = module, velocity_scale, takes
        self._turn = take_turn(yaw) if takes else RandomTurn(yaw)
        self.name = spec.step
        self.with_velocity = spec.contrast == "velocity" or "velocity" in spec.recite
        self.losses = ("loss", *module.losses)
        self._augment = None if spec.contrast is None else AUGMENTATIONS.get(spec.contrast)
        self._ranks, self._teacher = ranks, teacher
        self._keys: Tensor | None = None

    @property
    def follow(self) -> Follow:
        """The parameters that follow the trained ones by Eq. 5, with their momenta."""
        return () if self.module.learner is None else self.module.learner.follow

    def loss(self, batch: Batch, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts to report: means over the rank's share of a batch."""
        target = None if self._teacher is None else self._teacher.features(batch)
        alone = self._ranks.size == 1
        loss, parts, keys = self.module(self._views(batch), target, enqueue=alone)
        if keys is not None and not alone:
            self._keys = self._ranks.gather(keys, share)
        return loss, parts

    def _views(self, batch: Batch) -> Views:
        """What each part sees of a batch. The key encoder sees velocities, scaled and turned by their own angles, or
        augmented coordinates; with takes, those of another take, which has its own lengths."""
        shown = self._shown(batch)
        read = self._turn(shown.x)
        if self.module.learner is None:
            return Views(read, shown.x, shown.lengths, shown.v)
        other = self._shown(batch)
        if self._augment is not None:
            contrasted = self._augment(other.x)
        else:
            assert other.v is not None
            contrasted = self._velocity_scale * self._turn(other.v)
        lengths = other.lengths if self._takes else None
        return Views(read, shown.x, shown.lengths, shown.v, contrasted, lengths)

    def _shown(self, batch: Batch) -> Batch:
        return replayed(batch) if self._takes else batch

    def after_step(self) -> None:
        """Enqueue the keys of all ranks, if there are several; called once the weights are updated."""
        if self.module.learner is not None and self._keys is not None:
            self.module.learner.enqueue(self._keys)


class Teacher:
    """The frozen encoder of the phase before; its features of a clip never change, so they are computed once.

    Args:
        encoder: the encoder; no gradient ever reaches it.
        tensors: the clips. train: int64 [N_train], the clips whose features are needed.
        takes: features are the mean over a clip and this many other takes of it. yaw: how far these are turned, in
            degrees.
        silent: show no bar.
    """

    def __init__(
        self,
        encoder: Encoder,
        tensors: ClipTensors,
        train: IntArray,
        takes: int = 0,
        yaw: float = 0.0,
        silent: bool = False,
    ):
        encoder.requires_grad_(False).eval()
        index = torch.from_numpy(train)
        known = encode(encoder.pooled, tensors, index)
        known = sum(encode_takes(encoder.pooled, tensors, index, takes, yaw, silent), known) / (1 + takes)
        self._known = known.new_zeros(len(tensors.labels), known.shape[1])
        self._known[index.to(known.device)] = known

    def features(self, batch: Batch) -> Tensor:
        """TAP of its hidden states (Algorithm 1, line 30), [B, D]; the same for every take of a clip."""
        return self._known[batch.index]
