"""CRRL in one file of plain PyTorch, to be read beside the paper: its names, its equations, the lines of Algorithm 1.

    python examples/crrl_in_one_file.py                       # on clips that it makes itself, in seconds
    python examples/crrl_in_one_file.py clips.npz --paper     # on your own, by the paper's settings

An .npz holds what crrl.data.Clips does, `frames` [ΣT, J, 3], all clips one after the other, `offsets` [N + 1], where
each begins, `labels` [N], and the numbers of the clips that `train` and `test`. Nothing of the crrl package is
imported; tests/test_one_file.py holds losses, gradients and weights to those of `crrl train --no-fused`. Shapes: B
clips, T frames, D = 2·hidden.

Its own clips are few: with --seed 0 to 5 CRRL tells 50 to 80 % of the test clips right, a random encoder 42 to 64, and
raw coordinates, 70 to 86, are not beaten. docs/results.md has what real clips give.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


@dataclass(frozen=True)
class Settings:
    """Those of Section IV-B, and for NW-UCLA where data sets differ. Pairs are of step 1 and step 2."""

    hidden: int = 256  # units of the encoders' GRUs in each direction
    decoder_hidden: int | None = None  # None: the decoder's states are the sequence, within (-1, 1)
    dropout: float = 0.2
    queue_size: int = 64  # K
    temperature: float = 0.1  # τ
    momentum: float = 0.999  # m
    velocity_scale: float = 1.0  # a factor of Eq. 2: where velocities are small, all keys are alike
    distill_weight: float = 0.1  # λ_d, which the paper does not give
    optimizer: str = "sgd"  # with momentum 0.9, or adam
    lr: tuple[float, float] = (0.01, 0.04)
    epochs: tuple[int, int] = (100, 60)
    batch_size: int = 32


FEW = Settings(
    hidden=32, decoder_hidden=32, dropout=0, velocity_scale=10, distill_weight=3, optimizer="adam",
    lr=(0.006, 0.006), epochs=(20, 20), batch_size=16,
)  # fmt: skip
"""For a hundred clips, hence a few hundred steps: by the paper's settings the contrast would stay where it starts.
Tried out on the clips that this file makes, test clips too: for a demonstration, not for a claim."""


def prepared(frames: np.ndarray, longest: int = 60) -> Tensor:
    """A clip [T, J, 3] as the network reads it, [T', J·3]: at most `longest` frames, each axis within [-1, 1].

    A joint at (0, 0, 0) is missing, and stays there. NTU's clips the paper turns into axes of the body before.
    """
    kept = np.linspace(0, len(frames) - 1, min(len(frames), longest)) + 0.5
    clip = frames[kept.astype(int)].astype(np.float64)
    there = clip.any(axis=2)
    low, high = (end(clip[there], axis=0) if there.any() else np.zeros(3) for end in (np.min, np.max))
    half = np.where(high > low, (high - low) / 2, 1)
    scaled = np.where(there[:, :, None], (clip - (low + high) / 2) / half, 0)
    return torch.from_numpy(scaled.astype(np.float32)).flatten(1)


def velocity(clip: Tensor) -> Tensor:
    """Eq. 2, [T, J·3] to [T, J·3]: the way to the next frame, the last one repeated."""
    return torch.cat([clip[1:] - clip[:-1], clip[-1:] - clip[-2:-1]]) if len(clip) > 1 else torch.zeros_like(clip)


def collate(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips [T, J·3] as x [B, T, J·3], padded with zeros, and lengths [B], on the CPU as torch packs rows by them."""
    return pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


def average(h: Tensor, lengths: Tensor) -> Tensor:
    """TAP, temporal average pooling: the mean over each row's valid frames, [B, T, D] to [B, D]."""
    valid = (torch.arange(h.shape[1]) < lengths[:, None])[:, :, None].to(h)
    return (h * valid).sum(1) / valid.sum(1)


class Encoder(nn.Module):
    """Two layers of bidirectional GRU: x [B, T, J·3] to hidden states h [B, T, D]; a padded frame is no frame."""

    def __init__(self, channels: int, settings: Settings):
        super().__init__()
        sizes = channels, settings.hidden, 2
        self.gru = nn.GRU(*sizes, batch_first=True, dropout=settings.dropout, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class Decoder(nn.Module):
    """Two layers of GRU: a hint [B, D], repeated in every frame, to a sequence [B, frames, J·3]."""

    def __init__(self, channels: int, settings: Settings):
        super().__init__()
        hidden = settings.decoder_hidden
        self.gru = nn.GRU(2 * settings.hidden, hidden or channels, 2, batch_first=True, dropout=settings.dropout)
        self.output = nn.Linear(hidden, channels) if hidden else nn.Identity()

    def forward(self, hint: Tensor, frames: int) -> Tensor:
        return self.output(self.gru(hint[:, None].repeat(1, frames, 1))[0])


def mlp(settings: Settings) -> nn.Sequential:
    """The nonlinear projection, [B, D] to [B, D]."""
    size = 2 * settings.hidden
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


class CML(nn.Module):
    """Contrastive Motion Learner (Section III-B): the query encoder reads coordinates, the key encoder velocities."""

    def __init__(self, channels: int, settings: Settings):
        super().__init__()
        self.settings = settings
        self.query_encoder, self.query_mlp = Encoder(channels, settings), mlp(settings)
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)  # line 2
        self.key_mlp = mlp(settings).requires_grad_(False)  # stays random: Table IX, its momentum is 1
        self.register_buffer("queue", F.normalize(torch.randn(settings.queue_size, 2 * settings.hidden), dim=1))

    def forward(self, clips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """L_c (Eq. 6), a scalar, and the keys [B, D], which `follow` takes once the weights are updated."""
        x, lengths = collate(clips)
        v, _ = collate([self.settings.velocity_scale * velocity(clip) for clip in clips])  # line 6
        q = F.normalize(self.query_mlp(average(self.query_encoder(x, lengths), lengths)), dim=1)  # Eq. 3
        with torch.no_grad():  # line 9
            k = F.normalize(self.key_mlp(average(self.key_encoder(v, lengths), lengths)), dim=1)  # Eq. 4
        positive, negative = (q * k).sum(1, keepdim=True), q @ self.queue.t()  # lines 10 and 11
        logits = torch.cat([positive, negative], dim=1) / self.settings.temperature
        return F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64)), k  # the 0th is the positive

    @torch.no_grad()
    def follow(self, keys: Tensor) -> None:
        """Eq. 5, and the keys into the queue in place of the oldest (lines 16 to 18)."""
        m = self.settings.momentum
        for key, query in zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True):
            key.copy_(m * key + (1 - m) * query)
        self.queue = torch.cat([self.queue, keys])[-len(self.queue) :]


