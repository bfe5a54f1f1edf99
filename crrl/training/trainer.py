"""Algorithm 1: step 1 trains the Contrastive Motion Learner, step 2 the Reconstructor and the Information Fuser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crrl.config import Config
from crrl.data import ClipTensors, Prepared
from crrl.errors import CrrlError
from crrl.models import ContrastiveMotionLearner, Decoder, Encoder, InformationFuser, SequenceReconstructor
from crrl.runs import RunFolder, load_encoder, save_encoder
from crrl.training.loop import Loop, Plan
from crrl.training.phases import ContrastPhase, Phase, ReconstructionPhase, Teacher


class Trainer:
    """Runs the phases of a method in a run folder, from the start or from its checkpoint.

    Raises:
        CrrlError: the training clips do not fill a batch.
    """

    def __init__(self, config: Config, run: RunFolder, prepared: Prepared, device: torch.device):
        self.config = config
        self.run = run
        self.preprocessor = prepared.preprocessor
        self.tensors = ClipTensors(prepared.clips, device)
        self.train_clips = prepared.clips.split(config.split_name).train
        self.device = device
        self._plans = {phase: self._plan(phase) for phase in ("cml", "ser")}

    def train(self) -> None:
        """Train to the end and write encoder.safetensors.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
            CrrlError: the loss is no longer finite, the disk is full, a checkpoint does not fit.
        """
        checkpoint = self.run.load_checkpoint()
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

    def _save(self, path: Path, encoder: Encoder, trained_as: str) -> None:
        save_encoder(path, encoder, self.preprocessor, self.config, trained_as)

    def _new_encoder(self) -> Encoder:
        return Encoder(self.tensors.channels, self.config.encoder.hidden_size, self.config.encoder.dropout)

    def _contrast_phase(self) -> ContrastPhase:
        torch.manual_seed(self.config.seed)
        cml = self.config.cml
        module = ContrastiveMotionLearner(
            self._new_encoder(), cml.queue_size, cml.temperature, cml.momentum_encoder, cml.momentum_mlp
        )
        return ContrastPhase(module.to(self.device))

    def _reconstruction_phase(self) -> ReconstructionPhase:
        teacher = self._load_teacher() if self.config.method == "crrl" else None
        torch.manual_seed(self.config.seed)
        encoder = self._new_encoder()
        ser, channels = self.config.ser, self.tensors.channels
        decoder = Decoder(encoder.features, channels, ser.decoder_hidden, self.config.encoder.dropout)
        weight = ser.distill_weight if teacher else 0.0
        module = InformationFuser(SequenceReconstructor(encoder, decoder), weight)
        return ReconstructionPhase(module.to(self.device), teacher)

    def _load_teacher(self) -> Teacher:
        path = self.config.teacher
        if path is None:
            path = self.run.teacher_path
        else:
            given = RunFolder(path)
            if given.config().method == "ser":
                raise CrrlError(f"{path} trained SER alone: a teacher is a run of method cml or crrl")
            path = given.teacher_path if given.teacher_path.exists() else given.encoder_path
        encoder, preprocessor = load_encoder(path)
        if preprocessor != self.preprocessor:
            raise CrrlError(
                f"{path} was trained on clips prepared in another way than this run's: give a matching teacher"
            )
        return Teacher(encoder.to(self.device), self.tensors, self.config.ser.teacher_dropout)

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
            batch_size=config.batch_size,
            drop_last=config.drop_last,
            optimizer=optimizer,
            lr=lr,
            schedule=schedule,
            weight_decay=config.weight_decay,
            checkpoint_every=config.checkpoint_every,
            seed=config.seed,
        )

    def _fit(self, phase: Phase, first_step: int, checkpoint: dict[str, Any] | None) -> None:
        own = checkpoint if checkpoint is not None and checkpoint["phase"] == phase.name else None
        loop = Loop(phase, self._plans[phase.name], self.tensors, self.train_clips, self.run, first_step)
        loop.fit(own)
