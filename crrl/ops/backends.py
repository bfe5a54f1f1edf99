"""Operators with several backends, the policy that picks one, and the reason for the choice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from crrl.errors import CrrlError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Case:
    """What a backend needs to know to say whether it can serve a call.

    Attributes:
        device: the device type. dtype: the tensors' dtype. index: the device's number; None: the current device.
        hidden: H of a GRU layer; None: any.
    """

    device: str
    dtype: torch.dtype
    index: int | None = None
    hidden: int | None = None


@dataclass(frozen=True)
class Backend:
    """One way to compute an operator.

    Attributes:
        name: its name in a policy.
        run: the function; it takes the operator's arguments.
        supports: tells whether it can serve a case, and the reason.
    """

    name: str
    run: Callable[..., Any]
    supports: Callable[[Case], tuple[bool, str]]


class Operator:
    """A function with several backends, the fastest first; the reference comes last and serves every case.

    Args:
        watched: the backend that serves while something besides autograd observes the operations (`above_autograd`),
            because a kernel is opaque to such an observer; empty: no backend is opaque.
    """

    registry: ClassVar[dict[str, Operator]] = {}

    def __init__(self, name: str, *backends: Backend, watched: str = ""):
        self.name = name
        self.backends = backends
        self.watched = watched
        self._runs = {backend.name: backend.run for backend in backends}
        Operator.registry[name] = self

    def pick(self, case: Case) -> Callable[..., Any]:
        """The function that serves this case now."""
        return self._runs[self.served(case)[0]]

    def served(self, case: Case) -> tuple[str, str]:
        """The name of the backend that serves this case now, and the reason."""
        return _served(self.name, case.device, case.dtype, case.index, case.hidden)

    def choose(self, case: Case) -> tuple[Backend, str]:
        """The backend that the current policy chooses for this case, and the reason.

        Raises:
            CrrlError: a forced backend does not exist or cannot serve the case.
        """
        current = _current()
        wanted = current.get(self.name, current["*"])
        if wanted != "auto":
            return self._forced(wanted, case)
        passed_over: list[str] = []
        for backend in self.backends:
            able, reason = backend.supports(case)
            if able:
                return backend, "; ".join([reason, *passed_over])
            passed_over.append(f"not {backend.name}: {reason}")
        raise AssertionError(f"{self.name}: the reference must serve every case")

    def _forced(self, wanted: str, case: Case) -> tuple[Backend, str]:
        for backend in self.backends:
            if backend.name == wanted:
                able, reason = backend.supports(case)
                if not able:
                    raise CrrlError(f"backend {wanted!r} forced for {self.name} cannot run: {reason}")
                return backend, "requested"
        known = ", ".join(backend.name for backend in self.backends)
        raise CrrlError(f"{self.name} has no backend {wanted!r}; it has {known} (or auto)")


def constant(choose: Function) -> Function:
    """Mark `choose` so that torch.compile calls it once and keeps the answer; it cannot trace how the reason is made.

    torch.compiler.assume_constant_result does the same, but imports the compiler.
    """
    choose._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return choose


@constant
def tracer() -> str | None:
    """The tracer that now records all operations into a graph, which will also serve other tensors; None: no tracer."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "torch.jit.trace"
    exporting = "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
    return "torch.onnx.export" if exporting else None


def recorder() -> str | None:
    """What now records or transforms all operations besides autograd, a tracer or torch.func; None: nothing."""
    # torch.autograd.Function.apply makes the same check
    transformed = torch._C._are_functorch_transforms_active()
    return tracer() or ("the transforms of torch.func" if transformed else None)


def above_autograd() -> str | None:
    """What now observes the operations besides autograd; it cannot look into a kernel. None: nothing."""
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return recorder() or ("forward-mode differentiation: its tangents would be lost" if forward_mode else None)


def is_free(operator: str) -> bool:
    """Whether the current policy for this operator is auto."""
    if _policy is None and not os.environ.get("CRRL_BACKEND"):
        return True
    current = _current()
    return current.get(operator, current["*"]) == "auto"


