"""The table of methods: what it must hold for the trainer to walk it."""

from __future__ import annotations

from typing import get_args

import pytest

from crrl.methods import CML, METHODS, SER, Method, first_alone


def test_every_method_has_a_row() -> None:
    assert METHODS.keys() == set(get_args(Method))


@pytest.mark.parametrize("method", get_args(Method))
def test_phases_have_names_of_their_own_and_the_first_is_a_method(method: Method) -> None:
    phases = METHODS[method]
    assert len({phase.step for phase in phases}) == len(phases) <= 2
    assert METHODS[first_alone(method)] == phases[:1]
    assert phases[0].start == "random"
    assert not phases[0].teacher


@pytest.mark.parametrize("method", get_args(Method))
def test_every_phase_has_a_loss_that_trains_its_encoder(method: Method) -> None:
    for phase in METHODS[method]:
        assert phase.contrast or phase.recite
        assert phase.directions


@pytest.mark.parametrize(
    ("method", "first"),
    [
        *(("crrl", "cml"), ("cml-pretrain-ser", "cml")),
        *(("ser-pretrain-cml", "ser"), ("ser-distill-cml", "ser")),
        *(("cml", "cml"), ("ser", "ser"), ("vg", "vg")),
    ],
)
def test_one_run_serves_all_that_begin_with_it(method: Method, first: Method) -> None:
    assert first_alone(method) == first


def test_the_distillations_are_each_others_reverse() -> None:
    (cml, student), (ser, other) = METHODS["crrl"], METHODS["ser-distill-cml"]
    assert (cml, ser) == (CML, SER)
    assert (student.step, student.contrast, student.recite, student.teacher) == ("ser", None, ("coordinates",), True)
    assert (other.step, other.contrast, other.recite, other.teacher) == ("cml", "velocity", (), True)
