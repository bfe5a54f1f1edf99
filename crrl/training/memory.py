"""The least memory that a training takes: one that cannot fit is refused before it allocates any."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from crrl.config import Config
from crrl.errors import CrrlError
from crrl.methods import PhaseSpec
from crrl.models import Encoder
from crrl.training.phases import build_module

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a process may use on `device`; on a CPU the machine's memory, or a lower limit if set."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(_limits())


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
    for path in CGROUP_LIMITS:
        if path.exists() and (said := path.read_text().strip()).isdecimal():
            yield int(said)


def check_memory(
    config: Config,
    phases: Iterable[PhaseSpec],
    channels: int,
    batch: int,
    frames: int,
    device: torch.device,
    together: int = 1,
) -> None:
    """Refuse settings with which a phase takes more memory than `device` has for each of the runs together on it.

    Args:
        channels: J·3. batch: clips in the largest batch of a process. frames: of the longest clip.

    Raises:
        CrrlError: names the settings that may be too large.
    """
    least = max(_weights(spec, config, channels) for spec in phases)
    least += 4 * batch * frames * 4 * config.encoder.hidden_size  # the states of two layers of two directions
    if together * least <= memory_of(device):
        return
    sizes = {
        "hidden-size": config.encoder.hidden_size,
        "decoder-hidden": config.ser.decoder_hidden,
        "queue-size": config.cml.queue_size,
        "batch-size": batch,
        "max-frames": frames,
    }
    said = ", ".join(f"--{name} {size}" for name, size in sizes.items() if size is not None)
    several = f", {together} side by side {together * least / 1e9:,.1f} GB" if together > 1 else ""
    raise CrrlError(
        f"training with {said} takes at least {least / 1e9:,.1f} GB of memory{several}, but "
        f"{device} has {memory_of(device) / 1e9:,.1f} GB: give smaller sizes{', or fewer runs' if several else ''}"
    )


def _weights(spec: PhaseSpec, config: Config, channels: int) -> int:
    """Bytes of a phase's weights, plus gradients and momentum of the trained ones."""
    with torch.device("meta"):  # shapes only, which take no memory
        previous = Encoder(channels, config.encoder.hidden_size)
        module = build_module(spec, config, channels, previous if spec.start == "previous" else None)
    return _bytes(module) + 2 * _bytes(module, trained=True)


def _bytes(module: nn.Module, trained: bool = False) -> int:
    """Bytes of all parameters and buffers, or of the `trained` parameters alone."""
    parameters = [each for each in module.parameters() if each.requires_grad or not trained]
    buffers = [] if trained else list(module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])
