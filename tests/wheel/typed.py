"""The public names as a type checker sees them: mypy --strict and pyright check this against an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import crrl
from crrl.embedding import Predictions
from crrl.nn import GRU, accelerate


def embed(run: Path, clips: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    encoder = crrl.load(run)
    assert_type(encoder, crrl.SkeletonEncoder)
    return encoder.embed(clips)


def predict(run: Path, clips: list[npt.NDArray[np.float32]]) -> list[str]:
    predictions = crrl.load(run).predict(clips)
    assert_type(predictions, Predictions)
    assert_type(predictions.labels, list[str])
    return predictions.labels


def recurrent(x: Tensor) -> Tensor:
    layer = GRU(x.shape[-1], 8, bidirectional=True)
    accelerate(torch.nn.Sequential(layer))
    y: Tensor
    h_n: Tensor
    y, h_n = layer(x)
    return y + h_n.sum()


def fail() -> None:
    try:
        crrl.load("nowhere")
    except crrl.CrrlError as error:
        assert_type(str(error), str)
