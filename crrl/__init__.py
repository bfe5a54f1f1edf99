"""crrl: contrast-reconstruction representation learning for skeleton-based action recognition, on compiled kernels."""

from importlib.metadata import version

from crrl.embedding import SkeletonEncoder, load
from crrl.errors import CrrlError

__version__ = version("crrl")

__all__ = ["CrrlError", "SkeletonEncoder", "load"]
