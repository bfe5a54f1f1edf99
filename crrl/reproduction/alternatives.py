"""Alternatives to a recipe's settings: each row departs from the recipe in one choice and is held against it."""

from __future__ import annotations

from typing import Any, Literal

from crrl.methods import Method
from crrl.reproduction.paper import Column, Row, Target

AlternativeName = Literal["settings-cml", "settings-ser", "settings-crrl"]

FOLDS = (Column("nw-ucla", "training views, 6 folds", tuple(f"validation-{number}" for number in range(1, 7))),)
NOTES = (
    "Each row departs from the recipe, the first row, in what it names. NW-UCLA is tested within its training views on "
    "clips of a view and of subjects that were not trained on; other data sets within their training clips on clips of "
    "subjects that were not trained on (where these are not known, on other clips of each class); those that have no "
    "folds on their own test clips, by which nothing should be chosen. Alternatives that the recipe has itself are "
    "left out; where it has one on some of the data sets alone, the difference there is 0.",
)


def _row(name: str, method: Method, **settings: Any) -> Row:
    return Row(name, (None,), method, tuple(settings.items()))


def _target(title: str, *rows: Row) -> Target:
    return Target(title, FOLDS, rows, notes=NOTES, against_first=True)


NO_TAKES = {"feature_takes": 0, "feature_neighbours": 0}

TARGETS: dict[str, Target] = {
    "settings-cml": _target(
        "Settings of CML",
        _row("the recipe", "cml"),
        _row("SGD at a constant 0.01", "cml", optimizer_cml="sgd", lr_cml=0.01, schedule_cml="constant"),
        _row("turned alone, not other takes", "cml", takes=False),
        _row("K = 64", "cml", queue_size=64),
        _row("τ = 0.05", "cml", temperature=0.05),
        _row("m_mlp = 0.9999", "cml", momentum_mlp=0.9999),
        _row("60 epochs", "cml", epochs_cml=60),
    ),
    "settings-ser": _target(
        "Settings of SER",
        _row("the recipe", "ser"),
        _row("SGD at 0.004 in steps", "ser", optimizer_ser="sgd", lr_ser=0.004, schedule_ser="steps"),
        _row("TAP as it is for features", "ser", pooling="mean", feature_deviation=None, **NO_TAKES),
        _row("turned alone, not other takes", "ser", takes=False),
        _row("no view transform", "ser", view_joints=None),
        _row("first weights as PyTorch's", "ser", input_gain=1.0),
        _row("80 epochs", "ser", epochs_ser=80),
    ),
    "settings-crrl": _target(
        "Settings of CRRL: the weight of distillation, the teacher, other takes and the features",
        _row("the recipe", "crrl"),
        _row("λ_d = 1", "crrl", distill_weight=1.0),
        _row("a teacher of the clip alone", "crrl", teacher_takes=0),
        _row("turned alone, not other takes", "crrl", takes=False),
        _row("features without neighbours", "crrl", feature_neighbours=0),
        _row("features without other takes", "crrl", **NO_TAKES),
    ),
}
