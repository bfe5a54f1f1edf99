"""crrl: contrast-reconstruction representation learning for skeleton-based action recognition, on compiled kernels."""

import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if sys.orig_argv[1:3] and (
    (sys.orig_argv[1] == "-m" and sys.orig_argv[2].split(".")[0] == "crrl") or Path(sys.orig_argv[1]).name == "crrl"
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a command stopped while it loads ends without a traceback

from crrl.embedding import SkeletonEncoder, load
from crrl.errors import CrrlError

try:
    __version__ = version("crrl")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = ["CrrlError", "SkeletonEncoder", "load"]
