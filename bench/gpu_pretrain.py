"""Pretraining of NTU-60's size on random clips, by crrl's own Trainer: `python -m bench.gpu_pretrain FILE [SHARE]`.

All clips lie on the GPU. SHARE of the epochs (1: all of them) are trained; the time is that of the whole.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.rows import Row
from bench.timing import synchronize
from bench.training import CAPTURED, CML, EPOCHS, NTU_CLIPS, PRETRAINING, SER
from crrl import ops
from crrl.config import Config
from crrl.data import Clips, Prepared
from crrl.data.clips import Split
from crrl.data.preprocessing import Preprocessor
from crrl.recipes import preset
from crrl.runs import RunFolder
from crrl.training import Trainer
from crrl.training.ranks import Ranks


def random_clips(clips: int = NTU_CLIPS, joints: int = 50, frames: int = 60) -> Clips:
    """Clips of the longest length, all of them for training."""
    generator = np.random.default_rng(0)
    values = 2 * generator.random((clips * frames, joints, 3), np.float32) - 1
    unknown, index = np.full(clips, -1, np.int64), np.arange(clips)
    return Clips(
        frames=values, offsets=np.arange(clips + 1) * frames, labels=np.zeros(clips, np.int64), subjects=unknown,
        views=unknown, setups=unknown, names=tuple(map(str, range(clips))), class_names=("any",),
        splits={"any": Split(index, {"all": index[:1]})},
    )  # fmt: skip


def configuration(share: float) -> Config:
    """The paper's recipe with --fused, which compiles and captures on a GPU, and this share of its epochs."""
    config = replace(preset("synthetic", "paper"), fused=True, split="any")
    cml = replace(config.cml, epochs_cml=max(round(share * EPOCHS[CML]), 1))
    ser = replace(config.ser, epochs_ser=max(round(share * EPOCHS[SER]), 1))
    return replace(config, cml=cml, ser=ser, encoder=replace(config.encoder, hidden_size=256))


def pretrain(clips: Clips, config: Config, device: torch.device) -> float:
    """Seconds of training as `crrl train` does it, its checkpoints and the start of its compiler among them.

    The clips' way onto the device is not counted.
    """
    with tempfile.TemporaryDirectory() as folder, ops.use_backends("auto"):
        run = RunFolder(Path(folder) / "run")
        run.create(config)
        prepared = Prepared(clips, Preprocessor(config.preprocessing, clips.num_joints), "random")
        training = Trainer(config, run, prepared, device, Ranks())
        synchronize()
        start = time.perf_counter()
        for _ in training.train():
            pass
        return time.perf_counter() - start


def main(arguments: list[str]) -> int:
    path, share = Path(arguments[0]), float(arguments[1]) if len(arguments) > 1 else 1.0
    config = configuration(share)
    taken = pretrain(random_clips(), config, torch.device("cuda"))
    epochs = f"{config.cml.epochs_cml} + {config.ser.epochs_ser} epochs"
    bars = (PRETRAINING,) if share == 1 else ()
    row = Row("pretraining", f"{NTU_CLIPS:,} random clips, {epochs}", calls_ms={CAPTURED: [1e3 * taken]}, bars=bars)
    path.write_text(json.dumps([row.as_json()]))
    print(f"{row.title}: {taken:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