def unobserved() -> bool:
    """Whether nothing, not even autograd, records, traces, transforms, intercepts or times the operations now.

    Then a kernel may be called without a torch operator around it; the operator takes longer than a small kernel.
    """
    return not torch.is_grad_enabled() and autograd_alone()


def probe(name: str) -> Callable[..., Any]:
    """A query of torch._C that the public API lacks, by its dotted name; always True if this torch lacks it too."""
    found: Any = torch._C
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else lambda *_: True


_dispatched, _overridden = probe("_len_torch_dispatch_stack"), probe("_is_torch_function_mode_enabled")
_profiled = probe("_autograd._profiler_enabled")


def autograd_alone() -> bool:
    """Whether nothing but autograd observes the operations: `unobserved`, except that gradients may be recorded."""
    return not (torch.compiler.is_compiling() or _dispatched() or _overridden() or _profiled() or above_autograd())


@constant
def _served(name: str, device: str, dtype: torch.dtype, index: int | None, hidden: int | None) -> tuple[str, str]:
    operator = Operator.registry[name]
    backend, reason = operator.choose(Case(device, dtype, index, hidden))
    if operator.watched and backend.name not in ("torch", "reference") and (watcher := above_autograd()):
        return operator.watched, f"{operator.watched} is used: the kernel {backend.name!r} does not support {watcher}"
    return backend.name, reason


def case_of(tensor: Tensor) -> Case:
    """The case of an operator that is called with this tensor."""
    return Case(tensor.device.type, tensor.dtype, tensor.device.index if tensor.device.type == "cuda" else None)


def always(case: Case) -> tuple[bool, str]:
    """The reference serves every case."""
    return True, "the plain PyTorch reference"


_policy: dict[str, str] | None = None


def _current() -> dict[str, str]:
    """The policy in force: that of the innermost `use_backends`; outside any, $CRRL_BACKEND or auto."""
    return _parsed(os.environ.get("CRRL_BACKEND") or "auto") if _policy is None else _policy


@lru_cache
def _parsed(text: str) -> dict[str, str]:
    return parse_policy(text)


def parse_policy(text: str) -> dict[str, str]:
    """Parse "auto", "reference", or a list such as "gru_layer=torch,ragged_gather=cpu"; unnamed operators are auto.

    Raises:
        CrrlError: an operator does not exist, or the text has another form.
    """
    parsed = {"*": "auto"}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, backend = item.partition("=")
        if not equals and name in ("auto", "reference"):
            parsed["*"] = name
        elif equals and name in Operator.registry:
            parsed[name] = backend
        else:
            known = ", ".join(Operator.registry)
            raise CrrlError(
                f"backend choice {item!r} is neither auto, reference nor OPERATOR=BACKEND with one of {known}"
            )
    return parsed


def policy() -> str:
    """The current policy, in the form that `use_backends` takes."""
    current = _current()
    return ",".join([current["*"], *(f"{name}={value}" for name, value in current.items() if name != "*")])


@contextmanager
def use_backends(text: str) -> Iterator[None]:
    """Within the block, choose backends by this policy. $CRRL_BACKEND, where set, wins over `text`."""
    global _policy
    before = _policy
    _policy = parse_policy(os.environ.get("CRRL_BACKEND") or text)
    try:
        yield
    finally:
        _policy = before


def survey(case: Case) -> list[tuple[str, str, str, str]]:
    """(operator, backend, state, why) of every backend of every operator, under the current policy.

    The state is "serves", "able" (another is chosen), "cannot", or "broken" (it is forced and cannot).
    """
    rows = []
    for name, operator in Operator.registry.items():
        forced = _current().get(name, _current()["*"])
        try:
            chosen = operator.choose(case)[0].name
        except CrrlError:
            chosen = ""
        for backend in operator.backends:
            able, reason = backend.supports(case)
            state = "able" if able else "broken" if backend.name == forced else "cannot"
            rows.append((name, backend.name, "serves" if backend.name == chosen else state, reason))
    return rows


def choices(case: Case) -> list[tuple[str, str, str]]:
    """(operator, backend, why) for every operator, under the current policy."""
    rows = []
    for name, operator in Operator.registry.items():
        backend, reason = operator.choose(case)
        rows.append((name, backend.name, reason))
    return rows
