"""Data sets in one in-memory form: sources, preprocessing, splits and batches.

The readers of foreign files are in `crrl.data.readers`. Those in MOVED were once beside this file; scripts may still
use their old names, so that `crrl.data.bvh` is `crrl.data.readers.bvh`.
"""

import sys
from importlib import import_module

from crrl.data.batches import Batch, ClipTensors
from crrl.data.clips import Clips, Split
from crrl.data.preprocessing import Preprocessing, Preprocessor
from crrl.data.sources import Prepared, prepare

__all__ = ["Batch", "ClipTensors", "Clips", "Prepared", "Preprocessing", "Preprocessor", "Split", "prepare"]

MOVED = (
    *("arrays", "asf", "bvh", "clip_files", "cmu", "coco", "ctr_gcn", "folder", "kinematics", "mediapipe", "ntu"),
    *("nw_ucla", "openpose", "pickles", "pku_mmd", "poses", "pyskl", "skeleton", "st_gcn", "synthetic", "text"),
)
"""The readers with two names; a new reader has only the one in `crrl.data.readers`."""

for _name in MOVED:
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = import_module(f"{__name__}.readers.{_name}")