class SER(nn.Module):
    """Sequence Reconstructor (Section III-A), with the projection of the Information Fuser (Section III-C)."""

    def __init__(self, channels: int, settings: Settings):
        super().__init__()
        self.settings = settings
        self.encoder, self.decoder, self.mlp = Encoder(channels, settings), Decoder(channels, settings), mlp(settings)

    def forward(self, clips: list[Tensor], taught: Tensor) -> Tensor:
        """L_joint (Eq. 8), a scalar. taught: h_t [B, D], the frozen teacher's features of these clips."""
        x, lengths = collate(clips)
        reverse, _ = collate([clip.flip(0) for clip in clips])  # line 26
        h = self.encoder(x, lengths)
        first, last = h[:, 0], h[torch.arange(len(h)), lengths - 1]  # h_1 and h_T: a row's last valid frame
        loss_r = self.error(x, first, lengths) + self.error(reverse, last, lengths)  # Eq. 1
        loss_d = (taught - self.mlp(average(h, lengths))).square().sum(1).mean()  # Eq. 7
        return loss_r + self.settings.distill_weight * loss_d

    def error(self, target: Tensor, hint: Tensor, lengths: Tensor) -> Tensor:
        """One direction of Eq. 1: squares summed over coordinates, the mean over valid frames, and over the batch."""
        return average((target - self.decoder(hint, target.shape[1])).square(), lengths).sum(1).mean()


def optimizer_of(model: nn.Module, settings: Settings, lr: float) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return torch.optim.Adam(trained, lr, weight_decay=1e-4)
    return torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=1e-4)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def batches(count: int, size: int) -> tuple[Tensor, ...]:
    """The clips of each batch of an epoch, in random order; a last, short batch is left out."""
    size = min(size, count)
    return torch.randperm(count)[: count - count % size].split(size)


def train_cml(clips: list[Tensor], settings: Settings) -> CML:
    """Step 1 of Algorithm 1. clips: each [T, J·3]."""
    model = CML(clips[0].shape[1], settings)
    optimizer = optimizer_of(model, settings, settings.lr[0])
    for epoch in range(settings.epochs[0]):
        losses = []
        for index in batches(len(clips), settings.batch_size):
            loss, keys = model([clips[i] for i in index])
            descend(optimizer, loss)
            model.follow(keys)
            losses.append(loss.item())
        tell("step 1, L_c    ", epoch, settings.epochs[0], losses)
    return model


def train_ser(clips: list[Tensor], teacher: Encoder, settings: Settings) -> SER:
    """Step 2 of Algorithm 1. teacher: step 1's query encoder; it is frozen, so what it says of a clip never changes."""
    model, taught = SER(clips[0].shape[1], settings), features(teacher, clips)  # lines 29 and 30
    optimizer = optimizer_of(model, settings, settings.lr[1])
    falling = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 50], gamma=0.5)
    for epoch in range(settings.epochs[1]):
        losses = []
        for index in batches(len(clips), settings.batch_size):
            loss = model([clips[i] for i in index], taught[index])
            descend(optimizer, loss)
            losses.append(loss.item())
        falling.step()
        tell("step 2, L_joint", epoch, settings.epochs[1], losses)
    return model


