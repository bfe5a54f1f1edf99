"""Fine-tuning on a few clips that an untrained encoder does not tell apart."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from crrl.data import ClipTensors
from crrl.data.clips import Clips
from crrl.errors import CrrlError
from crrl.evaluation.finetuning import LEAST_STEPS, LOOKS, FineTuning, fine_tune
from crrl.models import Encoder

QUICK = FineTuning(epochs=11, batch_size=8, lr=0.02)


@pytest.fixture(scope="module")
def tensors() -> ClipTensors:
    """48 clips of 3 to 9 frames, two joints: of class 1 where the first joint moves upwards."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    clips = []
    for i, label in enumerate(labels):
        clip = 0.5 * rng.normal(size=(3 + i % 7, 2, 3))
        clip[:, 0, 1] += np.linspace(-1, 1, len(clip)) * (1 if label else -1)
        clips.append(clip)
    made = Clips.from_arrays(clips, labels=labels, names=[str(i) for i in range(48)], class_names=["down", "up"])
    return ClipTensors(made, torch.device("cpu"))


def tune(
    encoder: Encoder, tensors: ClipTensors, settings: FineTuning = QUICK, advance: Callable[[int], object] = id
) -> dict[str, list[float]]:
    tests = {"all": torch.arange(32, 48), "half": torch.arange(40, 48)}
    return fine_tune(encoder, tensors, torch.arange(32), tests, 2, settings, 3, advance)


def test_it_learns_and_leaves_the_encoder_as_it_was(tensors: ClipTensors) -> None:
    encoder = Encoder(6, 8).eval()
    before = copy.deepcopy(encoder.state_dict())
    history = tune(encoder, tensors)
    assert [len(values) for values in history.values()] == [LOOKS, LOOKS]
    assert history["all"][-1] >= 90
    assert history["all"][-1] > history["all"][0] - 1
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training


def test_the_same_seed_gives_the_same_figures_and_every_clip_is_counted(tensors: ClipTensors) -> None:
    encoder, counts = Encoder(6, 4), list[int]()
    settings = FineTuning(epochs=1, batch_size=13, lr=0.01)
    assert tune(encoder, tensors, settings, counts.append) == tune(encoder, tensors, settings)
    assert counts[:3] == [13, 13, 6]
    assert sum(counts) == 32 * settings.epochs_over(32)
    assert len(counts) >= LEAST_STEPS


def test_few_clips_are_trained_on_for_more_epochs() -> None:
    settings = FineTuning(epochs=30, batch_size=32)
    assert settings.epochs_over(5) == LEAST_STEPS
    assert settings.epochs_over(33) == LEAST_STEPS / 2
    assert settings.epochs_over(40_000) == 30


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(CrrlError, match=next(iter(settings))):
        FineTuning(**settings)  # type: ignore[arg-type]


def test_a_training_that_diverges_says_so(tensors: ClipTensors) -> None:
    with pytest.raises(CrrlError, match="no longer finite after epoch 1; give a smaller --lr"):
        tune(Encoder(6, 4), tensors, FineTuning(epochs=1, batch_size=8, lr=1e38))


def test_a_clip_gets_the_label_of_its_own_place(tensors: ClipTensors) -> None:
    """Labels are read by clip, not by place in the batch: trained on class 1 alone, all is class 1."""
    ones = torch.arange(1, 32, 2)
    tests: dict[str, Tensor] = {"ones": ones, "zeros": ones - 1}
    history = fine_tune(Encoder(6, 4), tensors, ones, tests, 2, QUICK, 0, id)
    assert (history["ones"][-1], history["zeros"][-1]) == (100, 0)
