"""The check that an exported file, run without crrl, gives the outputs of the run."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crrl import ops
from crrl.data import Preprocessor
from crrl.data.clips import FloatArray
from crrl.embedding import SkeletonEncoder
from crrl.errors import CrrlError

TOLERANCE = 1e-5
"""The largest difference allowed: in features, relative to a clip's largest feature; in probabilities, absolute."""
BATCHES = ((1,), (60,), (2, 1), (31, 9, 17), (1, 1, 1, 1), (5, 200, 64, 3, 40, 2, 77, 12))
"""Frames, before preprocessing, of the clips in each batch that is compared; B and T vary from batch to batch."""

Batch = Mapping[str, npt.NDArray[Any]]
"""x: float32 [B, T, J·3]. lengths: int64 [B]."""
Outputs = dict[str, npt.NDArray[Any]]

PROGRAM = """
import sys
sys.modules["crrl"] = None  # whoever imports it fails
import numpy, torch
model, given, out = sys.argv[1:]
run = torch.export.load(model).module()
arrays = numpy.load(given)
results = {}
for batch in range(len(arrays) // 2):
    x, lengths = (torch.from_numpy(arrays[f"{name}-{batch}"]) for name in ("x", "lengths"))
    for name, value in run(x, lengths).items():
        results[f"{name}-{batch}"] = value.numpy()
numpy.savez(out, **results)
"""
"""Runs a .pt2 file without crrl. Arguments: the file, the batches (.npz) and the file of the outputs (.npz)."""


def run_onnx(model: bytes, batches: Sequence[Batch]) -> list[Outputs]:
    """An ONNX model's outputs, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(batch)), strict=True)) for batch in batches]


def run_torch(program: bytes, batches: Sequence[Batch]) -> list[Outputs]:
    """A .pt2 file's outputs, computed by a new interpreter that cannot import crrl.

    Raises:
        CrrlError: the file does not run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, given, out = (Path(folder, name) for name in ("model.pt2", "given.npz", "out.npz"))
        model.write_bytes(program)
        arrays: dict[str, Any] = {
            f"{name}-{i}": each for i, batch in enumerate(batches) for name, each in batch.items()
        }
        np.savez(given, **arrays)
        command = [sys.executable, "-c", PROGRAM, str(model), str(given), str(out)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise CrrlError(f"the exported program does not run without crrl ({reason}): nothing was written")
        with np.load(out) as results:
            found: list[Outputs] = [{} for _ in batches]
            for key, array in results.items():
                name, _, number = key.rpartition("-")
                found[int(number)][name] = array
            return found


def disagreement(
    encoder: SkeletonEncoder, head: bool, run: Callable[[Sequence[Batch]], list[Outputs]]
) -> dict[str, float]:
    """The difference of an exported file's outputs from the run's, on the worst of the clips of BATCHES.

    For features, the largest difference relative to the clip's largest feature; for probabilities, the largest
    difference.

    Args:
        encoder: the run. head: whether it has a classifier, so that the file gives probabilities. run: runs the file.
    """
    drawn = _drawn(encoder.preprocessor.num_joints)
    clips = list(itertools.chain(*drawn))
    found = run([_batch(each, encoder.preprocessor) for each in drawn])
    got = {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clips of one frame cause a warning
        worst = {"features": _apart(got["features"], encoder.embed(clips))}
        if head:
            worst["probabilities"] = float(np.abs(got["probabilities"] - encoder.predict(clips).probabilities).max())
    return worst


def sensitivity(encoder: SkeletonEncoder) -> float:
    """By how much rounding changes features: reference against fastest backends, measured as in `disagreement`."""
    clips = list(itertools.chain(*_drawn(encoder.preprocessor.num_joints)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ops.use_backends("reference"):
            reference = encoder.embed(clips)
        return _apart(reference, encoder.embed(clips))


def _apart(features: FloatArray, wanted: FloatArray) -> float:
    """The largest difference of features [N, F] relative to the clip's largest feature, in the worst clip."""
    return float((np.abs(features - wanted).max(axis=1) / np.abs(wanted).max(axis=1)).max())


def _drawn(joints: int) -> list[list[FloatArray]]:
    """The clips of BATCHES."""
    return [_clips(lengths, joints) for lengths in BATCHES]


def _clips(lengths: Sequence[int], joints: int) -> list[FloatArray]:
    """Random walks of joints about 3 m from a sensor, each [T, J, 3]; the last joint is sometimes missing."""
    rng = np.random.default_rng(lengths)
    clips = []
    for length in lengths:
        clip = rng.normal((0, 0, 3), 0.5, (joints, 3)) + rng.normal(0, 0.03, (length, joints, 3)).cumsum(axis=0)
        clip[length // 2 :: 3, -1] = 0
        clips.append(clip.astype(np.float32))
    return clips


def _batch(clips: Sequence[FloatArray], preprocessor: Preprocessor) -> Batch:
    """Preprocessed and padded clips; the padding is NaN, because no output may depend on it."""
    ends = np.cumsum([0, *map(len, clips)])
    frames, offsets = preprocessor.apply(np.concatenate(clips), ends)
    lengths = np.diff(offsets)
    x = np.full((len(clips), lengths.max(), 3 * preprocessor.num_joints), np.nan, np.float32)
    for row, (start, end) in enumerate(itertools.pairwise(offsets)):
        x[row, : end - start] = frames[start:end].reshape(end - start, -1)
    return {"x": x, "lengths": lengths}
