"""The choice of a backend: automatic with its reason, forced, forbidden, refused."""

from __future__ import annotations

import warnings

import pytest
import torch

from crrl import ops
from crrl.errors import CrrlError
from crrl.ops import backends, cpu, extension, triton, trust

CASE = ops.Case("cpu", torch.float32)


@pytest.fixture(autouse=True)
def _no_environment_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRRL_BACKEND", raising=False)


def chosen(case: ops.Case = CASE) -> dict[str, str]:
    return {name: backend for name, backend, _ in ops.choices(case)}


def test_reference_means_the_reference_everywhere() -> None:
    with ops.use_backends("reference"):
        assert set(chosen().values()) == {"reference"}


def test_one_operator_can_be_forced_and_the_others_stay_automatic() -> None:
    with ops.use_backends("gru_layer=torch"):
        assert chosen()["gru_layer"] == "torch"
        assert ops.policy() == "auto,gru_layer=torch"


def test_the_policy_ends_with_its_block() -> None:
    before = ops.policy()
    with pytest.raises(KeyError), ops.use_backends("reference"):
        raise KeyError
    assert ops.policy() == before


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRRL_BACKEND", "reference,gru_layer=torch")
    with ops.use_backends("auto"):
        assert chosen()["gru_layer"] == "torch"
        assert chosen()["ragged_gather"] == "reference"


@pytest.mark.parametrize("text", ["fast", "gru=torch", "gru_layer"])
def test_an_unknown_choice_names_what_there_is(text: str) -> None:
    with pytest.raises(CrrlError, match="gru_layer"), ops.use_backends(text):
        pass


def test_a_forced_backend_that_does_not_exist_is_an_error() -> None:
    with ops.use_backends("gru_layer=tpu"), pytest.raises(CrrlError, match="it has cpu, cuda, torch, reference"):
        ops.choices(CASE)


def test_a_forced_backend_that_cannot_run_says_why() -> None:
    with ops.use_backends("ragged_gather=cpu"), pytest.raises(CrrlError, match=r"cannot run: .*float64"):
        ops.ragged_gather(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 2]), torch.tensor([0]), 2)


def test_a_missing_extension_steps_aside_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "missing", "it was not built")
    with ops.use_backends("auto"):
        rows = {name: (backend, reason) for name, backend, reason in ops.choices(CASE)}
    assert rows["ragged_gather"][0] == "reference"
    assert "not cpu: it was not built" in rows["ragged_gather"][1]


def test_an_extension_that_is_not_there_or_of_another_version_says_so() -> None:
    native, missing = extension.load("crrl._none", 1, "C++", "g++")
    assert native is None
    assert missing == (
        "the C++ extension crrl._none is missing (No module named 'crrl._none'); install g++ and reinstall crrl"
    )
    _, missing = extension.load("crrl", 1, "C++", "g++")
    assert missing == "the C++ extension crrl is of another version: reinstall crrl"


KERNELS = ("ragged_gather", "info_nce", "ema_update", "flat_step")


def test_on_a_gpu_triton_serves_what_it_has_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "verdict", lambda operator, mode, device: (True, "it has passed"))
    for dtype, flat in ((torch.float32, "triton"), (torch.bfloat16, "reference")):
        rows = {name: (backend, reason) for name, backend, reason in ops.choices(ops.Case("cuda", dtype))}
        assert [rows[name][0] for name in KERNELS] == ["triton", "triton", flat, flat]
        assert rows["info_nce"][1].startswith("Triton kernel; not cpu: the C++ kernel takes float32 on the CPU")
    assert {chosen(ops.Case("cuda", torch.float64))[name] for name in KERNELS} == {"reference"}


def test_without_triton_the_reference_serves_a_gpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch, fresh_trust: None
) -> None:
    monkeypatch.setattr(triton, "_installed", lambda: None)
    rows = {name: (backend, reason) for name, backend, reason in ops.choices(ops.Case("cuda", torch.float32))}
    for name in KERNELS:
        assert rows[name][0] == "reference"
        assert "not triton: Triton is not installed: pip install triton" in rows[name][1]


def test_an_answer_is_constant_to_the_compiler_by_its_own_mark() -> None:
    marked, by_torch = lambda: 1, lambda: 1
    assert backends.constant(marked) is marked
    torch.compiler.assume_constant_result(by_torch)
    assert vars(marked) == vars(by_torch)


def test_an_opaque_function_is_not_compiled() -> None:
    traced: list[bool] = []

    @extension.opaque
    def kernel(x: torch.Tensor) -> torch.Tensor:
        traced.append(torch.compiler.is_compiling())
        return x + 1

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: kernel(x * 2) * 3, backend="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 9.0))
    assert traced == [False, False]
    assert not [str(warning.message) for warning in caught if "Dynamo" in str(warning.message)]


def test_where_torch_cannot_be_asked_a_call_counts_as_observed() -> None:
    assert not backends.probe("_len_torch_dispatch_stack")()
    for unknown in ("_no_such_question", "_no_such_part.question"):
        assert backends.probe(unknown)("whatever") is True
