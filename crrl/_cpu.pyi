"""Native CPU operators; see csrc/cpu/bindings.cpp."""

abi: int
compiler: str

def gru_isa() -> str: ...

class GruShape:
    def __init__(
        self, active: int, starts: int, steps: int, frames: int, batch: int, hidden: int, directions: int
    ) -> None: ...

def gru_forward(
    shape: GruShape,
    gates: int,
    w_hh: int,
    b_hh: int,
    h: int,
    y: int,
    before: int,
    r_z: int,
    n: int,
    n_h: int,
    threads: int,
    isa: str = "",
) -> None: ...
def gru_backward(
    shape: GruShape,
    w_hh: int,
    before: int,
    r_z: int,
    n: int,
    n_h: int,
    dy: int,
    dh: int,
    dgates: int,
    drecurrent: int,
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
