"""crrl: contrast-reconstruction representation learning for skeleton-based action recognition, on compiled kernels."""

from crrl.embedding import SkeletonEncoder, load
from crrl.errors import CrrlError

__version__ = "0.1.0"

__all__ = ["CrrlError", "SkeletonEncoder", "load"]
