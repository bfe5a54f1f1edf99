"""The one error a user sees: what is wrong, with which file, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class CrrlError(Exception):
    """Bad input, a damaged file or a machine that cannot go on. Commands print it as one line and exit with 2."""


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's `main`; a CrrlError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        return main() or 0
    except CrrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
