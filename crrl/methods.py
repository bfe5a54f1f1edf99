"""The methods of Section IV: for each, the phases that it trains in turn."""

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
    """The losses of one phase. The phase minimises their sum: L_c and L_r with weight 1, L_d with weight λ_d.

    Attributes:
        step: the step of Algorithm 1, 1 (CML) or 2 (SER), whose settings it takes; its name in logs.
        contrast: L_c (Eq. 6): the key encoder's view of a clip; the query encoder sees the coordinates. None: no L_c.
        recite: L_r (Eq. 1): the sequences decoded from the encoder's hidden states, each by a decoder of its own.
        directions: the directions of decoding, forward from h_1 and reverse from h_T.
        start: the encoder's initial weights, random or those of the previous phase.
        teacher: whether the previous phase's encoder, frozen, teaches by L_d (Eq. 7) with weight λ_d.
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
"""The first of two phases is a method of its own, so that one run of it serves all methods that begin with it."""


def first_alone(method: Method) -> Method:
    """The method that consists of the first phase of `method`."""
    return next(name for name, phases in METHODS.items() if phases == METHODS[method][:1])
