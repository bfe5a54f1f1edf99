"""The two training steps as they are written first, in examples/crrl_in_one_file.py: the peer "straightforward".

torch.nn.GRU on packed rows, clips collated one by one, each direction decoded by a call of its own from a hint repeated
in every frame, the momentum update parameter by parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crrl.data import ClipTensors
from crrl.models import ContrastiveMotionLearner, InformationFuser
from examples.crrl_in_one_file import CML, SER, Settings, descend


def as_cml(learner: ContrastiveMotionLearner) -> CML:
    """The same weights and queue in the example's, which has no pointer: it keeps the keys in their order."""
    gru = learner.query_encoder.gru
    settings = Settings(
        gru.hidden_size, dropout=gru.dropout, queue_size=len(learner.queue), temperature=learner.temperature,
        momentum=learner.momentum_encoder,
    )  # fmt: skip
    made = CML(gru.input_size, settings)
    weights = learner.state_dict()
    weights["queue"] = weights["queue"].roll(-int(weights.pop("pointer")), 0)
    made.load_state_dict(weights)
    return made


def as_ser(fuser: InformationFuser) -> SER:
    """The same weights in the example's."""
    gru, decoder = fuser.encoder.gru, fuser.reconstructor.decoder
    projected = isinstance(decoder.output, nn.Linear)
    settings = Settings(
        gru.hidden_size, decoder.gru.hidden_size if projected else None, gru.dropout,
        distill_weight=fuser.distill_weight,
    )  # fmt: skip
    made = SER(gru.input_size, settings)
    made.load_state_dict({name.removeprefix("reconstructor."): weight for name, weight in fuser.state_dict().items()})
    return made


class Stepper:
    """One step of Adam at learning rate 0 on the clips `index`, again and again, where they lie."""

    def __init__(self, model: CML | SER, tensors: ClipTensors, index: Tensor):
        offsets = tensors.offsets.tolist()
        self.clips = [tensors.frames[offsets[i] : offsets[i + 1]] for i in index.tolist()]
        self.model = model.to(tensors.frames.device)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=0)

    def update(self, loss: Tensor) -> list[Tensor]:
        """The loss and the gradients of all parameters."""
        descend(self.optimizer, loss)
        return [loss.detach(), *(parameter.grad for parameter in self.trained if parameter.grad is not None)]


class Contrast(Stepper):
    """Step 1, from the weights of a ContrastiveMotionLearner."""

    def __init__(self, learner: ContrastiveMotionLearner, tensors: ClipTensors, index: Tensor):
        super().__init__(as_cml(learner), tensors, index)

    def __call__(self) -> list[Tensor]:
        loss, keys = self.model(self.clips)
        results = self.update(loss)
        self.model.follow(keys)
        return results


class Reconstruction(Stepper):
    """Step 2, from the weights of an InformationFuser and the features [B, D] that its teacher gives."""

    def __init__(self, fuser: InformationFuser, teacher: Tensor, tensors: ClipTensors, index: Tensor):
        super().__init__(as_ser(fuser), tensors, index)
        self.teacher = teacher

    def __call__(self) -> list[Tensor]:
        return self.update(self.model(self.clips, self.teacher))
