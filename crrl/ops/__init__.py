"""The seam: every operator the models call, and the choice of who computes it."""

from crrl.ops.backends import Backend, Case, Operator, choices, policy, use_backends
from crrl.ops.operators import ema_update, gru_backend, gru_layer, info_nce, ragged_gather

__all__ = [
    "Backend",
    "Case",
    "Operator",
    "choices",
    "ema_update",
    "gru_backend",
    "gru_layer",
    "info_nce",
    "policy",
    "ragged_gather",
    "use_backends",
]
