"""A phase of a method, whichever it is, for the one training loop; and the frozen teacher between two phases."""

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
"""Other takes of a clip that a teacher's features are the mean of, beside the clip's own."""
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {"noise": noise, "shear": shear, "rotation": rotation}


def build_module(
    spec: PhaseSpec, config: Config, channels: int, previous: Encoder | None = None, compiled: bool = False
) -> InformationFuser:
    """What a phase trains, with weights from torch's random state.

    Args:
        channels: J·3. previous: the encoder of the phase before, for a spec that starts from it.
        compiled: decode by torch.compile.
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

    The keys of a process alone enter the queue by the call that computes their loss. Those of all ranks enter once the
    weights are updated: a rank that is lost in between leaves queue and weights of the same step.

    Args:
        spec: what it is. module: all that is trained and saved. ranks: the processes that train together.
        teacher: gives TAP(f_t(x)) of a batch, for a spec that has one.
        yaw: how far what the encoders read is turned, degrees; what is recited is not turned.
        velocity_scale: factor of the velocities that the key encoder reads.
        takes: what the encoders read is tilted and stretched as well, and clips are cut and at another pace in every
            batch, for each encoder anew; they are so recited.

    Attributes:
        name: of the phase. with_velocity: whether its batches are to hold velocities.
        losses: names of the loss and, after it, of its parts.
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
        """What follows the trained parameters by Eq. 5."""
        return () if self.module.learner is None else self.module.learner.follow

    def loss(self, batch: Batch, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise and its parts to report, means over the rank's share of a batch."""
        target = None if self._teacher is None else self._teacher.features(batch)
        alone = self._ranks.size == 1
        loss, parts, keys = self.module(self._views(batch), target, enqueue=alone)
        if keys is not None and not alone:
            self._keys = self._ranks.gather(keys, share)
        return loss, parts

    def _views(self, batch: Batch) -> Views:
        """What each part sees of a batch. Key encoders see velocities, turned by angles of their own and scaled, or
        augmented coordinates; of takes those of another take, whose lengths are others."""
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
        """What happens once the weights are updated."""
        if self.module.learner is not None and self._keys is not None:
            self.module.learner.enqueue(self._keys)


class Teacher:
    """The frozen encoder of the phase before: what it gives for each clip never changes, so it is computed once.

    Args:
        encoder: the encoder; no gradient ever reaches it.
        tensors: the clips. train: int64 [N_train], those it will be asked about.
        takes: it gives its mean over a clip and this many other takes of it. yaw: how far these are turned, degrees.
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
        """TAP of its hidden states (Algorithm 1, line 30), [B, D], whatever take of the clips the batch holds."""
        return self._known[batch.index]