def tell(step: str, epoch: int, epochs: int, losses: list[float]) -> None:
    if epoch in (0, epochs // 2, epochs - 1):
        print(f"{step}  epoch {epoch + 1:3} of {epochs}  {np.mean(losses):.3f}")


@torch.no_grad()
def features(encoder: Encoder, clips: list[Tensor]) -> Tensor:
    """What is tested: TAP of the hidden states, before the projection and without dropout; [N, D]."""
    encoder.eval()
    parts = [collate(clips[first : first + 128]) for first in range(0, len(clips), 128)]
    return torch.cat([average(encoder(x, lengths), lengths) for x, lengths in parts])


def raw(clips: list[Tensor], frames: int = 32) -> Tensor:
    """Nothing learnt: the coordinates of all clips at one length, [N, J·3·frames]."""
    played = [F.interpolate(clip.t()[None], frames, mode="linear", align_corners=True) for clip in clips]
    return torch.cat(played).flatten(1)


def nearest(known: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """1-NN: labels [M] of the training clips, features [N, D], that are most like `asked` [M, D] by cosine."""
    return labels[(F.normalize(asked, dim=1) @ F.normalize(known, dim=1).t()).argmax(1)]


def swings(seed: int, people: int = 12, actions: int = 8, joints: int = 8) -> dict[str, np.ndarray]:
    """Bodies whose joints swing. An action: which ones, how fast, how far, in what order. The last people test.

    A person stands in a way of their own, is as large and as quick as no other, and does everything twice; each time
    is seen from another side, begins at any moment, and is noisy.
    """
    rng = np.random.default_rng(seed)
    rest, clips, labels = rng.uniform(-1, 1, (joints, 3)), [], []
    known = []
    for _ in range(actions):
        reach = rng.normal(0, 0.6, (joints, 3)) * (rng.permutation(joints) < joints // 2)[:, None]
        known.append((rng.choice([0.5, 1, 1.5], (joints, 1)), reach, rng.uniform(0, 2 * np.pi, (joints, 1))))
    for _ in range(people):
        stand, size, pace = rest + rng.normal(0, 0.2, rest.shape), rng.uniform(0.8, 1.2, 3), rng.uniform(0.8, 1.25)
        for label, (speed, reach, order) in [*enumerate(known)] * 2:
            t = rng.uniform(0, 4 * np.pi) + 0.6 * pace * np.arange(rng.integers(12, 25))[:, None, None]
            body = (stand + rng.uniform(0.6, 1.2) * reach * np.sin(speed * t + order)) * size
            sine, cosine = (function(rng.normal(0, 0.3)) for function in (np.sin, np.cos))
            seen = body @ np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
            clips.append(seen + rng.normal(0, 0.03, seen.shape))
            labels.append(label)
    numbers, trained = np.arange(len(clips)), len(clips) * 2 // 3
    offsets = np.cumsum([0, *map(len, clips)])
    made = {"frames": np.concatenate(clips), "offsets": offsets, "labels": np.array(labels)}
    return {**made, "train": numbers[:trained], "test": numbers[trained:]}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, print the losses, and print and return the 1-NN accuracies on the test clips."""
    parser = argparse.ArgumentParser(description="CRRL in plain PyTorch")
    parser.add_argument("clips", nargs="?", help=".npz of frames, offsets, labels, train and test; else its own")
    parser.add_argument("--paper", action="store_true", help="the paper's sizes, epochs and optimizer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    settings = Settings() if options.paper else FEW

    data = dict(np.load(options.clips)) if options.clips else swings(options.seed)
    clips = [prepared(clip) for clip in np.split(data["frames"], data["offsets"][1:-1])]
    train, test = ([clips[i] for i in data[side]] for side in ("train", "test"))
    labels, right = (torch.from_numpy(data["labels"][data[side]]) for side in ("train", "test"))
    print(f"{len(train)} clips to train on, {len(test)} to test, of {len(set(data['labels'].tolist()))} actions")

    random = Encoder(clips[0].shape[1], settings)
    cml = train_cml(train, settings)
    ser = train_ser(train, cml.query_encoder, settings)
    told = {"raw coordinates": (raw(train), raw(test))}
    for name, encoder in (("random encoder", random), ("CML", cml.query_encoder), ("CRRL", ser.encoder)):
        told[name] = features(encoder, train), features(encoder, test)
    accuracies = {}
    for name, (known, asked) in told.items():
        accuracies[name] = 100 * (nearest(known, labels, asked) == right).double().mean().item()
        print(f"1-NN, {name:16} {accuracies[name]:5.1f} %")
    return accuracies


if __name__ == "__main__":
    main()
