"""The command `python -m crrl.embed`: write the features of clips, by a run's encoder, to one file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from crrl.device import choose_device
from crrl.embedding import load
from crrl.errors import run_command
from crrl.files import refuse_place, write_file
from crrl.given import Given, GivenOptions


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(GivenOptions):
    """Write the features of clips to a .npz file without pickles: names, features [N, D] and, for a labelled data set,
    labels [N] and class_names."""

    out: Path
    """File to write, such as features.npz."""


def arrays(given: Given, features: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The arrays in the file."""
    known = {} if given.labels is None else {"labels": given.labels, "class_names": np.array(given.class_names)}
    return {"names": np.array(given.names), "features": features, **known}


def main(arguments: list[str] | None = None) -> int:
    """Embed the clips and write the file."""
    options = tyro.cli(EmbedOptions, prog="python -m crrl.embed", args=arguments)
    refuse_place(options.out)
    encoder = load(options.run).to(choose_device(options.device))
    given = options.given(encoder.preprocessor.num_joints, options.out)
    features = encoder.embed_named(given.counted("embed"))
    write_file(options.out, lambda file: np.savez(file, **arrays(given, features)))
    print(f"{len(features)} clips, {features.shape[1]} features each: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
