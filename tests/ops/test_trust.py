"""No kernel is trusted before it has agreed with the reference on this card, driver and build."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from crrl import ops
from crrl.errors import CrrlError
from crrl.files import cache_folder
from crrl.ops import cuda, trust
from crrl.ops.backends import Operator
from crrl.ops.gru import check
from crrl.ops.gru import cuda as cuda_gru

MODES = ["fp32", "tf32", "bf16", "fp16"]


SHAPES = check.SHAPES


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    """fake_cuda comes with a trust that has checked nothing; a check is of few shapes where they do not matter."""
    monkeypatch.setattr(check, "SHAPES", ((5, 7), (19, 33)))


def verdict(mode: str) -> tuple[bool, str]:
    return trust.verdict("gru_layer", mode, 0)


def another_process(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setattr(trust, "_verdicts", {})
    monkeypatch.setattr(trust, "_found", {})
    fake_cuda.calls.clear()


@pytest.mark.parametrize("mode", MODES)
def test_right_kernels_pass_once_and_are_remembered(mode: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setattr(check, "SHAPES", SHAPES)
    assert verdict(mode) == (True, "its self-check passed now")
    assert [call[2] for call in fake_cuda.calls] == len(check.SHAPES) * [2, 2, 2, 4]
    assert {call[1] for call in fake_cuda.calls} == {mode}
    verdict(mode)
    assert len(fake_cuda.calls) == 4 * len(check.SHAPES)
    another_process(monkeypatch, fake_cuda)
    assert verdict(mode) == (True, "its self-check passed before")
    assert fake_cuda.calls == []


def test_the_kernels_themselves_pass_in_their_emulation(
    monkeypatch: pytest.MonkeyPatch, use_as_cuda: Callable[[Any], None], emulated: ModuleType
) -> None:
    use_as_cuda(emulated)
    monkeypatch.setattr(check, "SHAPES", ((19, 97),))  # the other takes seconds there
    assert verdict("bf16") == (True, "its self-check passed now")


@pytest.mark.parametrize("fact", ["driver", "card", "build", "mode"])
def test_another_card_driver_build_or_mode_is_checked_anew(
    fact: str, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any, tmp_path: Path
) -> None:
    verdict("fp32")
    another_process(monkeypatch, fake_cuda)
    if fact == "driver":
        monkeypatch.setattr(cuda, "driver", lambda: "999.1")
    elif fact == "card":
        monkeypatch.setattr(trust, "_card", lambda device: "another")
    elif fact == "build":
        fake_cuda.__file__ = str(tmp_path / "_cuda.so")
        Path(fake_cuda.__file__).write_bytes(b"built again")
    assert verdict("tf32" if fact == "mode" else "fp32") == (True, "its self-check passed now")


def test_a_damaged_record_is_no_record(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    verdict("fp32")
    (record,) = (cache_folder() / "selfcheck").iterdir()
    record.write_text("{")
    another_process(monkeypatch, fake_cuda)
    assert verdict("fp32") == (True, "its self-check passed now")


def test_a_cache_that_cannot_be_written_costs_a_check_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_cuda: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRRL_CACHE", str(tmp_path / "file"))
    assert verdict("fp32")[0]


def fail(fake_cuda: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if how == "hangs":
        fake_cuda.hangs = True
        return "a block waited 2 s for its team"
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
    with pytest.warns(RuntimeWarning, match=rf"off on the emulation, torch is used instead: .*tf32 failed: {reason}"):
        assert not check.supports(case)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ops.use_backends("auto"):
            backend, why = Operator.registry["gru_layer"].served(case)
    assert backend == "torch"
    assert reason in why
    assert not (cache_folder() / "selfcheck").exists()
    assert cuda.unusable() is None  # a failed check is not a failure of a user's call
    with ops.use_backends("gru_layer=cuda"), pytest.raises(CrrlError, match=reason):
        Operator.registry["gru_layer"].choose(case)


def test_one_wrong_number_is_enough(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fake_cuda.gru_forward

    def spoil(mode: str, sizes: tuple[int, int, int], chains: list[Any], *rest: Any) -> None:
        forward(mode, sizes, chains, *rest)
        if len(chains) == 4:
            import ctypes

            ctypes.c_float.from_address(chains[3][6]).value += 0.1  # h_n of the other encoder's second direction

    monkeypatch.setattr(fake_cuda, "gru_forward", spoil)
    with pytest.warns(RuntimeWarning, match="as the other encoder h_n is off by"):
        assert not verdict("fp32")[0]


def test_within_a_transform_nothing_is_checked() -> None:
    reasons = []
    why = "its self-check in fp32 cannot run within the transforms of torch.func: call it once before"
    torch.func.grad(lambda x: (reasons.append(verdict("fp32")), x)[1])(torch.ones(()))
    assert reasons == [(False, why)]
    assert verdict("fp32")[0]


def test_while_a_graph_is_captured_nothing_unchecked_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(trust, "_card", lambda device: "a card")
    monkeypatch.setattr(cuda, "driver", lambda: "1")
    able, reason = verdict("fp32")
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
        assert verdict("bf16")[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert not cuda.timed_out(0)


CARDS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "H200": ({"major": 9, "multiprocessors": 132, "shared": 232448}, dict.fromkeys(MODES, "cluster")),
    "B200": ({"major": 10, "multiprocessors": 148, "shared": 232448}, dict.fromkeys(MODES, "cluster")),
    "A100": ({"major": 8, "multiprocessors": 108, "shared": 166912}, dict.fromkeys(MODES, "l2")),
    "RTX 4090": ({"major": 8, "multiprocessors": 128, "shared": 101376}, dict.fromkeys(MODES, "l2")),
    "L4": ({"major": 8, "multiprocessors": 58, "shared": 101376}, dict.fromkeys(MODES, "l2")),
    "RTX 5090": ({"major": 12, "multiprocessors": 170, "shared": 101376}, dict.fromkeys(MODES, "cluster")),
    "T4": ({"major": 7, "multiprocessors": 40, "shared": 65536}, dict.fromkeys(MODES, "")),
}
"""What the driver says of a card, and the exchange by which each mode computes the paper's encoder on it; "": none."""


