"""The command `python -m crrl.export`: write a run as one file that other programs run without crrl."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

import crrl
from crrl.classifier import ClassifierFile, load_classifier
from crrl.embedding import SkeletonEncoder, load
from crrl.errors import CrrlError, run_command
from crrl.exporting.agreement import TOLERANCE, Batch, Outputs, disagreement, run_onnx, run_torch, sensitivity
from crrl.exporting.torch_program import Exported, torch_program
from crrl.files import explain_os_errors, refuse_place, write_file
from crrl.runs import EncoderFile, RunFolder, load_encoder

Format = Literal["onnx", "pt2"]

FORMAT = 1
"""Version of the description in an exported file."""


@dataclass(frozen=True)
class ExportOptions:
    """Write a run's encoder, and its classifier if it has one, to a file that runs without crrl (docs/export.md)."""

    run: tyro.conf.Positional[Path]
    """Run folder, or an encoder.safetensors file."""
    format: Format
    """onnx: for ONNX Runtime, from any language; pt2: for torch.export.load."""
    out: Path
    """File to write; an existing one is replaced."""


def open_run(path: Path) -> tuple[EncoderFile, ClassifierFile | None]:
    """The encoder of a run folder or of an encoder file, and the run's classifier; None if there is none.

    Raises:
        CrrlError: there is no encoder, a file is damaged, or the classifier belongs to another encoder.
    """
    run = RunFolder(path)
    with explain_os_errors(path, "read"):
        folder = path.is_dir()
    encoder = load_encoder(run.encoder_path if folder else path)
    return encoder, load_classifier(run, encoder) if folder and run.classifier_path.exists() else None


def tools(format: Format) -> tuple[Callable[[Exported, str], bytes], Callable[[bytes, Sequence[Batch]], list[Outputs]]]:
    """The function that makes a file of this format, and the one that runs it.

    Raises:
        CrrlError: a library is missing.
    """
    if format == "pt2":
        return torch_program, run_torch
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401

        from crrl.exporting.onnx_model import onnx_model
    except ImportError as error:
        raise CrrlError(f"--format onnx needs onnx and onnxruntime ({error}): pip install 'crrl[export]'") from error
    return onnx_model, run_onnx


def about(encoder: EncoderFile, head: ClassifierFile | None) -> dict[str, Any]:
    """The description in the file: all that its users need to know."""
    return {
        "format": FORMAT,
        "preprocessing": encoder.preprocessor.to_dict(),
        "features": encoder.features.kind,
        "class_names": head.facts.class_names if head else None,
        "classifier": head.facts.protocol if head else None,
        "method": encoder.method,
        "encoder_sha256": encoder.digest,
        "data": encoder.fingerprint,
        "versions": {"crrl": crrl.__version__, "torch": str(torch.__version__)},
    }


def export(options: ExportOptions) -> dict[str, float]:
    """Write the file if its outputs agree with the run's; returns their largest differences (see `disagreement`).

    Raises:
        CrrlError: there is no run, a library is missing, the file cannot be written, or its outputs do not agree.
    """
    RunFolder(options.run).refuse(options.out)
    make, run = tools(options.format)
    refuse_place(options.out)
    file, head = open_run(options.run)
    content = make(Exported(file.features, head), json.dumps(about(file, head)))
    encoder = load(options.run)
    worst = disagreement(encoder, head is not None, lambda batches: run(content, batches))
    for name, most in worst.items():
        if not most <= TOLERANCE:
            raise CrrlError(
                f"the exported file gives other {name} than the run, by {most:.1e} where {TOLERANCE:.0e} is allowed, "
                f"and nothing was written: {_why(encoder)}"
            )
    write_file(options.out, lambda opened: opened.write(content))
    return worst


def _why(encoder: SkeletonEncoder) -> str:
    """The likely reason why a file does not agree, and the remedy."""
    if (own := sensitivity(encoder)) > TOLERANCE:
        return f"rounding alone changes the run's features by {own:.1e}, as its training has diverged; train it again"
    return "export in the other format, and report this"


def main(arguments: list[str] | None = None) -> int:
    """Export the run, and print the file and its agreement with the run."""
    options = tyro.cli(ExportOptions, prog="python -m crrl.export", args=arguments)
    worst = export(options)
    size = options.out.stat().st_size / 1e6
    print(f"exported: {options.out} ({options.format}, {size:.1f} MB)")
    print("agrees with the run: " + ", ".join(f"{name} within {most:.0e}" for name, most in worst.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
