"""Self-checks of GPU kernels: a kernel serves only once it has agreed with the reference on this card.

An operator registers a `Check` for each dtype or mode. The first call that needs one runs all checks of its dtype in a
separate process: a kernel that writes out of bounds brings down that process, not the user's. A pass is remembered
under $CRRL_CACHE for this card, driver, torch and build. A failure turns the kernel off for this process, which warns
once and names what serves instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from crrl.errors import CrrlError
from crrl.files import cache_folder, content_hash, read_json, write_json
from crrl.ops import cuda
from crrl.ops.backends import recorder


@dataclass(frozen=True)
class Check:
    """A small call of a kernel that is compared with the reference.

    Attributes:
        operator: its name. mode: the dtype, or another name for how it is computed.
        subject: what serves if the check passes. instead: what serves if it does not.
        dtype: of the tensors; checks of one dtype run together.
        build: everything that the outcome depends on besides mode, card, driver and torch.
        fault: finds what is wrong on a device; None: nothing. It may raise instead.
        obstacle: why the check cannot run on the GPU of this number; None: it can.
        prepare: makes what must exist in this process before the kernels run on the GPU of this number.
        notice: what the user should know before the wait for the check; None: nothing.
    """

    operator: str
    mode: str
    subject: str
    instead: str
    dtype: torch.dtype
    build: Callable[[], str]
    fault: Callable[[torch.device], str | None]
    obstacle: Callable[[int], str | None]
    prepare: Callable[[int], object] = lambda device: None
    notice: Callable[[int], str | None] = lambda device: None

    @property
    def name(self) -> str:
        return f"{self.operator} in {self.mode}"


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order of the modules that register them."""

PATIENCE_S = 600
"""How long the process of a check may take; Triton compiles a kernel in seconds."""

CHILD = "import sys; from crrl.ops import trust; trust.answer(int(sys.argv[1]), sys.argv[2:])"
"""The code that this process runs."""

READY = "ready"
"""The line that it prints once it has the device."""

allowed = True
"""Whether a check may run; if not, only what has passed before is trusted."""

_lock = threading.RLock()
_verdicts: dict[tuple[str, int, str], tuple[bool, str]] = {}
_found: dict[tuple[str, int, str], str | None] = {}
"""The faults that a process found for checks whose verdict has not been requested yet."""


def register(check: Check) -> None:
    """Make the check known to `verdict` by its name."""
    CHECKS[check.name] = check


def verdict(operator: str, mode: str, device: int) -> tuple[bool, str]:
    """Whether the kernels of an operator in `mode` are trusted on GPU `device`, and the reason; the first call checks.

    No check can run while operations are recorded, as in the capture of a CUDA graph: without an earlier verdict the
    kernels are not trusted.
    """
    check = CHECKS[f"{operator} in {mode}"]
    key = check.name, device, check.build()
    if key in _verdicts:
        return _verdicts[key]
    if reason := check.obstacle(device):
        return False, reason
    if within := _watched():
        return False, f"its self-check in {mode} cannot run within {within}: call it once before"
    with _lock:
        if key not in _verdicts:
            known = _recall(check, device)
            if known is None and not allowed:
                return False, f"its self-check in {mode} has not run"
            check.prepare(device)  # now: within a capture the driver gives no memory
            _verdicts[key] = known or _judge(check, device)
    return _verdicts[key]


