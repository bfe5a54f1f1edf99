"""Data sets in one in-memory form: sources, preprocessing, splits and batches."""

from crrl.data.batches import Batch, ClipTensors
from crrl.data.clips import Clips, Split
from crrl.data.preprocessing import Preprocessing, Preprocessor
from crrl.data.sources import Prepared, prepare

__all__ = ["Batch", "ClipTensors", "Clips", "Prepared", "Preprocessing", "Preprocessor", "Split", "prepare"]
