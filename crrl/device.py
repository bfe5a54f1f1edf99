"""The choice of the device to compute on."""

from __future__ import annotations

import torch

from crrl.errors import CrrlError, environment_number


def choose_device(name: str) -> torch.device:
    """The device that `name` asks for: auto, cpu or cuda.

    Raises:
        CrrlError: device is cuda without a usable GPU, or torchrun started more processes than there are GPUs.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise CrrlError("--device cuda: this machine has no usable GPU, or torch is a CPU build; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    rank = environment_number("LOCAL_RANK", 0)  # torchrun's number of the process on this machine
    if rank >= torch.cuda.device_count():
        raise CrrlError(f"{rank + 1} processes need one GPU each, this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", rank)
