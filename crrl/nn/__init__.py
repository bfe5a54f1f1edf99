"""Public layers: drop-in GRUs, two of them run together, and what puts them into a model and takes them out."""

from crrl.nn.gru import GRU
from crrl.nn.stepwise import StepwiseBiGRU
from crrl.nn.stream import Stream
from crrl.nn.swap import Swap, accelerate, decelerate
from crrl.nn.together import run_together

__all__ = ["GRU", "StepwiseBiGRU", "Stream", "Swap", "accelerate", "decelerate", "run_together"]
