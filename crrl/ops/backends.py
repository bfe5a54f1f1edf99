"""Operators with several backends, the policy that picks one, and the reason it gives."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from crrl.errors import CrrlError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Case:
    """What a backend needs to know to say whether it can serve a call.

    Attributes:
        device: its type. dtype: of the tensors. index: which device of that type; None: the current one.
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
        name: how a policy names it.
        run: the function, with the operator's arguments.
        supports: says whether it can serve a case, and why (or why not).
    """

    name: str
    run: Callable[..., Any]
    supports: Callable[[Case], tuple[bool, str]]


class Operator:
    """A function with several backends, the fastest first and the reference, which serves every case, last.

    Args:
        watched: the backend that serves while something beside autograd watches the operations, to which a kernel is
            opaque (`above_autograd`); empty: nothing that watches is lost by any backend.
    """

    registry: ClassVar[dict[str, Operator]] = {}

    def __init__(self, name: str, *backends: Backend, watched: str = ""):
        self.name = name
        self.backends = backends
        self.watched = watched
        self._runs = {backend.name: backend.run for backend in backends}
        Operator.registry[name] = self

    def pick(self, case: Case) -> Callable[..., Any]:
        """What computes a call of this case now."""
        return self._runs[self.served(case)[0]]

    def served(self, case: Case) -> tuple[str, str]:
        """The backend that computes a call of this case now, by name, and why."""
        return _served(self.name, case.device, case.dtype, case.index, case.hidden)

    def choose(self, case: Case) -> tuple[Backend, str]:
        """The backend that the current policy gives this case, and why.

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
                return backend, "asked for"
        known = ", ".join(backend.name for backend in self.backends)
        raise CrrlError(f"{self.name} has no backend {wanted!r}; it has {known} (or auto)")


def constant(choose: Function) -> Function:
    """Have torch.compile call `choose` once and keep the answer, which has reasons that it could not trace.

    This is all that torch.compiler.assume_constant_result does, but for importing the compiler.
    """
    choose._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return choose


@constant
def tracer() -> str | None:
    """What takes down all operations now, for a graph that is to serve other tensors, too."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "torch.jit.trace"
    exporting = "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
    return "torch.onnx.export" if exporting else None


def recorder() -> str | None:
    """What, beside autograd, takes down or transforms all operations now: a tracer, or torch.func."""
    # as torch.autograd.Function.apply asks
    transformed = torch._C._are_functorch_transforms_active()
    return tracer() or ("the transforms of torch.func" if transformed else None)


def above_autograd() -> str | None:
    """What, beside autograd, watches the operations now; a kernel known to autograd alone is opaque to it."""
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return recorder() or ("forward-mode differentiation: its tangents would be lost" if forward_mode else None)


@constant
def _served(name: str, device: str, dtype: torch.dtype, index: int | None, hidden: int | None) -> tuple[str, str]:
    operator = Operator.registry[name]
    backend, reason = operator.choose(Case(device, dtype, index, hidden))
    if operator.watched and backend.name not in ("torch", "reference") and (watcher := above_autograd()):
        return operator.watched, f"{operator.watched} serves: the kernel {backend.name!r} knows nothing of {watcher}"
    return backend.name, reason


def case_of(tensor: Tensor) -> Case:
    """The case of an operator on this tensor."""
    return Case(tensor.device.type, tensor.dtype, tensor.device.index if tensor.device.type == "cuda" else None)


def always(case: Case) -> tuple[bool, str]:
    """Whether the reference serves a case: it does."""
    return True, "the plain PyTorch reference"


_policy: dict[str, str] | None = None


def _current() -> dict[str, str]:
    """The policy in force: that of the innermost `use_backends`; outside any, $CRRL_BACKEND or auto."""
    return parse_policy(os.environ.get("CRRL_BACKEND") or "auto") if _policy is None else _policy


def parse_policy(text: str) -> dict[str, str]:
    """ "auto", "reference", or a list such as "gru_layer=torch,ragged_gather=cpu" (the operators not named: auto).

    Raises:
        CrrlError: an operator of that name does not exist, or the text is of another form.
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

    The state is "serves", "able" (where another is chosen) or "cannot"; "broken" if it is forced and cannot.
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
