"""Public layers: drop-in GRUs, a function that runs two of them together, and functions that swap them in and out."""

from crrl.nn.gru import GRU
from crrl.nn.stepwise import StepwiseBiGRU
from crrl.nn.stream import Stream
from crrl.nn.swap import Swap, accelerate, decelerate
from crrl.nn.together import run_together

__all__ = ["GRU", "StepwiseBiGRU", "Stream", "Swap", "accelerate", "decelerate", "run_together"]
