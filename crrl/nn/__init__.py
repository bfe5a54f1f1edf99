"""Public layers: drop-in GRUs, and the swap that puts them into a model."""

from crrl.nn.gru import GRU
from crrl.nn.stepwise import StepwiseBiGRU
from crrl.nn.swap import Swap, accelerate

__all__ = ["GRU", "StepwiseBiGRU", "Swap", "accelerate"]
