"""Load a compiled extension, or tell why it cannot serve; keep torch.compile out of the functions that call it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch


def load(name: str, abi: int, language: str, compiler: str) -> tuple[Any, str | None]:
    """The module `name` (None if it is missing), and the reason why it cannot be called (None if it can).

    Args:
        abi: the value its own must have. language: what it is written in. compiler: what is needed to compile it.
    """
    try:
        module = import_module(name)
    except ImportError as error:
        return None, f"the {language} extension {name} is missing ({error}); install {compiler} and reinstall crrl"
    stale = getattr(module, "abi", None) != abi
    return module, f"the {language} extension {name} is of another version: reinstall crrl" if stale else None


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, hidden from torch.compile as by torch.compiler.disable, but without importing the compiler.

    Nothing is compiled before someone imports the compiler, so until then `function` is called directly.
    """
    # torch's private version imports the compiler only in the first call
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    hidden = disable(function)

    def call(*arguments: Any) -> Any:
        return (hidden if "torch._dynamo" in sys.modules else function)(*arguments)

    return call
