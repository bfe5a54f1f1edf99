"""Native CPU operators; see csrc/cpu/bindings.cpp."""

abi: int
compiler: str

Frames = tuple[int, int, int]
"""(address, elements from row to row, elements from frame to frame)"""
Weights = tuple[int, ...]
"""The addresses of w_ih, w_hh, b_ih, b_hh of one direction."""

def gru_isa(bf16: bool) -> str | None: ...
def gru_reserve_size(batch: int, steps: int, hidden: int, directions: int) -> int: ...

class GruLayer:
    def __init__(
        self,
        batch: int,
        steps: int,
        input: int,
        hidden: int,
        reverse: bool,
        repeated: bool,
        lengths: int,
        x: Frames,
        h0: int,
        weights: list[Weights],
    ) -> None: ...

def gru_forward(
    layer: GruLayer, y: Frames, h_n: int, reserve: int, bf16: bool, threads: int, isa: str = ""
) -> None: ...
def gru_backward(
    layer: GruLayer,
    y: Frames,
    reserve: int,
    dy: Frames,
    dh_n: int,
    dx: Frames,
    dh0: int,
    gradients: list[Weights],
    bf16: bool,
    threads: int,
    isa: str = "",
) -> None: ...
def ragged_gather(
    frames: int,
    num_frames: int,
    offsets: int,
    num_clips: int,
    index: int,
    batch: int,
    max_frames: int,
    channels: int,
    x: int,
    v: int,
    lengths: int,
) -> None: ...
def keep_memory() -> None: ...
def peak_gflops(threads: int, seconds: float = 0.2) -> dict[str, float]: ...
def info_nce(
    batch: int,
    features: int,
    keys: int,
    q: int,
    k: int,
    queue: int,
    temperature: float,
    loss: int,
    dq: int,
    pointer: int = 0,
    entering: int = 0,
    num_entering: int = 0,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def parse_skeleton(text: bytes) -> tuple[int, list[tuple[int, bytes, bytes]]]: ...
def ema_update(
    size: int,
    keys: int,
    queries: int,
    boundary: int,
    momentum_head: float,
    momentum_tail: float,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def flat_step(
    size: int,
    parameters: int,
    gradients: int,
    first: int,
    second: int,
    keys: int,
    rates: int,
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
    clips: int,
    features: int,
    classes: int,
    x: int,
    labels: int,
    order: int,
    count: int,
    batch: int,
    weight: int,
    bias: int,
    weight_momentum: int,
    bias_momentum: int,
    rate: float,
    momentum: float,
    isa: str = "",
) -> None: ...
