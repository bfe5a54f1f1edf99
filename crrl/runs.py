"""The run folder: config.json, metrics.jsonl, TensorBoard events, checkpoint.pt, teacher and encoder weights, ..."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickletools
import re
import zipfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from crrl.config import Config
from crrl.data import Prepared, Preprocessor
from crrl.errors import CrrlError
from crrl.facts import read_facts
from crrl.files import (
    alone,
    check_kind,
    explain_damage,
    explain_os_errors,
    open_own,
    read_bytes,
    refuse_inputs,
    sweep,
    write_file,
    write_json,
)
from crrl.methods import Method
from crrl.models import Encoder, FeatureExtractor, FeatureKind
from crrl.sealed import check_shapes, facts_of, write_sealed

FORMAT = 5
"""Version of the facts in an encoder file; files of version 4 have no hash."""
SEAL = b"crrl-sha256:"
"""A checkpoint ends with this and the SHA-256 of all bytes before it, in hexadecimal digits."""
SEAL_LENGTH = len(SEAL) + 64

NAMES = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")
"""The globals that the pickle in a checkpoint may name."""

CHECKPOINT: dict[str, type] = {
    "phase": str,
    "step": int,
    "module": dict,
    "optimizer": dict,
    "ranks": int,
    "rng": Tensor,
    "sums": Tensor,
    "data": str,
    "metrics_bytes": int,
}
"""The entries that every checkpoint has, and their types."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / "config.json"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoint_path = path / "checkpoint.pt"
        self.teacher_path = path / "teacher.safetensors"
        self.encoder_path = path / "encoder.safetensors"
        self.classifier_path = path / "classifier.safetensors"
        self.card_path = path / "README.md"

    def lock(self, shared: bool = False) -> AbstractContextManager[int]:
        """In the block, no other process trains in the folder or, unless `shared`, evaluates it; see `alone`."""
        busy = "is in use by another process, which trains or evaluates it: wait for that, or give another folder"
        return alone(self.path, busy, shared=shared)

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

    def refuse(self, out: Path) -> None:
        """Raise CrrlError if the output `out` is one of this run's files, or the file given as the run itself."""
        own = (self.config_path, self.metrics_path, self.checkpoint_path, self.teacher_path, self.encoder_path)
        refuse_inputs(out, (self.path, *own, self.classifier_path, self.card_path))

    def config(self) -> Config:
        """The run's configuration.

        Raises:
            CrrlError: there is no run here, or its config.json is damaged.
        """
        if not self.config_path.is_file():
            raise CrrlError(f"{self.path} holds no run (no config.json): give the --out folder of crrl.train")
        return read_facts(self.config_path, Config, "restore it, or train again with another --out")

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint, and store the length of the metrics that belong to the new one."""
        metrics_bytes = self.metrics_path.stat().st_size if self.metrics_path.exists() else 0
        if metrics_bytes:
            with explain_os_errors(self.metrics_path, "write"), open(self.metrics_path, "rb") as file:
                os.fsync(file.fileno())
        buffer = io.BytesIO()
        torch.save({**state, "metrics_bytes": metrics_bytes}, buffer)
        content = buffer.getbuffer()
        write_file(self.checkpoint_path, lambda file: file.writelines((content, _seal(content))))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first.

        Raises:
            CrrlError: the file is damaged or no checkpoint.
        """
        path, remedy = self.checkpoint_path, "delete it to train from the start, or restore it"
        if not path.exists():
            return None
        content = read_bytes(path)
        if _seal(memoryview(content)[:-SEAL_LENGTH]) != content[-SEAL_LENGTH:]:
            raise CrrlError(f"{path} is damaged, cut short or not a checkpoint of this version of crrl: {remedy}")
        with explain_damage(path, "not a checkpoint of crrl", remedy):
            return _read_checkpoint(io.BytesIO(content[:-SEAL_LENGTH]))

    def begin(self, checkpoint: dict[str, Any] | None) -> None:
        """Restore the folder to the state of `checkpoint`: cut off later metrics, and remove temporary files.

        Raises:
            CrrlError: the metrics are shorter than at the checkpoint, or a link; or the folder cannot be written.
        """
        length = checkpoint["metrics_bytes"] if checkpoint else 0
        sweep(self.path, "README.md", "config.json", "checkpoint.pt", "*.safetensors", "evaluation-*.json")
        if not length and not os.path.lexists(self.metrics_path):
            return
        with explain_os_errors(self.metrics_path, "write"), open(open_own(self.metrics_path, os.O_RDWR), "r+b") as file:
            if (found := file.seek(0, os.SEEK_END)) < length:
                raise CrrlError(
                    f"{self.metrics_path} has {found} bytes, but had {length} when {self.checkpoint_path.name} was "
                    f"written: restore it, or delete {self.checkpoint_path} to train from the start"
                )
            file.truncate(length)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with explain_os_errors(self.metrics_path, "write"):
            descriptor = open_own(self.metrics_path, os.O_WRONLY | os.O_APPEND)
            with open(descriptor, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _seal(content: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def _check_names(program: bytes) -> None:
    """Raise ValueError if a pickle names globals not in NAMES: torch.load admits some that allocate memory."""
    for operation, name, _ in pickletools.genops(program):
        if "GLOBAL" in operation.name and not NAMES.fullmatch(str(name)):
            raise ValueError(f"it names {name}")


def _read_checkpoint(file: io.BytesIO) -> dict[str, Any]:
    """Read what torch.save wrote. It never compresses, so the content takes no more memory than the file.

    Raises:
        ValueError: the content is compressed, or not that of a checkpoint.
    """
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > file.seek(0, os.SEEK_END):
        raise ValueError("its content is compressed")
    _check_names(archive.read(f"{members[0].filename.split('/')[0]}/data.pkl"))
    file.seek(0)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not state.keys() >= CHECKPOINT.keys():
        raise ValueError("something is missing")
    for name, kind in CHECKPOINT.items():
        if not isinstance(state[name], kind) or (kind is int and state[name] < 0):
            raise ValueError(f"{name} is none")
    return state


@dataclass(frozen=True)
class EncoderFile:
    """The content of an encoder file.

    Attributes:
        features: the encoder and its features, in eval mode. preprocessor: the preprocessing of its training clips.
        method: the method that trained it (crrl.methods). fingerprint: the fingerprint of its training clips.
        digest: the SHA-256 of the file, in hexadecimal digits.
    """

    features: FeatureExtractor
    preprocessor: Preprocessor
    method: Method
    fingerprint: str
    digest: str


@dataclass(frozen=True)
class Facts:
    """The facts in an encoder file beside its format and hash."""

    method: Method
    hidden_size: int
    dropout: float
    features: FeatureKind
    nuisances: int
    preprocessor: Preprocessor
    fingerprint: str

    def build(self) -> FeatureExtractor:
        """The network on the meta device, with shapes but without memory."""
        with torch.device("meta"):
            encoder = Encoder(3 * self.preprocessor.num_joints, self.hidden_size, self.dropout)
            return FeatureExtractor(encoder, self.features, self.nuisances).eval()


def save_encoder(path: Path, features: FeatureExtractor, prepared: Prepared, method: Method) -> None:
    """Write an encoder's weights with all that is needed to use them; equal encoders give equal bytes."""
    gru = features.encoder.gru
    facts = Facts(
        method,
        gru.hidden_size,
        gru.dropout,
        features.kind,
        features.nuisances.shape[1],
        prepared.preprocessor,
        prepared.fingerprint,
    )
    write_sealed(path, "crrl", FORMAT, features.state_dict(), facts)


def load_encoder(path: Path) -> EncoderFile:
    """Read what `save_encoder` wrote.

    Raises:
        CrrlError: the file is missing, damaged, or no encoder of this library.
    """
    content = read_bytes(path)
    if content[-SEAL_LENGTH:].startswith(SEAL):
        raise CrrlError(f"{path} is a training checkpoint, not an encoder: give the run's encoder.safetensors")
    check_kind(path, content, "an encoder", "safetensors")
    with explain_damage(path, "damaged or cut short", "restore it or train again"):
        facts = facts_of(content, "crrl", FORMAT, Facts)
        if facts is None:
            raise CrrlError(f"{path} was not written by this version of crrl: use the version that wrote it")
        features, weights = facts.build(), load(content)
        check_shapes(weights, features.state_dict())
        features.to_empty(device="cpu").load_state_dict(weights)
    digest = hashlib.sha256(content).hexdigest()
    return EncoderFile(features, facts.preprocessor, facts.method, facts.fingerprint, digest)
