"""The two training steps as they are written first: the peer "straightforward".

torch.nn.GRU on packed rows, clips collated one by one, each direction decoded by a call of its own from a hint repeated
in every frame, the momentum update parameter by parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from crrl.data import ClipTensors
from crrl.models import ContrastiveMotionLearner, InformationFuser


def as_torch(gru: nn.GRU) -> nn.GRU:
    """The same weights in a torch.nn.GRU of its own."""
    plain = nn.GRU(
        gru.input_size, gru.hidden_size, gru.num_layers, batch_first=True, dropout=gru.dropout,
        bidirectional=gru.bidirectional,
    )  # fmt: skip
    plain.load_state_dict(gru.state_dict())
    return plain


def collate(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips [T, C] as x [B, T, C] and lengths [B], on the CPU as torch packs rows by them."""
    return pad_sequence(list(clips), batch_first=True), torch.tensor([len(clip) for clip in clips])


def velocity(clip: Tensor) -> Tensor:
    """Eq. 2."""
    if len(clip) == 1:
        return torch.zeros_like(clip)
    v = clip[1:] - clip[:-1]
    return torch.cat([v, v[-1:]])


def run_packed(gru: nn.GRU, x: Tensor, lengths: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def mask(lengths: Tensor, frames: int) -> Tensor:
    return (torch.arange(frames)[None] < lengths[:, None]).float()


def average(h: Tensor, lengths: Tensor) -> Tensor:
    """TAP."""
    valid = mask(lengths, h.shape[1])[:, :, None].to(h.device)
    return (h * valid).sum(1) / valid.sum(1)


class Stepper(nn.Module):
    """One step of Adam at learning rate 0 on the clips `index`, again and again, where they lie."""

    def __init__(self, tensors: ClipTensors, index: Tensor):
        super().__init__()
        offsets = tensors.offsets.tolist()
        self.clips = [tensors.frames[offsets[i] : offsets[i + 1]] for i in index.tolist()]

    def start(self) -> None:
        self.to(self.clips[0].device)
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=0)

    def update(self, loss: Tensor) -> list[Tensor]:
        """The loss and the gradients of all parameters."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return [loss.detach(), *(parameter.grad for parameter in self.trained if parameter.grad is not None)]


class Contrast(Stepper):
    """Step 1, from the weights of a ContrastiveMotionLearner."""

    def __init__(self, model: ContrastiveMotionLearner, tensors: ClipTensors, index: Tensor):
        super().__init__(tensors, index)
        self.query_encoder, self.query_mlp = as_torch(model.query_encoder.gru), copy.deepcopy(model.query_mlp)
        self.key_encoder = as_torch(model.key_encoder.gru).requires_grad_(False)
        self.key_mlp = copy.deepcopy(model.key_mlp)
        self.queue, self.pointer = model.queue.clone(), 0
        self.temperature, self.momentum = model.temperature, model.momentum_encoder
        self.start()

    def forward(self) -> list[Tensor]:
        x, lengths = collate(self.clips)
        v, _ = collate([velocity(clip) for clip in self.clips])
        with torch.no_grad():
            for key, query in zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True):
                key.data = key.data * self.momentum + query.data * (1 - self.momentum)
            k = F.normalize(self.key_mlp(average(run_packed(self.key_encoder, v, lengths), lengths)), dim=1)
        q = F.normalize(self.query_mlp(average(run_packed(self.query_encoder, x, lengths), lengths)), dim=1)
        positive, negative = torch.einsum("nc,nc->n", q, k)[:, None], torch.einsum("nc,kc->nk", q, self.queue)
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        results = self.update(F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device)))
        self.queue[self.pointer : self.pointer + len(k)] = k
        self.pointer = (self.pointer + len(k)) % len(self.queue)
        return results


class Reconstruction(Stepper):
    """Step 2, from the weights of an InformationFuser and the features [B, D] that its teacher gives."""

    def __init__(self, model: InformationFuser, teacher: Tensor, tensors: ClipTensors, index: Tensor):
        super().__init__(tensors, index)
        self.teacher, self.weight = teacher, model.distill_weight
        self.encoder = as_torch(model.reconstructor.encoder.gru)
        self.decoder = as_torch(model.reconstructor.decoder.gru)
        self.output, self.mlp = copy.deepcopy(model.reconstructor.decoder.output), copy.deepcopy(model.mlp)
        self.start()

    def error(self, target: Tensor, hint: Tensor, lengths: Tensor) -> Tensor:
        """One direction of Eq. 1."""
        frames = target.shape[1]
        decoded = self.output(self.decoder(hint[:, None].repeat(1, frames, 1))[0])
        squared = ((target - decoded) ** 2).sum(2) * mask(lengths, frames).to(target.device)
        return (squared.sum(1) / lengths.to(target.device)).mean()

    def forward(self) -> list[Tensor]:
        assert self.mlp is not None
        x, lengths = collate(self.clips)
        turned, _ = collate([clip.flip(0) for clip in self.clips])
        h = run_packed(self.encoder, x, lengths)
        last = h[torch.arange(len(h)), lengths - 1]
        loss_r = self.error(x, h[:, 0], lengths) + self.error(turned, last, lengths)
        loss_d = ((self.teacher - self.mlp(average(h, lengths))) ** 2).sum(1).mean()
        return self.update(loss_r + self.weight * loss_d)
