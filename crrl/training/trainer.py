"""Algorithm 1: step 1 trains the Contrastive Motion Learner, step 2 the Reconstructor and the Information Fuser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crrl.config import Config, Switch
from crrl.data import ClipTensors, Prepared
from crrl.errors import CrrlError
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.runs import RunFolder, load_encoder, save_encoder
from crrl.training.loop import Loop, Plan
from crrl.training.phases import ContrastPhase, Phase, ReconstructionPhase, Teacher
from crrl.training.ranks import Ranks


def given_teacher(run: Path) -> Path:
    """The CML encoder of another run: of method cml its result, of crrl its teacher."""
    folder = RunFolder(run)
    return folder.encoder_path if folder.config().method == "cml" else folder.teacher_path


def fast_paths(config: Config, device: torch.device) -> dict[str, tuple[str, str]]:
    """How the decoder and the whole step run, and why: compiled or captured where asked for, or by default."""
    on_gpu = device.type == "cuda"

    def choose(switch: Switch, fast: str, able: bool, why_not: str) -> tuple[str, str]:
        if not able or switch == "off":
            return "eager", why_not if not able else "asked for"
        if switch == "on":
            return fast, "asked for"
        return (fast, "on a GPU, with --fused") if on_gpu and config.fused else ("eager", why_not)

    no_gain = "on a CPU compiling gains less than it costs" if not on_gpu else "without --fused"
    no_graph = "CUDA graphs need a GPU" if not on_gpu else "without --fused"
    return {
        "decoder": choose(config.compile_decoder, "compiled", True, no_gain),
        "step": choose(config.capture, "captured", on_gpu, no_graph),
    }


class Trainer:
    """Runs the phases of a method in a run folder, from the start or from its checkpoint.

    Raises:
        CrrlError: the training clips do not fill a batch, or the given teacher does not fit.
    """

    def __init__(self, config: Config, run: RunFolder, prepared: Prepared, device: torch.device, ranks: Ranks):
        self.config = config
        self.ranks = ranks
        self.run = run
        self.prepared = prepared
        self.tensors = ClipTensors(prepared.clips, device)
        self.train_clips = prepared.clips.split(config.split_name).train
        self.device = device
        self._plans = {phase: self._plan(phase) for phase in ("cml", "ser")}
        self._given_teacher: Encoder | None = None
        if config.teacher is not None and not run.teacher_path.exists():
            self._given_teacher = self._load_teacher(given_teacher(config.teacher))

    def train(self) -> None:
        """Train to the end and write encoder.safetensors.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
            CrrlError: the loss is no longer finite, the disk is full, a checkpoint does not fit.
        """
        checkpoint = self.run.load_checkpoint()
        if checkpoint is not None and checkpoint["data"] != self.prepared.fingerprint:
            raise CrrlError(f"the data set is no longer the one that {self.run.path} was begun with: restore it")
        if self._given_teacher is not None:
            self._save(self.run.teacher_path, self._given_teacher, "cml")
        past_cml = checkpoint is not None and checkpoint["phase"] == "ser"
        steps_before = 0
        if self.config.method != "ser" and self.config.teacher is None:
            steps_before = self._plans["cml"].steps
            if not past_cml:
                self._train_cml(checkpoint)
        if self.config.method != "cml":
            ser = self._reconstruction_phase()
            self._fit(ser, steps_before, checkpoint)
            self._save(self.run.encoder_path, ser.module.reconstructor.encoder, self.config.method)

    def _train_cml(self, checkpoint: dict[str, Any] | None) -> None:
        cml = self._contrast_phase()
        self._fit(cml, 0, checkpoint)
        alone = self.config.method == "cml"
        self._save(self.run.encoder_path if alone else self.run.teacher_path, cml.module.query_encoder, "cml")

    def _save(self, path: Path, encoder: Encoder, method: str) -> None:
        if self.ranks.rank == 0:
            save_encoder(path, encoder, self.prepared, method)
        self.ranks.wait()  # the others read it only once it is there

    def _new_encoder(self) -> Encoder:
        return Encoder(self.tensors.channels, self.config.encoder.hidden_size, self.config.encoder.dropout)

    def _contrast_phase(self) -> ContrastPhase:
        torch.manual_seed(self._plans["cml"].seed)
        cml = self.config.cml
        module = ContrastiveMotionLearner(
            self._new_encoder(), cml.queue_size, cml.temperature, cml.momentum_encoder, cml.momentum_mlp
        )
        return ContrastPhase(module.to(self.device), self.ranks)

    def _reconstruction_phase(self) -> ReconstructionPhase:
        ser, channels = self.config.ser, self.tensors.channels
        teacher = None
        if self.config.method == "crrl":
            encoder = self._load_teacher(self.run.teacher_path).to(self.device)
            teacher = Teacher(encoder, self.tensors, self.train_clips, ser.teacher_dropout)
        torch.manual_seed(self._plans["ser"].seed)
        encoder = self._new_encoder()
        decoder = Decoder(encoder.features, channels, ser.decoder_hidden, self.config.encoder.dropout)
        weight = ser.distill_weight if teacher else 0.0
        module = InformationFuser(SequenceReconstructor(encoder, decoder), weight)
        module.reconstructor.compiled = fast_paths(self.config, self.device)["decoder"][0] == "compiled"
        return ReconstructionPhase(module.to(self.device), teacher)

    def _load_teacher(self, path: Path) -> Encoder:
        file = load_encoder(path)
        if file.method != "cml":
            raise CrrlError(f"{path} holds an encoder of {file.method}: a teacher is one of cml")
        same_size = file.encoder.gru.hidden_size == self.config.encoder.hidden_size
        if not same_size or file.preprocessor != self.prepared.preprocessor:
            raise CrrlError(f"{path} has another size or preprocessing than this run: give a matching teacher")
        return file.encoder

    def _plan(self, phase: str) -> Plan:
        config = self.config
        cml, ser = config.cml, config.ser
        choices = {
            "cml": (cml.epochs_cml, cml.optimizer_cml, cml.lr_cml, cml.schedule_cml),
            "ser": (ser.epochs_ser, ser.optimizer_ser, ser.lr_ser, ser.schedule_ser),
        }
        epochs, optimizer, lr, schedule = choices[phase]
        return Plan(
            clips=len(self.train_clips),
            epochs=epochs,
            batch_size=config.batch_size * self.ranks.size,
            drop_last=config.drop_last,
            optimizer=optimizer,
            lr=lr,
            schedule=schedule,
            weight_decay=config.weight_decay,
            max_norm=config.max_norm,
            checkpoint_every=config.checkpoint_every,
            seed=2 * config.seed + (phase == "ser"),  # the phases start from weights and orders of their own
        )

    def _fit(self, phase: Phase, first_step: int, checkpoint: dict[str, Any] | None) -> None:
        own = checkpoint if checkpoint is not None and checkpoint["phase"] == phase.name else None
        plan, fingerprint = self._plans[phase.name], self.prepared.fingerprint
        if self.ranks.rank > 0:
            torch.manual_seed(self.ranks.seed(plan.seed))  # its own dropout
        capture = fast_paths(self.config, self.device)["step"][0] == "captured"
        bf16 = self.config.precision == "bf16"
        arguments = self.tensors, self.train_clips, fingerprint, self.run, first_step, self.ranks, capture, bf16
        Loop(phase, plan, *arguments).fit(own)
