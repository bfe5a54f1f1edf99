"""No kernel is trusted before it has agreed with the reference on this card, driver and build."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from crrl import ops
from crrl.errors import CrrlError
from crrl.files import cache_folder
from crrl.ops import cuda, trust

MODES = ["fp32", "tf32", "bf16", "fp16"]


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setattr(trust, "_verdicts", {})


def another_process(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setattr(trust, "_verdicts", {})
    fake_cuda.calls.clear()


@pytest.mark.parametrize("mode", MODES)
def test_right_kernels_pass_once_and_are_remembered(mode: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    assert trust.verdict(mode, 0) == (True, "its self-check passed now")
    assert [call[2] for call in fake_cuda.calls] == len(trust.SHAPES) * [2, 2, 2, 4]
    assert {call[1] for call in fake_cuda.calls} == {mode}
    trust.verdict(mode, 0)
    assert len(fake_cuda.calls) == 4 * len(trust.SHAPES)
    another_process(monkeypatch, fake_cuda)
    assert trust.verdict(mode, 0) == (True, "its self-check passed before")
    assert fake_cuda.calls == []


def test_the_kernels_themselves_pass_in_their_emulation(
    monkeypatch: pytest.MonkeyPatch, use_as_cuda: Callable[[Any], None], emulated: ModuleType
) -> None:
    use_as_cuda(emulated)
    monkeypatch.setattr(trust, "SHAPES", ((19, 97),))  # the other takes seconds there
    assert trust.verdict("bf16", 0) == (True, "its self-check passed now")


@pytest.mark.parametrize("fact", ["driver", "card", "build", "mode"])
def test_another_card_driver_build_or_mode_is_checked_anew(
    fact: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any, tmp_path: Path
) -> None:
    trust.verdict("fp32", 0)
    another_process(monkeypatch, fake_cuda)
    if fact == "driver":
        monkeypatch.setattr(cuda, "driver", lambda: "999.1")
    elif fact == "card":
        monkeypatch.setattr(trust, "_card", lambda device: "another")
    elif fact == "build":
        fake_cuda.__file__ = str(tmp_path / "_cuda.so")
        Path(fake_cuda.__file__).write_bytes(b"built again")
    assert trust.verdict("tf32" if fact == "mode" else "fp32", 0) == (True, "its self-check passed now")


def test_a_damaged_record_is_no_record(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    trust.verdict("fp32", 0)
    (record,) = (cache_folder() / "selfcheck").iterdir()
    record.write_text("{")
    another_process(monkeypatch, fake_cuda)
    assert trust.verdict("fp32", 0) == (True, "its self-check passed now")


def test_a_cache_that_cannot_be_written_costs_a_check_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_cuda: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRRL_CACHE", str(tmp_path / "file"))
    assert trust.verdict("fp32", 0)[0]


def fail(fake_cuda: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if how == "hangs":
        fake_cuda.hangs = True
        return "a block waited in vain for 2 s"
    if how == "raises":
        monkeypatch.setattr(fake_cuda, "gru_backward", lambda *_: exec("raise RuntimeError('no such luck\\nat all')"))
        return "it raised RuntimeError: no such luck"
    fake_cuda.wrong = 0.01
    return "y is off by"


@pytest.mark.parametrize("how", ["wrong", "hangs", "raises"])
def test_a_failure_switches_the_mode_off_with_one_warning(
    how: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any
) -> None:
    reason = fail(fake_cuda, how, monkeypatch)
    case = ops.Case("cuda", torch.float32, 0, 8)
    with pytest.warns(RuntimeWarning, match=rf"off on the emulation, torch serves instead: .*tf32 failed: {reason}"):
        assert not trust.supports(case)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ops.use_backends("auto"):
            backend, why = next(row[1:] for row in ops.choices(case) if row[0] == "gru_layer")
    assert backend == "torch"
    assert reason in why
    assert not (cache_folder() / "selfcheck").exists()
    assert cuda.unusable() is None  # a failed check is not a failure of a user's call
    with ops.use_backends("gru_layer=cuda"), pytest.raises(CrrlError, match=reason):
        ops.choices(case)


def test_one_wrong_number_is_enough(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fake_cuda.gru_forward

    def spoil(mode: str, sizes: tuple[int, int, int], chains: list[Any], *rest: Any) -> None:
        forward(mode, sizes, chains, *rest)
        if len(chains) == 4:
            import ctypes

            ctypes.c_float.from_address(chains[3][6]).value += 0.1  # h_n of the other encoder's second direction

    monkeypatch.setattr(fake_cuda, "gru_forward", spoil)
    with pytest.warns(RuntimeWarning, match="as the other encoder h_n is off by"):
        assert not trust.verdict("fp32", 0)[0]


def test_within_a_transform_nothing_is_checked() -> None:
    reasons = []
    why = "its self-check in fp32 cannot run within the transforms of torch.func: call it once before"
    torch.func.grad(lambda x: (reasons.append(trust.verdict("fp32", 0)), x)[1])(torch.ones(()))
    assert reasons == [(False, why)]
    assert trust.verdict("fp32", 0)[0]


def test_while_a_graph_is_captured_nothing_unchecked_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(trust, "_card", lambda device: "a card")
    monkeypatch.setattr(cuda, "driver", lambda: "1")
    able, reason = trust.verdict("fp32", 0)
    assert not able
    assert "cannot run within the capture of a CUDA graph" in reason


@pytest.mark.parametrize("within", ["autocast", "inference", "fake tensors", "random"])
def test_it_neither_minds_nor_changes_what_goes_on_around_it(within: str, fake_cuda: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = torch.get_rng_state()
    modes: dict[str, Any] = {
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode(),
        "fake tensors": FakeTensorMode(),
        "random": torch.no_grad(),
    }
    with modes[within]:
        assert trust.verdict("bf16", 0)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert not cuda.timed_out(0)