def _watched() -> str | None:
    """What records the operations now and would record those of a check too; None: nothing."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "the capture of a CUDA graph"
    return recorder()


def _judge(check: Check, device: int) -> tuple[bool, str]:
    """Run the check unless an earlier process has run it; remember a pass, warn of a failure."""
    key = check.name, device, check.build()
    if key not in _found:
        if notice := check.notice(device):
            print(f"crrl: {notice}", file=sys.stderr)
        for name, fault in _faults(check, device).items():
            _found[name, device, CHECKS[name].build()] = fault
            if fault is None:
                _remember(CHECKS[name], device)
    if (fault := _found.pop(key)) is None:
        return True, "its self-check passed now"
    reason = f"its self-check in {check.mode} failed: {fault}"
    warnings.warn(
        f"{check.subject} is off on {_card(device)}, {check.instead} is used instead: {reason}", RuntimeWarning, 2
    )
    return False, reason


def _faults(check: Check, device: int) -> dict[str, str | None]:
    """The faults of this check and, if a separate process ran it, of all of its dtype that have no verdict yet."""
    if torch.cuda.is_available():
        others = [
            each
            for each in CHECKS.values()
            if each.dtype == check.dtype and each is not check and not _known(each, device)
        ]
        wanted = [check, *(each for each in others if each.obstacle(device) is None)]
        print(f"crrl: checking {len(wanted)} kernels on {_card(device)}, once for this card and build", file=sys.stderr)
        if (found := apart([each.name for each in wanted], device)) is not None:
            return found
    return {check.name: here(check, device)}  # the kernels are emulated, or no other process can get the GPU


def _known(check: Check, device: int) -> bool:
    key = check.name, device, check.build()
    return key in _verdicts or key in _found or _recall(check, device) is not None


def here(check: Check, device: int) -> str | None:
    """Run a check in this process and return its fault; None: there is none."""
    where = torch.device("cuda", device) if torch.cuda.is_available() else torch.device("cpu")
    with _undisturbed(device):
        try:
            return check.fault(where)
        except Exception as error:
            return f"it raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def apart(names: Sequence[str], device: int) -> dict[str, str | None] | None:
    """Run checks in other processes and return their faults by name; None: no other process can get the device.

    The first check is always among them. Others are missing if a process left the device unusable for the next.
    """
    found: dict[str, str | None] = {}
    while left := [name for name in names if name not in found]:
        lines, ending = _child(left, device)
        if READY not in lines:
            return found or None
        answers = [answer for answer in map(_answer, lines) if answer is not None and answer[0] in left]
        found.update(answers)
        if not answers:
            found[left[0]] = f"its process {ending}"
    return found


def _answer(line: str) -> tuple[str, str | None] | None:
    """The name and fault of a check from a line that `answer` printed; None: the line is from elsewhere."""
    with suppress(ValueError, TypeError):
        name, fault = json.loads(line)
        return name, fault
    return None


def _child(names: Sequence[str], device: int) -> tuple[list[str], str]:
    """The lines that a process with these checks printed, and how it ended. It can import what this process can."""
    root = Path(__file__).parents[2]
    paths = [str(root), *(str(Path(path).absolute()) for path in sys.path)]
    command = [sys.executable, "-c", CHILD, str(device), *names]
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, "cwd": root}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, errors="replace", **options
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")  # bytes, even where text was requested
        return output.splitlines(), f"was still running after {PATIENCE_S} s"
    except OSError as error:
        return [], str(error)
    code, said = done.returncode, done.stderr.strip().rpartition("\n")[2]
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return done.stdout.splitlines(), f"{ending}: {said}" if said else ending


def answer(device: int, names: Sequence[str]) -> None:
    """Print the fault of each check, a line of JSON each; end after a check that has broken CUDA for this process."""
    where = f"cuda:{device}" if torch.cuda.is_available() else "cpu"
    torch.zeros(1, device=where)
    print(READY, flush=True)
    for name in names:
        print(json.dumps([name, here(CHECKS[name], device)]), flush=True)
        torch.zeros(1, device=where).item()


def _remember(check: Check, device: int) -> None:
    facts = _facts(check, device)
    with suppress(CrrlError, OSError):  # a cache that cannot be written costs a check in each process
        path = _path(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)


def _recall(check: Check, device: int) -> tuple[bool, str] | None:
    facts = _facts(check, device)
    with suppress(CrrlError):
        if read_json(_path(facts)) == facts:
            return True, "its self-check passed before"
    return None


def _path(facts: dict[str, str]) -> Path:
    return cache_folder() / "selfcheck" / f"{content_hash(facts.values())}.json"


def _facts(check: Check, device: int) -> dict[str, str]:
    """Everything that a verdict depends on."""
    return {
        "card": _card(device), "driver": cuda.driver(), "torch": torch.__version__, "build": check.build(),
        "check": check.name,
    }  # fmt: skip


@cache
def file_hash(path: str) -> str:
    """The hash of a file as it was at the first call."""
    return content_hash([Path(path).read_bytes()])


def _card(device: int) -> str:
    if not torch.cuda.is_available():
        return "the emulation"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


@contextmanager
def _undisturbed(device: int) -> Iterator[None]:
    """Keep the caller's modes (autocast, inference, a compiler's fake tensors) out of the check."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.cuda.is_available():
            stack.enter_context(torch.cuda.device(device))
        yield


def differs(name: str, got: Tensor, want: Tensor, tolerance: float) -> str | None:
    """The fault of a result whose largest error exceeds `tolerance` times the root mean square of `want`."""
    want = want.double().cpu()
    error = float((got.double().cpu() - want).abs().max() / want.square().mean().sqrt())
    return None if error <= tolerance else f"{name} is off by {error:.1e} of its size"
