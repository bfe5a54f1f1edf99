"""Alternatives to a recipe's settings: each row changes one choice of the recipe and is compared with the recipe."""

from __future__ import annotations

from typing import Any, Literal

from crrl.methods import Method
from crrl.reproduction.paper import NW_UCLA, Column, Row, Target

AlternativeName = Literal["settings-cml", "settings-ser", "settings-crrl", "settings-paper"]

FOLDS = (Column("nw-ucla", "training views, 6 folds", tuple(f"validation-{number}" for number in range(1, 7))),)
NOTES = (
    "Encoders have 128 units a direction, half of the recipe's, which takes half the time. The first row is the "
    "recipe; each other row changes the setting that it names. Folds are made of training clips: NW-UCLA is tested on "
    "a training view and on subjects that were not trained on; other data sets on subjects that were not trained on, "
    "or, where subjects are not known, on other clips of each class. Data sets without folds are tested on their own "
    "test clips, by which nothing should be chosen. A row that equals the recipe on every data set is left out; where "
    "it equals the recipe on some of them, its difference there is 0.",
)


AUTHORS_RATES = (("schedule_cml", "steps-18"), ("schedule_ser", "steps-18"))
HALF = (("hidden_size", 128),)
"""Alternatives are tried on encoders of half the size, which takes half the time."""


def _row(name: str, method: Method, **settings: Any) -> Row:
    return Row(name, (None,), method, (*HALF, *settings.items()))


def _target(title: str, *rows: Row) -> Target:
    return Target(title, FOLDS, rows, notes=NOTES, against_first=True)


TARGETS: dict[str, Target] = {
    "settings-cml": _target(
        "Settings of CML",
        _row("the recipe", "cml"),
        _row("SGD at a constant 0.01", "cml", optimizer_cml="sgd", lr_cml=0.01, schedule_cml="constant"),
        _row("K = 512", "cml", queue_size=512),
        _row("τ = 0.05", "cml", temperature=0.05),
        _row("m_mlp = 0.9999", "cml", momentum_mlp=0.9999),
        _row("no other takes", "cml", takes=False),
        _row("60 epochs", "cml", epochs_cml=60),
    ),
    "settings-ser": _target(
        "Settings of SER",
        _row("the recipe", "ser"),
        _row("SGD at 0.004 in steps", "ser", optimizer_ser="sgd", lr_ser=0.004, schedule_ser="steps"),
        _row("nothing turned", "ser", turn_yaw=0.0),
        _row("features of the paper", "ser", features="paper"),
        _row("no view transform", "ser", view_joints=None),
        _row("first weights as PyTorch's", "ser", input_gain=1.0),
        _row("40 epochs", "ser", epochs_ser=40),
    ),
    "settings-paper": Target(
        "Recipe paper: learning rates by the text, and by the authors' code",
        NW_UCLA,
        tuple(
            Row(f"{method.upper()}, {reading}", (None,), method, settings)
            for method in ("crrl", "cml", "ser")
            for reading, settings in (
                ("the text: step 2 halved after 20 and 50 epochs", ()),
                ("the code: both steps halved after 18 and 50", AUTHORS_RATES),
            )
        ),
        notes=("The authors' code reports the epoch that is best on the test clips: a table of its own below has it.",),
    ),
    "settings-crrl": _target(
        "Settings of CRRL",
        _row("the recipe", "crrl"),
        _row("no other takes", "crrl", takes=False),
        _row("nothing turned", "crrl", turn_yaw=0.0),
        _row("turned by 90 degrees", "crrl", turn_yaw=90.0),
        _row("λ_d = 1", "crrl", distill_weight=1.0),
        _row("first weights as PyTorch's", "crrl", input_gain=1.0),
        _row("K = 512", "crrl", queue_size=512),
        _row("velocities as they are", "crrl", velocity_scale=1.0),
        _row("60 epochs of CML, 40 of SER", "crrl", epochs_cml=60, epochs_ser=40),
    ),
}