@pytest.fixture
def planning(
    emulated: ModuleType, fake_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """planning(facts): the kernels' definition, with the plans that they have on a card of these facts."""

    def plan(*arguments: Any) -> Any:
        made = emulated.gru_plan(*arguments)
        return SimpleNamespace(variant=made.variant, reason=made.reason, workspace=made.workspace + 64)

    monkeypatch.setattr(fake_cuda, "gru_plan", plan)

    def card(facts: dict[str, Any]) -> None:
        emulated.set_device(**facts)
        cuda_gru._plan.cache_clear()

    yield card
    emulated.set_device()
    cuda_gru._plan.cache_clear()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("card", CARDS)
def test_a_mode_serves_on_every_card_that_has_a_plan_for_the_papers_encoder(
    card: str,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
    planning: Callable[[dict[str, Any]], None],
    fake_cuda: Any,
) -> None:
    """Whatever sizes the self-check tries beside it: those that the card has no plan for are left out."""
    facts, variants = CARDS[card]
    planning(facts)
    monkeypatch.setattr(check, "SHAPES", SHAPES)
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(check, "_fault", lambda mode, where, *shape: asked.append(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not variants[mode]:
            assert "sm_80" in verdict(mode)[1]
            return
        assert verdict(mode) == (True, "its self-check passed now")
    assert cuda_gru._plan(fake_cuda, mode, False, 2, (32, 60, 256), 0).variant == variants[mode]
    assert {(19, 256), (70, 256), (150, 256)} < {*asked}
    assert all(cuda_gru.refusal(mode, hidden, 0) is None for _, hidden in asked)
    assert {*check.SHAPES} - {*asked} == {s for s in check.SHAPES if cuda_gru.refusal(mode, s[1], 0) is not None}


def test_a_size_without_a_plan_is_left_out_and_the_others_are_computed(
    monkeypatch: pytest.MonkeyPatch, planning: Callable[[dict[str, Any]], None], fake_cuda: Any
) -> None:
    planning(CARDS["L4"][0])
    monkeypatch.setattr(check, "SHAPES", ((3, 1000), (3, 32)))
    assert verdict("tf32") == (True, "its self-check passed now")
    assert len(fake_cuda.calls) == 4


def test_a_mode_that_has_no_plan_for_any_size_does_not_pass(
    planning: Callable[[dict[str, Any]], None], fake_cuda: Any
) -> None:
    planning(CARDS["T4"][0])
    assert "sm_80" in str(check.fault("fp32", torch.device("cpu")))


def test_layers_of_a_block_or_less_are_checked() -> None:
    """Their teams are mostly padding."""
    assert {1, 7, 16, 32} <= {hidden for _, hidden in SHAPES}


@pytest.mark.parametrize("hidden", [1, 7, 16, 32])
def test_such_layers_pass_in_the_emulation(
    hidden: int, monkeypatch: pytest.MonkeyPatch, use_as_cuda: Callable[[Any], None], emulated: ModuleType
) -> None:
    use_as_cuda(emulated)
    monkeypatch.setattr(check, "SHAPES", ((5, hidden),))
    assert emulated.gru_plan("fp32", False, 2, 5, 6, hidden, 0).blocks == 2
    assert verdict("fp32") == (True, "its self-check passed now")


def dying(how: str) -> str:
    """What the process of checks runs if "flat_step in float32" is the end of it, without torch, which takes long."""
    ends = {
        "signal": "os.kill(os.getpid(), signal.SIGABRT)",
        "exit": "sys.exit('CUDA error: an illegal memory access')",
        "hang": "time.sleep(600)",
    }
    return (
        "import json, os, signal, sys, time\n"
        "print('of a library')\n"
        "print('ready', flush=True)\n"
        "for name in sys.argv[2:]:\n"
        f"    if 'flat_step' in name: {ends[how]}\n"
        "    print(json.dumps([name, 'keys are wrong' if 'ema' in name else None]), flush=True)\n"
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("signal", "its process was killed by signal 6"),
        ("exit", "its process ended with exit code 1: CUDA error: an illegal memory access"),
        ("hang", "its process was still running after 3 s"),
    ],
)
def test_a_check_that_ends_its_process_is_off_and_the_others_are_heard(
    how: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "CHILD", dying(how))
    monkeypatch.setattr(trust, "PATIENCE_S", 3 if how == "hang" else 60)
    names = ["ema_update in float32", "flat_step in float32", "info_nce in float32"]
    assert trust.apart(names, 0) == dict(zip(names, ["keys are wrong", said, None], strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's interpreter stands in for a GPU")
def test_the_process_itself_finds_what_passes_and_what_does_not() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    found = trust.apart(["gru_layer in fp32", "ema_update in float32"], 0)
    assert found is not None
    assert found["ema_update in float32"] is None
    assert found["gru_layer in fp32"] is not None  # without a device it has no plan for any shape


def test_where_no_process_gets_the_gpu_the_check_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "CHILD", "raise SystemExit('all CUDA-capable devices are busy or unavailable')")
    assert trust.apart(["ema_update in float32"], 0) is None
    monkeypatch.setattr(trust.sys, "executable", "/nowhere/python")
    assert trust.apart(["ema_update in float32"], 0) is None


def test_one_process_checks_all_of_a_dtype_and_each_is_remembered_and_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a GPU that is only named: what its process would find is given."""
    asked: list[list[str]] = []

    def found(names: list[str], device: int) -> dict[str, str | None]:
        asked.append(names)
        return {name: "no C compiler" if "flat_step" in name else None for name in names}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(trust, "_card", lambda device: "a card")
    monkeypatch.setattr(cuda, "driver", lambda: "1")
    monkeypatch.setattr(trust, "apart", found)
    checks = {n: replace(c, prepare=lambda d: None, notice=lambda d: None) for n, c in trust.CHECKS.items()}
    monkeypatch.setattr(trust, "CHECKS", checks)
    assert trust.verdict("info_nce", "float32", 0) == (True, "its self-check passed now")
    assert [set(names) for names in asked] == [{n for n, c in checks.items() if c.dtype == torch.float32}]
    assert trust.verdict("gru_layer", "tf32", 0)[0]
    with pytest.warns(
        RuntimeWarning, match="kernel of flat_step is off on a card, the PyTorch reference is used instead"
    ):
        assert not trust.verdict("flat_step", "float32", 0)[0]
    assert len(asked) == 1
    said = f"crrl: checking {len(asked[0])} kernels on a card, once for this card and build\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(trust, "_verdicts", {})
    assert trust.verdict("ema_update", "float32", 0) == (True, "its self-check passed before")
    with pytest.warns(RuntimeWarning, match="no C compiler"):
        trust.verdict("flat_step", "float32", 0)
    assert asked[1:] == [["flat_step in float32"]]


@pytest.mark.parametrize(
    ("targets", "capability", "said"),
    [
        (["sm_80", "sm_90a", "compute_90"], (8, 9), False),
        (["sm_80", "sm_90a", "compute_90"], (9, 0), False),
        (["sm_80", "sm_90a", "sm_100a", "compute_90"], (10, 3), True),
        (["sm_80", "sm_90a", "compute_90"], (12, 0), True),
        (["sm_80", "sm_120", "compute_90"], (12, 1), False),
    ],
)
def test_a_card_whose_driver_must_compile_the_kernels_is_named(
    targets: list[str], capability: tuple[int, int], said: bool, monkeypatch: pytest.MonkeyPatch, fake_cuda: Any
) -> None:
    monkeypatch.setattr(fake_cuda, "targets", targets)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    assert (cuda.from_ptx(0) is not None) is said
    if said:
        assert f"sm_{capability[0]}{capability[1]}, once" in str(cuda.from_ptx(0))


def test_the_notice_is_shown_before_the_check_and_not_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = replace(trust.CHECKS["gru_layer in fp32"], notice=lambda device: "this takes a while")
    monkeypatch.setattr(trust, "CHECKS", {noted.name: noted})
    for said in ("crrl: this takes a while\n", ""):
        assert verdict("fp32")[0]
        assert capsys.readouterr().err == said


def test_the_patience_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.patience_ns() == 2 * 10**9
    monkeypatch.setenv("CRRL_PATIENCE", "60.5")
    assert cuda.patience_ns() == 60_500_000_000
    for text in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("CRRL_PATIENCE", text)
        with pytest.raises(CrrlError, match=f"CRRL_PATIENCE is '{text}': give the seconds"):
            cuda.patience_ns()
