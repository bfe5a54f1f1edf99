"""The command crrl.doctor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from crrl import doctor
from crrl.ops import cpu, cuda, trust
from crrl.ops.gru import check


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch, fresh_trust: None) -> None:
    monkeypatch.delenv("CRRL_BACKEND", raising=False)
    monkeypatch.setattr(trust, "allowed", True)


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_it_says_what_there_is_and_who_serves(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    out = lines(capsys)
    assert ["machine"] in out
    assert ["builds"] in out
    assert ["cpu,", "float32"] in out
    assert ["cpu,", "bfloat16"] in out
    rows = [line for line in out if line[:2] == ["gru_layer", "reference"]]
    assert len(rows) == 2
    assert rows[0][2:] == ["able", "the", "plain", "PyTorch", "reference"]
    serving = [line[0] for line in out if line[2:3] == ["serves"]]
    assert serving == 2 * ["ema_update", "flat_step", "ragged_gather", "gru_layer", "info_nce", "linear_epoch"]


def test_without_extensions_it_says_why_and_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (cpu, cuda):
        monkeypatch.setattr(module, "missing", "it was not built")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor.main(["--no-check"]) == 0
    out = lines(capsys)
    assert [line[0] for line in out if line[1:] == ["it", "was", "not", "built"]] == ["crrl._cpu", "crrl._cuda"]


def test_an_extension_that_was_built_and_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "missing", "it is of another version")
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    assert doctor.main([]) == 1


def test_a_forced_backend_that_cannot_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRRL_BACKEND", "gru_layer=cuda")
    assert doctor.main([]) == 1
    assert ["gru_layer", "cuda", "broken"] in [line[:3] for line in lines(capsys)]


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the checks of the CUDA GRU, of one shape, and without Triton one of its kernels'."""
    monkeypatch.setattr(check, "SHAPES", ((19, 33),))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checks = {name: each for name, each in trust.CHECKS.items() if each.operator == "gru_layer"}
    absent = replace(trust.CHECKS["info_nce in float32"], obstacle=lambda device: "Triton is not there")
    monkeypatch.setattr(trust, "CHECKS", {**checks, absent.name: absent})


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels' definition stands in for them")
def test_the_verdict_on_every_mode_is_shown(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_gpu(monkeypatch)
    assert doctor.main(["--no-check"]) == 0
    shown = [line for line in lines(capsys) if line[:1] == ["cuda:0"]]
    modes = ("tf32", "fp32", "bf16", "fp16")
    assert [line[:4] for line in shown if line[1] == "gru_layer"] == [["cuda:0", "gru_layer", m, "off"] for m in modes]
    assert ["cuda:0", "info_nce", "float32", "none", "Triton", "is", "not", "there"] in shown
    assert fake_cuda.calls == []
    assert doctor.main([]) == 0
    out = lines(capsys)
    assert [line[3] for line in out if line[:2] == ["cuda:0", "gru_layer"]] == ["passed"] * 4
    assert ["crrl._cuda", "sm_80,", "sm_90a;", "CUDA", "13.0"] in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels' definition stands in for them")
def test_kernels_that_fail_their_check_are_an_error(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_gpu(monkeypatch)
    fake_cuda.wrong = 1.0
    with pytest.warns(RuntimeWarning, match="the CUDA GRU is off"):
        assert doctor.main([]) == 1
    assert [line[3] for line in lines(capsys) if line[:2] == ["cuda:0", "gru_layer"]] == ["off"] * 4
