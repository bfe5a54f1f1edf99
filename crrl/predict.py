"""The command `python -m crrl.predict`: name the action of each clip, or of each window of long recordings."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from crrl.device import choose_device
from crrl.embedding import Predictions, SkeletonEncoder, load
from crrl.errors import CrrlError, run_command
from crrl.files import refuse_place, write_text
from crrl.given import Given, GivenOptions

MOST_FRAMES = 1 << 40


@dataclass(frozen=True)
class PredictOptions(GivenOptions):
    """Name the action of each clip, with its probability, by the classifier that crrl.evaluate kept in the run."""

    top: int = 1
    """Number of labels for each clip, the most probable first."""
    window: float | None = None
    """Label each window of so many seconds in long recordings; its probabilities are averaged with those of overlapping
    windows, weighted by the overlap. None: a clip is one action."""
    hop: float = 0.5
    """Seconds from a window's start to the next one's."""
    fps: float = 30
    """Frames per second of the recordings, for --window and --hop."""
    format: Literal["csv", "json"] = "csv"
    """Format of the labels: CSV with a row for each label, or JSON with a list of clips."""
    out: Path | None = None
    """File to write instead of standard output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise CrrlError(f"--top {self.top}: it must be at least 1")
        if self.window is None:
            if (self.hop, self.fps) != (PredictOptions.hop, PredictOptions.fps):
                raise CrrlError("--hop and --fps need --window")
        elif not 0 < self.fps < np.inf or self.frames(self.window) < 2 or self.frames(self.hop) < 1:
            raise CrrlError(
                f"--window {self.window:g} --hop {self.hop:g} --fps {self.fps:g}: a window takes 2 frames at least, "
                f"and a hop 1"
            )

    def frames(self, seconds: float) -> int:
        """The nearest whole number of frames, at most MOST_FRAMES, which no recording has; 0 if not finite."""
        return min(round(seconds * self.fps), MOST_FRAMES) if np.isfinite(seconds * self.fps) else 0


@dataclass(frozen=True)
class Told:
    """The labels of a clip, or of a window of it.

    Attributes:
        clip: the clip's name. span: start and end of the window, in seconds; None: the whole clip.
        labels: the most probable labels, with their probabilities.
    """

    clip: str
    span: tuple[float, float] | None
    labels: list[tuple[str, float]]

    def plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        span = {} if self.span is None else {"start": round(self.span[0], 3), "end": round(self.span[1], 3)}
        labels = [{"label": label, "probability": round(value, 6)} for label, value in self.labels]
        return {"clip": self.clip, **span, "labels": labels}


def of_clips(predictions: Predictions, given: Given, top: int) -> list[Told]:
    """The labels of each clip."""
    return [Told(name, None, labels) for name, labels in zip(given.names, predictions.top(top), strict=True)]


def of_windows(encoder: SkeletonEncoder, given: Given, options: PredictOptions) -> Iterator[Told]:
    """Yield the labels of each window of each recording."""
    assert options.window is not None
    size, hop, fps = options.frames(options.window), options.frames(options.hop), options.fps
    for name, clip in given.named():
        spans, predictions = encoder.predict_windows(clip, size, hop, name)
        for (start, end), labels in zip((spans / fps).tolist(), predictions.top(options.top), strict=True):
            yield Told(name, (start, end), labels)


def as_csv(told: list[Told]) -> str:
    """CSV with a row for each label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spans = ["start", "end"] if told[0].span else []
    writer.writerow(["clip", *spans, "rank", "label", "probability"])
    for each in told:
        seconds = [f"{second:.3f}" for second in each.span or ()]
        for rank, (label, probability) in enumerate(each.labels, 1):
            writer.writerow([each.clip, *seconds, rank, label, f"{probability:.4f}"])
    return text.getvalue()


def as_json(told: list[Told]) -> str:
    """JSON: a list of clips or windows, each with its labels."""
    return json.dumps([each.plain() for each in told], indent=1) + "\n"


def accuracy(predictions: Predictions, given: Given) -> str | None:
    """A line with the percentage of correct labels; None if clips have no labels, or of classes never predicted."""
    if given.labels is None or not set(given.class_names) <= set(predictions.class_names):
        return None
    known = [given.class_names[label] for label in given.labels]
    right = sum(label == told for label, told in zip(known, predictions.labels, strict=True))
    return f"{100 * right / len(known):.1f} % of {len(known)} labels are correct"


def main(arguments: list[str] | None = None) -> int:
    """Predict and write the labels."""
    options = tyro.cli(PredictOptions, prog="python -m crrl.predict", args=arguments)
    if options.out:
        refuse_place(options.out)
    encoder = load(options.run).to(choose_device(options.device))
    _ = encoder.classifier  # reports a missing one before any clip is read
    given = options.given(encoder.preprocessor.num_joints, options.out)
    if options.window is None:
        predictions = encoder.predict_named(given.counted("predict"))
        told = of_clips(predictions, given, options.top)
        if line := accuracy(predictions, given):
            print(line, file=sys.stderr)
    else:
        told = list(of_windows(encoder, given, options))
    text = as_csv(told) if options.format == "csv" else as_json(told)
    if options.out:
        write_text(options.out, text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
