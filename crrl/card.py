"""The model card of a run, README.md in its folder: what the encoder is, how accurate, and how to use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from crrl.config import Config
from crrl.data import Preprocessor
from crrl.data.registry import NAMED_BY_FOLDER
from crrl.errors import CrrlError
from crrl.evaluation.protocols import BEST, RANDOM, RAW
from crrl.files import read_bytes, read_json, write_file, write_text
from crrl.methods import METHODS
from crrl.runs import EncoderFile, RunFolder, load_encoder

BEGIN, END = "<!-- crrl.evaluate writes this table -->", "<!-- end of the table -->"

CARD = """\
---
library_name: crrl
tags: [skeleton-based-action-recognition, self-supervised-learning]
---
# {title}

An encoder of skeleton clips, trained without labels by contrast-reconstruction representation learning (CRRL): method
`{config.method}`, recipe `{config.recipe}`.

- data: {data}, {joints} joints; fingerprint of the clips `{encoder.fingerprint}`
- training: {training}
- features: `{config.features}`, {size} a clip
- all settings: `config.json`; losses of each epoch: `metrics.jsonl`

## Accuracy

{table}

## Preprocessing

A clip is an array [frames, {joints}, 3] in the units of the training data; a joint that was not seen is zeros.
`crrl.load` preprocesses it: {steps}.

## Use

```python
import crrl

encoder = crrl.load("FOLDER")  # this folder
features = encoder.embed(clips)  # float32 [N, {size}]
labels = encoder.predict(clips).labels  # needs classifier.safetensors, which crrl.evaluate writes
```

`encoder.safetensors` is needed, and `classifier.safetensors` to name actions; nothing is unpickled. `checkpoint.pt` is
for training alone and need not be shared.

## Licence

Of the weights: not stated yet, state it here. The terms of the clips ({data}) may apply to them; crrl itself is
under Apache-2.0.
"""


def write_card(run: RunFolder) -> None:
    """Write the card of a finished run; in an existing card, rewrite only the table, as users may have edited the rest.

    Raises:
        CrrlError: a file of the run is missing or damaged, or the folder cannot be written.
    """
    path, table = run.card_path, "\n".join([BEGIN, *_table(run), END])
    if not path.exists():
        write_text(path, _whole(run.config(), load_encoder(run.encoder_path), table))
        return
    before, begin, rest = read_bytes(path).partition(BEGIN.encode())
    _, end, after = rest.partition(END.encode())
    if begin and end:
        write_file(path, lambda file: file.write(before + table.encode() + after))


def _whole(config: Config, encoder: EncoderFile, table: str) -> str:
    where = f" ({config.data.name})" if config.data and config.dataset in NAMED_BY_FOLDER else ""
    data = f"{config.dataset}{where}, split {config.split_name}"
    return CARD.format(
        title=f"{config.method} on {data}",
        config=config,
        encoder=encoder,
        data=data,
        joints=encoder.preprocessor.num_joints,
        training=_training(config),
        size=len(encoder.features.center),
        table=table,
        steps=_steps(encoder.preprocessor),
    )


def _training(config: Config) -> str:
    epochs = {"cml": config.cml.epochs_cml, "ser": config.ser.epochs_ser}
    phases = ", then ".join(f"{epochs[phase.step]} epochs of {phase.step}" for phase in METHODS[config.method])
    sizes = f"{config.encoder.hidden_size} hidden units a direction, {config.batch_size} clips a step"
    return f"{phases}; {sizes}, {config.precision}, seed {config.seed}"


def _steps(preprocessor: Preprocessor) -> str:
    """The preprocessing steps in words."""
    steps = preprocessor.steps
    view = f"turned into the body's axes by the joints {steps.view_joints}, " if steps.view_joints else ""
    scales = {"clip-axis": "each clip and axis", "clip": "each clip, by one scale"}
    return f"at most {steps.max_frames} frames, evenly spaced, {view}scaled to [-1, 1]: {scales[steps.normalization]}"


def _table(run: RunFolder) -> list[str]:
    """The table of all evaluations in the run folder: the run's encoder beside the floors; lines of Markdown."""
    rows: list[str] = []
    method = run.config().method
    for path in sorted(run.path.glob("evaluation-*.json")):
        with suppress(CrrlError, KeyError, TypeError, AttributeError, ValueError):  # skips a file that somebody changed
            rows += list(_rows(path, read_json(path), method))
    if not rows:
        return [
            f"Not evaluated yet: `python -m crrl.evaluate FOLDER --protocol linear`, where FOLDER is {run.path.name}."
        ]
    return [f"| evaluation, % | clips | {method} | {RANDOM} | {RAW} |", "|---|---|---|---|---|", *rows]


def _rows(path: Path, report: dict[str, Any], method: str) -> Iterator[str]:
    """The table's rows of one evaluation: one for each headline and test set."""
    values = report.get("accuracy_percent") or report["map_percent"]
    for row, tests in values.items():
        candidate, _, reading = row.partition(", ")
        if candidate != method or row.endswith(BEST):
            continue
        for test, value in tests.items():
            beside = [values.get(f"{floor}, {reading}", {}).get(test) for floor in (RANDOM, RAW)]
            numbers = " | ".join("" if number is None else f"{number:.1f}" for number in (value, *beside))
            clips = f"{report['dataset']}, {report['split']}: {test} ({report['test_clips'][test]})"
            yield f"| {path.stem.removeprefix('evaluation-')}: {reading} | {clips} | {numbers} |"
