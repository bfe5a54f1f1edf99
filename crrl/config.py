"""Configuration: all settings, as frozen dataclasses that are checked on construction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from crrl.data.preprocessing import Preprocessing
from crrl.data.registry import PRESETS, Dataset
from crrl.errors import CrrlError
from crrl.methods import METHODS, Method
from crrl.models import FeatureKind

Recipe = Literal["paper", "tuned"]
OptimizerName = Literal["sgd", "adam"]
Schedule = Literal["constant", "steps", "steps-18", "one-cycle"]
Switch = Literal["auto", "on", "off"]
Precision = Literal["fp32", "bf16"]


MOST_UNITS, MOST = 1 << 20, 1 << 31
"""The largest number of hidden units, and of anything else; whether memory suffices is found out before training."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CrrlError(message)


def _require_size(name: str, size: int, most: int = MOST) -> None:
    _require(0 < size <= most, f"{name} is {size}: it must be from 1 to {most}")


def _require_numbers(settings: Any) -> None:
    """Raise CrrlError if a number is not finite or larger than MOST, which arithmetic or a file could not hold."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, int | float):
            _require(math.isfinite(value) and abs(value) <= MOST, f"{item.name} is {value}: it must be at most {MOST}")


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder of every part of the method (Section IV-B)."""

    hidden_size: int = 256
    """GRU units per direction."""
    dropout: float = 0.2
    """Dropout rate between GRU layers, encoder and decoder."""
    input_gain: float = 1.0
    """Factor on the initial input weights of the first GRU layer; 1: PyTorch's own initialisation."""

    def __post_init__(self) -> None:
        _require_numbers(self)
        _require_size("hidden_size", self.hidden_size, MOST_UNITS)
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}: it must be in [0, 1)")
        _require(self.input_gain > 0, f"input_gain is {self.input_gain}: it must be positive")


