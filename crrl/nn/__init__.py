"""Public layers."""

from crrl.nn.gru import GRU

__all__ = ["GRU"]
