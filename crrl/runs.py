"""The run folder: config.json, metrics.jsonl, TensorBoard events, checkpoint.pt, teacher and encoder weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from crrl.config import Config
from crrl.data import Prepared, Preprocessor
from crrl.errors import CrrlError
from crrl.files import explain_os_errors, read_json, write_file, write_json
from crrl.models import Encoder, FeatureExtractor

FORMAT = 4
"""Version of the facts kept in an encoder file."""


CHECKPOINT_KEYS = {"phase", "step", "module", "optimizer", "ranks", "rng", "sums", "data", "metrics_bytes"}


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / "config.json"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoint_path = path / "checkpoint.pt"
        self.teacher_path = path / "teacher.safetensors"
        self.encoder_path = path / "encoder.safetensors"

    def create(self, config: Config) -> None:
        """Make the folder and write config.json.

        Raises:
            CrrlError: the folder cannot be written.
        """
        with explain_os_errors(self.path, "create"):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_path, config.to_dict())

    def in_use(self) -> bool:
        """Whether the folder holds files of a run, whole or in part."""
        files = (self.config_path, self.metrics_path, self.checkpoint_path, self.teacher_path, self.encoder_path)
        return any(path.exists() for path in files)

    def config(self) -> Config:
        """The run's configuration.

        Raises:
            CrrlError: there is no run here, or its config.json is damaged.
        """
        if not self.config_path.is_file():
            raise CrrlError(f"{self.path} holds no run (no config.json): give the folder that crrl.train --out named")
        try:
            return Config.from_dict(read_json(self.config_path))
        except (TypeError, AttributeError) as error:
            raise CrrlError(f"{self.config_path} is damaged ({error}): restore it") from error

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint in place of the last, with the length of the metrics that belong to it."""
        metrics_bytes = self.metrics_path.stat().st_size if self.metrics_path.exists() else 0
        if metrics_bytes:
            with explain_os_errors(self.metrics_path, "write"), open(self.metrics_path, "rb") as file:
                os.fsync(file.fileno())
        buffer = io.BytesIO()  # torch.save to a path would not say that the disk is full
        torch.save({**state, "metrics_bytes": metrics_bytes}, buffer)
        write_file(self.checkpoint_path, lambda path: path.write_bytes(buffer.getbuffer()))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first; metrics written after it are cut off.

        Raises:
            CrrlError: the file is damaged.
        """
        state: dict[str, Any] | None = None
        if self.checkpoint_path.exists():
            with explain_os_errors(self.checkpoint_path, "read"):
                try:
                    state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
                except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError) as error:
                    raise CrrlError(
                        f"{self.checkpoint_path} is damaged or no checkpoint; delete it to train from the start"
                    ) from error
            if not isinstance(state, dict) or not state.keys() >= CHECKPOINT_KEYS:
                raise CrrlError(f"{self.checkpoint_path} is no checkpoint of crrl; delete it to train from the start")
        if self.metrics_path.exists():
            with explain_os_errors(self.metrics_path, "write"):
                length = min(self.metrics_path.stat().st_size, state["metrics_bytes"] if state else 0)
                os.truncate(self.metrics_path, length)
        return state

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with explain_os_errors(self.metrics_path, "write"), open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class EncoderFile:
    """What an encoder file holds.

    Attributes:
        features: the encoder and its features, in eval mode. preprocessor: what it was trained behind.
        method: that trained it (crrl.methods). fingerprint: of the clips it was trained on.
    """

    features: FeatureExtractor
    preprocessor: Preprocessor
    method: str
    fingerprint: str


def save_encoder(path: Path, features: FeatureExtractor, prepared: Prepared, method: str) -> None:
    """Write an encoder's weights with all that is needed to use them; equal encoders give equal bytes."""
    encoder = features.encoder
    facts = {
        "format": FORMAT,
        "method": method,
        "hidden_size": encoder.gru.hidden_size,
        "dropout": encoder.gru.dropout,
        "features": features.kind,
        "nuisances": features.nuisances.shape[1],
        "preprocessor": prepared.preprocessor.to_dict(),
        "fingerprint": prepared.fingerprint,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in features.state_dict().items()}
    write_file(path, lambda temporary: temporary.write_bytes(save(weights, {"crrl": json.dumps(facts)})))


def load_encoder(path: Path) -> EncoderFile:
    """Read what `save_encoder` wrote.

    Raises:
        CrrlError: the file is missing, damaged, or no encoder of this library.
    """
    with explain_os_errors(path, "read"):
        content = path.read_bytes()
    try:
        weights = load(content)
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["crrl"])
    except SafetensorError as error:
        raise CrrlError(f"{path} is damaged or cut short ({error}): restore it or train again") from error
    except (KeyError, ValueError):
        facts = {}
    if facts.get("format") != FORMAT:
        raise CrrlError(
            f"{path} is no encoder that this version of crrl wrote: train again, or use the version that did"
        )
    preprocessor = Preprocessor.from_dict(facts["preprocessor"])
    encoder = Encoder(3 * preprocessor.num_joints, facts["hidden_size"], facts["dropout"])
    features = FeatureExtractor(encoder, facts["features"], facts["nuisances"]).eval()
    load_weights(features, weights, path)
    return EncoderFile(features, preprocessor, facts["method"], facts["fingerprint"])


def load_weights(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """load_state_dict with one clear error.

    Raises:
        CrrlError: names or shapes differ from the module's.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CrrlError(f"{path} does not fit this configuration: its weights have other names or shapes") from error
