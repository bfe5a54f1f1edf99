"""What the methods of Section IV are: for each the phases it trains, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Method = Literal[
    "crrl",
    "cml",
    "ser",
    "cml-ser-joint",
    "cml-pretrain-ser",
    "ser-pretrain-cml",
    "ser-distill-cml",
    "ser-forward",
    "ser-reverse",
    "vg",
    "vgsr",
    "contrast-noise",
    "contrast-shear",
    "contrast-rotation",
]
Step = Literal["cml", "ser"]
View = Literal["velocity", "noise", "shear", "rotation"]
Target = Literal["coordinates", "velocity"]
Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class PhaseSpec:
    """What one phase trains an encoder by. Its loss is the sum of what is asked for, weighted 1 : 1 but for λ_d.

    Attributes:
        step: whose settings it takes, step 1's (CML) or step 2's (SER) of Algorithm 1; its name in logs.
        contrast: L_c (Eq. 6): what the key encoder sees of a clip, while the query encoder sees the coordinates as they
            are; None: no L_c.
        recite: L_r (Eq. 1), one decoder for each: the sequences decoded from the encoder's hidden states.
        directions: in which they are decoded, forward from h_1 and reverse from h_T.
        start: the encoder's weights, random or those of the phase before.
        teacher: the encoder of the phase before, frozen, teaches by L_d (Eq. 7) with the weight λ_d.
    """

    step: Step
    contrast: View | None = None
    recite: tuple[Target, ...] = ()
    directions: tuple[Direction, ...] = ("forward", "reverse")
    start: Literal["random", "previous"] = "random"
    teacher: bool = False


CML = PhaseSpec("cml", contrast="velocity")
SER = PhaseSpec("ser", recite=("coordinates",))

METHODS: dict[Method, tuple[PhaseSpec, ...]] = {
    # Table VI: the parts and their combinations.
    "cml": (CML,),
    "ser": (SER,),
    "cml-ser-joint": (replace(SER, contrast="velocity"),),
    "cml-pretrain-ser": (CML, replace(SER, start="previous")),
    "ser-pretrain-cml": (SER, replace(CML, start="previous")),
    "ser-distill-cml": (SER, replace(CML, teacher=True)),
    "crrl": (CML, replace(SER, teacher=True)),
    # Table VII: coordinates contrasted with coordinates.
    "contrast-noise": (replace(CML, contrast="noise"),),
    "contrast-shear": (replace(CML, contrast="shear"),),
    "contrast-rotation": (replace(CML, contrast="rotation"),),
    # Table VIII: one direction alone.
    "ser-forward": (replace(SER, directions=("forward",)),),
    "ser-reverse": (replace(SER, directions=("reverse",)),),
    # Table X: velocities generated from coordinates, alone and beside the reconstruction.
    "vg": (replace(SER, recite=("velocity",)),),
    "vgsr": (replace(SER, recite=("coordinates", "velocity")),),
}
"""A method of two phases begins with one that is a method of its own: one run of that serves all of them."""


def first_alone(method: Method) -> Method:
    """The method that is the first phase of `method` and no more."""
    return next(name for name, phases in METHODS.items() if phases == METHODS[method][:1])
