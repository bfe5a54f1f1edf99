"""The GRU that ISC, CMD and Predict-Cluster compute with a bidirectional torch.nn.GRU called frame by frame."""

from __future__ import annotations

from typing import ClassVar

import torch

from crrl.nn.gru import GRU


class StepwiseBiGRU(GRU):
    """What a bidirectional torch.nn.GRU gives when it is called frame by frame with its state, in one call.

    Called so, neither direction ever sees a later frame: each layer is two forward GRUs, concatenated, and not the
    bidirectional GRU that torch computes from the whole clip. ISC (skeleton-contrast), CMD and Predict-Cluster train
    and evaluate in this way. Parameters have the names of torch.nn.GRU with bidirectional=True, so their weights load.

    Arguments, `lengths`, shapes and errors are those of crrl.nn.GRU; h_n holds the states after each row's last frame.
    Dropout draws a mask for each frame, as the loop over frames does.
    """

    reverse: ClassVar[bool] = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype
        )
