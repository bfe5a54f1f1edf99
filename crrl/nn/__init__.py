"""Public layers: drop-in GRUs, two of them run together, and the swap that puts them into a model."""

from crrl.nn.gru import GRU
from crrl.nn.stepwise import StepwiseBiGRU
from crrl.nn.swap import Swap, accelerate
from crrl.nn.together import run_together

__all__ = ["GRU", "StepwiseBiGRU", "Swap", "accelerate", "run_together"]
