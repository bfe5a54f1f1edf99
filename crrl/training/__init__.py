"""Training: the phases of Algorithm 1, the loop that runs them, and what it reports."""

from crrl.training.trainer import Trainer, fast_paths, runs_that_help

__all__ = ["Trainer", "fast_paths", "runs_that_help"]
