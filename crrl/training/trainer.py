"""Trains a method phase by phase, as METHODS lists them; method crrl is Algorithm 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crrl import ops
from crrl.config import Config
from crrl.data import Prepared
from crrl.data.augmentation import choose_yaw
from crrl.errors import CrrlError
from crrl.features import encode, fit
from crrl.methods import METHODS, Method, PhaseSpec, first_alone
from crrl.models import Encoder, FeatureExtractor
from crrl.ops import precision
from crrl.ops.gru import cuda as gru
from crrl.runs import RunFolder, load_encoder, save_encoder
from crrl.training.estimate import phase_seconds
from crrl.training.loop import Loop, Schedule
from crrl.training.memory import check_memory
from crrl.training.phases import TEACHER_TAKES, Phase, Teacher, build_module
from crrl.training.ranks import Ranks

WITHOUT_KERNELS = 4
"""Runs side by side where torch's GRU serves, whose launches are short and small."""
MANY_STEPS = 200
"""The fewest steps of a run whose duration is estimated beforehand."""


def given_first(config: Config) -> Path:
    """The file of the first phase's encoder in the run given as --teacher: the run's result, or its teacher.

    Raises:
        CrrlError: there is no run, its method begins with another phase, or it was trained on another split, whose
            training clips may be what this run is tested on.
    """
    assert config.teacher is not None
    run = RunFolder(config.teacher)
    given, needed = run.config(), first_alone(config.method)
    method = given.method
    if given.split_name != config.split_name:
        raise CrrlError(f"{run.path} was trained on split {given.split_name}, not {config.split_name}: give another")
    if first_alone(method) != needed:
        raise CrrlError(f"{run.path} is of method {method}: {config.method} begins with {needed}, give a run of that")
    return run.encoder_path if method == needed else run.teacher_path


def fast_paths(config: Config, device: torch.device) -> dict[str, tuple[str, str]]:
    """How the decoder and the whole step run, eager or compiled and captured, and the reason."""
    on_gpu = device.type == "cuda"

    def choose(fast: str, able: bool, why_not: str) -> tuple[str, str]:
        if not able or config.compile == "off":
            return "eager", why_not if not able else "requested"
        if config.compile == "on":
            return fast, "requested"
        return (fast, "on a GPU, with --fused") if on_gpu and config.fused else ("eager", why_not)

    no_gain = "on a CPU compiling gains less than it costs" if not on_gpu else "without --fused"
    no_graph = "CUDA graphs need a GPU" if not on_gpu else "without --fused"
    return {
        "decoder": choose("compiled", True, no_gain),
        "step": choose("captured", on_gpu, no_graph),
    }


