"""Loading a compiled extension, or saying why it cannot serve."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load(name: str, abi: int, language: str, compiler: str) -> tuple[Any, str | None]:
    """The module `name` (None where it is not there), and why it cannot be called; None: it can.

    Args:
        abi: what its own must be. language, compiler: what it is written in and was to be compiled with.
    """
    try:
        module = import_module(name)
    except ImportError as error:
        return None, f"the {language} extension {name} is not there ({error}); install {compiler} and reinstall crrl"
    stale = getattr(module, "abi", None) != abi
    return module, f"the {language} extension {name} is of another version: reinstall crrl" if stale else None