@dataclass(frozen=True)
class ContrastConfig:
    """Step 1, the Contrastive Motion Learner (CML)."""

    epochs_cml: int = 100
    """Epochs of step 1."""
    optimizer_cml: OptimizerName = "sgd"
    """Optimizer of step 1: SGD with momentum 0.9, or Adam."""
    lr_cml: float = 0.01
    """Learning rate of step 1 (its peak, under one-cycle)."""
    schedule_cml: Schedule = "constant"
    """Learning-rate schedule of step 1."""
    queue_size: int = 64
    """K of Eq. 6, number of negatives."""
    temperature: float = 0.1
    """τ of Eq. 6."""
    momentum_encoder: float = 0.999
    """m of Eq. 5 for the key encoder."""
    momentum_mlp: float = 1.0
    """m of Eq. 5 for the key MLP (Table IX); 1: random, never updated."""
    velocity_scale: float = 1.0
    """Factor on the velocities (Eq. 2) that the key encoder reads; if they are small, all its keys are alike."""

    def __post_init__(self) -> None:
        _require_numbers(self)
        _require(self.epochs_cml > 0, f"epochs_cml is {self.epochs_cml}: at least 1 is needed")
        _require(self.lr_cml > 0, f"lr_cml is {self.lr_cml}: it must be positive")
        _require_size("queue_size", self.queue_size)
        _require(self.temperature > 0, f"temperature is {self.temperature}: it must be positive")
        _require(self.velocity_scale > 0, f"velocity_scale is {self.velocity_scale}: it must be positive")
        for name in ("momentum_encoder", "momentum_mlp"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: it must be in [0, 1]")


@dataclass(frozen=True)
class ReconstructionConfig:
    """Step 2, the Sequence Reconstructor (SER) and the Information Fuser."""

    epochs_ser: int = 60
    """Epochs of step 2."""
    optimizer_ser: OptimizerName = "sgd"
    """Optimizer of step 2: SGD with momentum 0.9, or Adam."""
    lr_ser: float = 0.05
    """Learning rate of step 2 (its peak, under one-cycle)."""
    schedule_ser: Schedule = "steps"
    """Learning-rate schedule of step 2; steps: times 0.5 after 20 and after 50 epochs, steps-18: after 18 and 50, as
    the authors' code has it for both steps."""
    decoder_hidden: int | None = None
    """Units of the decoder's GRU, projected to the coordinates; None: the GRU's hidden state is the output."""
    distill_weight: float = 0.1
    """λ_d of Eq. 8 (methods crrl and ser-distill-cml)."""

    def __post_init__(self) -> None:
        _require_numbers(self)
        _require(self.epochs_ser > 0, f"epochs_ser is {self.epochs_ser}: at least 1 is needed")
        _require(self.lr_ser > 0, f"lr_ser is {self.lr_ser}: it must be positive")
        _require_size("decoder_hidden", 1 if self.decoder_hidden is None else self.decoder_hidden, MOST_UNITS)
        _require(self.distill_weight > 0, f"distill_weight is {self.distill_weight}: it must be positive")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    dataset: Dataset = "synthetic"
    """Data set: synthetic is generated; the others are read from --data or $CRRL_DATA, the folder of their files or of
    what crrl.prepare made (ntu60, ntu120: only the latter); prepared: any folder by crrl.prepare, common settings."""
    method: Method = "crrl"
    """crrl: CML, then SER distilled from it; cml, ser: a part alone; the others: docs/methods.md."""
    recipe: Recipe = "paper"
    """Preset of all settings below: the paper's, or ours (tuned)."""
    fused: bool = True
    """Use the fastest correct backend of each operator on this machine; --no-fused: the PyTorch reference."""
    seed: int = 0
    """Random seed of the initial weights, queue, dropout, turns, augmentations and order of clips."""
    data: Path | None = None
    """Folder of the data set's files."""
    split: str | None = None
    """Named split; None: cross-subject, or for data sets without it cross-view, fold-1 or default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the GPU if there is one."""
    teacher: Path | None = None
    """Run whose first phase is used as this method's, instead of training one (for crrl: the teacher)."""
    batch_size: int = 32
    """Clips per step."""
    drop_last: bool = True
    """Drop the last, short batch of each epoch."""
    weight_decay: float = 1e-4
    """L2 penalty, both steps."""
    precision: Precision = "fp32"
    """bf16: matrix products in bfloat16 (torch.autocast), weights, sums and optimizer in float32."""
    turn_yaw: float | Literal["auto"] = 0.0
    """Standard deviation, in degrees, of the angles by which training turns clips about the vertical axis Y; drawn anew
    for each clip, encoder and step. auto: three times the deviation of the training clips' own facing angles, at most
    90, so small if one camera saw all of them from one side. 0: no turns."""
    takes: bool = False
    """Train on other takes of clips: also tilted, stretched, cut and played at another pace, drawn anew for each
    clip, encoder and step. SER reconstructs a take without its turn, tilt and stretch. A teacher's features are
    the mean over a clip and some of its takes."""
    compile: Switch = "auto"
    """With --fused: compile the decoder and its loss by torch.compile, and on a GPU replay each step as one CUDA graph.
    auto: on a GPU alone."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    cml: ContrastConfig = field(default_factory=ContrastConfig)
    ser: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    features: FeatureKind = "paper"
    """Features made of the hidden states, for classifiers and for `embed`. paper: TAP of the top layer, 512 features
    (Section IV-B); tuned: mean and standard deviation over the frames of both layers, 2048 features, standardised;
    directions in which takes of one training clip, or neighbouring training clips, differ are shrunk."""

    def __post_init__(self) -> None:
        _require_numbers(self)
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}: it must be in [0, 2^31)")
        _require(self.batch_size > 0, f"batch_size is {self.batch_size}: at least 1 is needed")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}: it must not be negative")
        _require(
            self.compile != "on" or self.fused, "compile needs --fused: the reference reads lengths from the device"
        )
        yaw = self.turn_yaw
        _require(yaw == "auto" or yaw >= 0, f"turn_yaw is {yaw}: it must be auto, or degrees and not negative")
        _require(
            self.teacher is None or len(METHODS[self.method]) > 1,
            f"a teacher is only for methods of two phases, not {self.method}",
        )

    @property
    def split_name(self) -> str:
        """The split to use: `split`, or the data set's default."""
        return self.split or PRESETS[self.dataset].split

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
