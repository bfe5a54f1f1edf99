"""Loading a compiled extension, or saying why it cannot serve; and keeping torch.compile out of what calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch


def load(name: str, abi: int, language: str, compiler: str) -> tuple[Any, str | None]:
    """The module `name` (None where it is not there), and why it cannot be called; None: it can.

    Args:
        abi: what its own must be. language: what it is written in. compiler: what there has to be to compile it.
    """
    try:
        module = import_module(name)
    except ImportError as error:
        return None, f"the {language} extension {name} is not there ({error}); install {compiler} and reinstall crrl"
    stale = getattr(module, "abi", None) != abi
    return module, f"the {language} extension {name} is of another version: reinstall crrl" if stale else None


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, into which torch.compile does not look: torch.compiler.disable, which alone imports the compiler.

    While nobody has imported it, nobody compiles.
    """
    # torch's own for its own functions: it imports the compiler in the first call
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    hidden = disable(function)

    def call(*arguments: Any) -> Any:
        return (hidden if "torch._dynamo" in sys.modules else function)(*arguments)

    return call
