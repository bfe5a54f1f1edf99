"""Native CPU operators; see csrc/cpu/bindings.cpp."""

from collections.abc import Sequence

from torch import Tensor

abi: int
compiler: str
gru_tiles_from: tuple[int, int]

def thread_runtime() -> str: ...
def gru_isa(bf16: bool) -> str | None: ...
def gru_crew(
    batch: int, frames: int, hidden: int, directions: int, bf16: bool, threads: int, isa: str = ""
) -> tuple[int, int, float]: ...
def gru_reserve_size(batch: int, steps: int, hidden: int, directions: int) -> int: ...
def gru_forward(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    y: Tensor,
    h_n: Tensor,
    reserve: Tensor | None,
    directions: int,
    frames: int,
    batch_first: bool,
    reverse: bool,
    threads: int,
    isa: str = "",
) -> None: ...

class GruWeights:
    def __init__(self, weights: Sequence[Tensor], directions: int, isa: str = "") -> None: ...

def gru_stream(
    weights: GruWeights,
    x: Tensor,
    h0: Tensor | None,
    y: Tensor,
    h_n: Tensor,
    batch_first: bool,
    reverse: bool,
    threads: int,
) -> None: ...
def gru_backward(
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    reserve: Tensor,
    dy: Tensor,
    dh_n: Tensor,
    dx: Tensor | None,
    dh0: Tensor,
    gradients: Sequence[Tensor],
    directions: int,
    frames: int,
    batch_first: bool,
    reverse: bool,
    threads: int,
    isa: str = "",
) -> None: ...
def ragged_gather(
    frames: Tensor, offsets: Tensor, index: Tensor, x: Tensor, v: Tensor | None, lengths: Tensor
) -> None: ...
def keep_memory() -> None: ...
def info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    loss: Tensor,
    dq: Tensor,
    pointer: Tensor | None = None,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def parse_skeleton(text: bytes) -> tuple[int, list[tuple[int, bytes, bytes]]]: ...
def ema_update(
    keys: Tensor,
    queries: Tensor,
    boundary: int,
    momentum_head: float,
    momentum_tail: float,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def flat_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    keys: Tensor | None,
    rates: Tensor,
    nesterov: bool,
    weight_decay: float,
    beta2: float,
    eps: float,
    max_norm: float,
    boundary: int,
    momentum_head: float,
    momentum_tail: float,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def linear_epoch(
    features: Tensor,
    labels: Tensor,
    order: Tensor,
    batch_size: int,
    weight: Tensor,
    bias: Tensor,
    weight_momentum: Tensor,
    bias_momentum: Tensor,
    rate: float,
    momentum: float,
    isa: str = "",
) -> None: ...
