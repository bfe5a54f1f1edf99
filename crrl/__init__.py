"""crrl: contrast-reconstruction representation learning for skeleton-based action recognition, on compiled kernels."""

from importlib.metadata import PackageNotFoundError, version

from crrl.embedding import SkeletonEncoder, load
from crrl.errors import CrrlError

try:
    __version__ = version("crrl")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = ["CrrlError", "SkeletonEncoder", "load"]
