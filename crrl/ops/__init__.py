"""Every operator that the models call, and the choice of the backend that computes it."""

from crrl.ops.backends import Backend, Case, Operator, choices, policy, survey, use_backends
from crrl.ops.cuda import raise_if_timed_out
from crrl.ops.flat import ema_update, flat_step
from crrl.ops.gather import ragged_gather
from crrl.ops.gru.operators import gru_backend, gru_layer, gru_layer_pair
from crrl.ops.infonce import info_nce, info_nce_enqueue
from crrl.ops.linear import linear_epoch

__all__ = [
    "Backend",
    "Case",
    "Operator",
    "choices",
    "ema_update",
    "flat_step",
    "gru_backend",
    "gru_layer",
    "gru_layer_pair",
    "info_nce",
    "info_nce_enqueue",
    "linear_epoch",
    "policy",
    "ragged_gather",
    "raise_if_timed_out",
    "survey",
    "use_backends",
]
