"""Information Fuser (Section III-C, Eqs. 7 and 8): the parts that teach one encoder, and the sum of their losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from crrl.models.contrast import ContrastiveMotionLearner
from crrl.models.layers import Encoder, MLPHead
from crrl.models.reconstruction import SequenceReconstructor
from crrl.reference.losses import distillation_loss
from crrl.reference.motion import temporal_average


@dataclass(frozen=True)
class Views:
    """What the parts of an Information Fuser see of the same clips.

    Attributes:
        read: [B, T, J·3] coordinates, the encoder's input. recited: [B, T, J·3] coordinates, the target of L_r (Eq. 1).
        lengths: int64 [B], of `read`, `recited` and `velocity`.
        velocity: [B, T, J·3] (Eq. 2), the generator's target; needed only for a generator.
        contrasted: [B, T', J·3], the key encoder's input; needed only for a learner.
        contrasted_lengths: int64 [B], of `contrasted`; None: `lengths`.
    """

    read: Tensor
    recited: Tensor
    lengths: Tensor
    velocity: Tensor | None = None
    contrasted: Tensor | None = None
    contrasted_lengths: Tensor | None = None


class InformationFuser(nn.Module):
    """One encoder and the parts that teach it; a part that is None adds no loss.

    Args:
        reconstructor: recites the clip's coordinates, L_r (Eq. 1).
        distill_weight: λ_d of Eq. 8: a projection of the representation learns a frozen teacher's; 0: no teacher.
        learner: contrasts the representation with keys, L_c (Eq. 6).
        generator: recites the clip's velocities from the hidden states of its coordinates (Fig. 9), as Eq. 1 does.

    Raises:
        ValueError: the parts have different encoders, or there is no part.
    """

    def __init__(
        self,
        reconstructor: SequenceReconstructor | None = None,
        distill_weight: float = 0.0,
        learner: ContrastiveMotionLearner | None = None,
        generator: SequenceReconstructor | None = None,
    ):
        super().__init__()
        self.learner = learner  # first: the keys follow the parameters that lead the optimizer's buffer
        self.reconstructor = reconstructor
        self.generator = generator
        self.distill_weight = distill_weight
        encoder = self.encoder
        if any(part is not None and part.encoder is not encoder for part in (reconstructor, generator)):
            raise ValueError("the parts share one encoder")
        self.mlp = MLPHead(encoder.features) if distill_weight else None

    @property
    def encoder(self) -> Encoder:
        """The encoder that all parts share."""
        if self.learner is not None:
            return self.learner.query_encoder
        part = self.reconstructor or self.generator
        if part is None:
            raise ValueError("there is no part that could train an encoder")
        return part.encoder

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that `forward` adds up."""
        parts = {"c": self.learner, "r": self.reconstructor, "v": self.generator, "d": self.mlp}
        return tuple(f"loss_{name}" for name, part in parts.items() if part is not None)

    def forward(
        self, views: Views, teacher: Tensor | None = None, enqueue: bool = False
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The loss L_c + L_r + L_v + λ_d L_d of the present parts (CRRL: Eq. 8), a scalar; its terms by name; the keys.

        Args:
            teacher: TAP of the frozen teacher's hidden states, [B, D] (Algorithm 1, line 30); read if λ_d is not 0.
            enqueue: put the keys into the learner's queue once the loss is computed.
        """
        losses, keys, lengths = {}, None, views.lengths
        if self.learner is None:
            h = self.encoder(views.read, lengths)
        else:
            assert views.contrasted is not None
            h, keys = self.learner.encode(views.read, views.contrasted, lengths, views.contrasted_lengths)
            losses["loss_c"] = self.learner.loss(temporal_average(h, lengths), keys, enqueue)
        if self.reconstructor is not None:
            losses["loss_r"] = self.reconstructor.loss_r(views.recited, h, lengths)
        if self.generator is not None:
            assert views.velocity is not None
            losses["loss_v"] = self.generator.loss_r(views.velocity, h, lengths)
        terms = list(losses.values())
        if self.mlp is not None:
            assert teacher is not None
            losses["loss_d"] = distillation_loss(teacher, self.mlp(temporal_average(h, lengths)))
            terms.append(self.distill_weight * losses["loss_d"])
        return sum(terms[1:], terms[0]), {name: loss.detach() for name, loss in losses.items()}, keys