def runs_that_help(config: Config, device: torch.device) -> int:
    """How many such runs to train side by side: as many as fill the GPU with backward recurrences, a step's longest
    launches; one where the host is the slower, as on a CPU or where steps are not captured. No card has measured it."""
    if fast_paths(config, device)["step"][0] != "captured":
        return 1
    dtype, hidden = torch.bfloat16 if config.precision == "bf16" else torch.float32, config.encoder.hidden_size
    if not gru.supports(ops.Case("cuda", dtype, device.index, hidden))[0]:
        return WITHOUT_KERNELS
    sizes = config.batch_size, config.preprocessing.max_frames, hidden
    blocks = gru.backward_blocks(precision.mode(dtype), sizes, device.index or 0)
    return max(torch.cuda.get_device_properties(device).multi_processor_count // blocks, 1)


class Trainer:
    """Runs the phases of a method in a run folder, from the start or from its checkpoint.

    Args:
        together: runs that share the device with this one, itself counted.

    Attributes:
        yaw: how far clips are turned about the vertical, a standard deviation in degrees.

    Raises:
        CrrlError: the training clips do not fill a batch, the training does not fit into memory, or the given teacher
            does not match.
    """

    def __init__(
        self, config: Config, run: RunFolder, prepared: Prepared, device: torch.device, ranks: Ranks, together: int = 1
    ):
        self.config = config
        self.ranks = ranks
        self.run = run
        self.prepared = prepared
        self.together = together
        self.tensors = prepared.tensors(device)
        self.train_clips = prepared.clips.split(config.split_name).train
        self.device = device
        self.yaw = choose_yaw(config.turn_yaw, self.tensors, self.train_clips)
        self.phases = METHODS[config.method]
        self._schedules = {phase.step: self._schedule(phase) for phase in self.phases}
        batch = max(max(schedule.batches()) for schedule in self._schedules.values()) // ranks.size
        longest = int(np.diff(prepared.clips.offsets)[self.train_clips].max())
        check_memory(config, self.phases, self.tensors.channels, batch, longest, device, together)
        self._given: Encoder | None = None
        if config.teacher is not None and not run.teacher_path.exists():
            self._given = self._load_first(given_first(config))

    def train(self) -> Iterator[None]:
        """Train to the end and write encoder.safetensors; yields after each step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
            CrrlError: the loss is no longer finite, the disk is full, a checkpoint does not fit.
        """
        checkpoint = self.run.load_checkpoint()
        if checkpoint is not None and checkpoint["data"] != self.prepared.fingerprint:
            raise CrrlError(f"the data set has changed since {self.run.path} was started on it: restore it")
        if self.ranks.rank == 0:
            self.run.begin(checkpoint)
        if self._given is not None:
            self._save(self.run.teacher_path, self._given, first_alone(self.config.method))
        steps_before = 0
        for phase in self._own_phases:
            if phase.step not in self._done(checkpoint):
                yield from self._train(phase, steps_before, checkpoint)
            steps_before += self._schedules[phase.step].steps

    @property
    def _own_phases(self) -> tuple[PhaseSpec, ...]:
        return self.phases if self.config.teacher is None else self.phases[1:]

    def expected_seconds(self) -> float | None:
        """Seconds that training takes from its start; None for few steps, a GPU or several processes, where the
        progress bar soon tells."""
        steps = sum(self._schedules[spec.step].steps for spec in self._own_phases)
        if steps < MANY_STEPS or self.device.type != "cpu" or self.ranks.size > 1:
            return None
        train = torch.from_numpy(self.train_clips)
        return self.together * sum(
            phase_seconds(spec, self.config, self._schedules[spec.step], self.tensors, train, self.yaw)
            for spec in self._own_phases
        )

    def _done(self, checkpoint: dict[str, Any] | None) -> list[str]:
        """The phases before the checkpoint's.

        Raises:
            CrrlError: the checkpoint is of another method.
        """
        if checkpoint is None:
            return []
        names: list[str] = [phase.step for phase in self.phases]
        if checkpoint["phase"] not in names:
            raise CrrlError(f"{self.run.checkpoint_path} is not of method {self.config.method}: restore config.json")
        return names[: names.index(checkpoint["phase"])]

    def _train(self, spec: PhaseSpec, steps_before: int, checkpoint: dict[str, Any] | None) -> Iterator[None]:
        phase, method = self._phase(spec), self.config.method
        yield from self._fit(phase, steps_before, checkpoint)
        if spec is self.phases[-1]:
            self._save(self.run.encoder_path, phase.module.encoder, method)
        else:
            self._save(self.run.teacher_path, phase.module.encoder, first_alone(method))

    def _save(self, path: Path, encoder: Encoder, method: Method) -> None:
        if self.ranks.rank == 0:
            features = FeatureExtractor(encoder.eval(), self.config.features)
            train = torch.from_numpy(self.train_clips)
            pooled = encode(features.pooled, self.tensors, train)
            fit(features, self.tensors, train, pooled, self.yaw)
            save_encoder(path, features, self.prepared, method)
        self.ranks.wait()  # the others read the file after this

    def _phase(self, spec: PhaseSpec) -> Phase:
        previous = teacher = None
        if spec.teacher or spec.start == "previous":
            previous = self._load_first(self.run.teacher_path).to(self.device)
        if spec.teacher and previous is not None:
            takes = TEACHER_TAKES if self.config.takes else 0
            teacher = Teacher(previous, self.tensors, self.train_clips, takes, self.yaw, silent=self.ranks.rank > 0)
        torch.manual_seed(self._schedules[spec.step].seed)
        compiled = fast_paths(self.config, self.device)["decoder"][0] == "compiled"
        module = build_module(spec, self.config, self.tensors.channels, previous, compiled)
        scale = self.config.cml.velocity_scale
        return Phase(spec, module.to(self.device), self.ranks, teacher, self.yaw, scale, self.config.takes)

    def _load_first(self, path: Path) -> Encoder:
        """The first phase's encoder from its file.

        Raises:
            CrrlError: it has another method, size or preprocessing, or was trained on other clips.
        """
        file, needed = load_encoder(path), first_alone(self.config.method)
        if file.method != needed:
            raise CrrlError(f"{path} holds an encoder of {file.method}: {self.config.method} begins with {needed}")
        encoder = file.features.encoder
        same_size = encoder.gru.hidden_size == self.config.encoder.hidden_size
        if not same_size or file.preprocessor != self.prepared.preprocessor:
            raise CrrlError(f"{path} has another size or preprocessing than this run: give a matching teacher")
        if file.fingerprint != self.prepared.fingerprint:
            raise CrrlError(f"{path} was trained on other clips than this run's: give one of this data set and split")
        return encoder

    def _schedule(self, phase: PhaseSpec) -> Schedule:
        config = self.config
        cml, ser = config.cml, config.ser
        choices = {
            "cml": (cml.epochs_cml, cml.optimizer_cml, cml.lr_cml, cml.schedule_cml),
            "ser": (ser.epochs_ser, ser.optimizer_ser, ser.lr_ser, ser.schedule_ser),
        }
        epochs, optimizer, lr, rates_fall = choices[phase.step]
        return Schedule(
            clips=len(self.train_clips),
            epochs=epochs,
            batch_size=config.batch_size * self.ranks.size,
            drop_last=config.drop_last,
            optimizer=optimizer,
            lr=lr,
            rates_fall=rates_fall,
            weight_decay=config.weight_decay,
            seed=2 * config.seed + (phase.step == "ser"),  # each phase has its own initial weights and orders
        )

    def _fit(self, phase: Phase, first_step: int, checkpoint: dict[str, Any] | None) -> Iterator[None]:
        own = checkpoint if checkpoint is not None and checkpoint["phase"] == phase.name else None
        schedule = self._schedules[phase.name]
        loop = Loop(
            phase,
            schedule,
            self.tensors,
            self.train_clips,
            self.run,
            self.ranks,
            fingerprint=self.prepared.fingerprint,
            first_step=first_step,
            capture=fast_paths(self.config, self.device)["step"][0] == "captured",
            bf16=self.config.precision == "bf16",
        )
        return loop.fit(own)
