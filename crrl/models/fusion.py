"""Information Fuser (Section III-C, Eqs. 7 and 8): distils the teacher's motion into the reconstructor's encoder."""

from __future__ import annotations

from torch import Tensor, nn

from crrl.models.layers import MLPHead
from crrl.models.reconstruction import SequenceReconstructor
from crrl.reference.losses import distillation_loss
from crrl.reference.motion import temporal_average


class InformationFuser(nn.Module):
    """The Sequence Reconstructor with a projection of its representation onto the frozen teacher's.

    Args:
        reconstructor: the student encoder and its decoder.
        distill_weight: λ_d of Eq. 8; 0 trains SER alone, without head.
    """

    def __init__(self, reconstructor: SequenceReconstructor, distill_weight: float):
        super().__init__()
        self.reconstructor = reconstructor
        self.distill_weight = distill_weight
        self.mlp = MLPHead(reconstructor.encoder.features) if distill_weight else None

    def forward(self, x: Tensor, lengths: Tensor, teacher: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_joint = L_r + λ_d L_d (Eq. 8), a scalar, and its parts by name.

        Args:
            x: [B, T, J·3]. lengths: int64 [B].
            teacher: TAP of the frozen teacher's hidden states, [B, D] (Algorithm 1, line 30); None when λ_d is 0.
        """
        loss_r, h = self.reconstructor(x, lengths)
        if self.mlp is None or teacher is None:
            return loss_r, {"loss_r": loss_r.detach()}
        loss_d = distillation_loss(teacher, self.mlp(temporal_average(h, lengths)))
        return loss_r + self.distill_weight * loss_d, {"loss_r": loss_r.detach(), "loss_d": loss_d.detach()}
