"""Native CUDA operators; see csrc/cuda/bindings.cpp."""

abi: int
targets: list[str]
toolkit: str

Frames = tuple[int, int, int]
"""(address, elements from row to row, elements from frame to frame)"""
ForwardChain = tuple[Frames, int, int, int, int, Frames, int, Frames, bool]
"""gates, w_hh, b_hh, h0, lengths, y, h_n, reserve, reverse; addresses, 0 for none."""
BackwardChain = tuple[int, int, Frames, Frames, int, Frames, int, bool]
"""w_hh, lengths, reserve, dy, dh_n, dgates, dh0, reverse; addresses, 0 for none."""

class GruPlan:
    variant: str
    reason: str
    blocks: int
    units: int
    rows: int
    teams: int
    shared: int
    workspace: int

def problem() -> str | None: ...
def gru_plan(
    mode: str, backward: bool, chains: int, batch: int, steps: int, hidden: int, device: int, variant: str = ""
) -> GruPlan: ...
def gru_forward(
    mode: str,
    sizes: tuple[int, int, int],
    chains: list[ForwardChain],
    plan: GruPlan,
    workspace: int,
    status: int,
    patience_ns: int,
    device: int,
    stream: int,
) -> None: ...
def gru_backward(
    mode: str,
    sizes: tuple[int, int, int],
    chains: list[BackwardChain],
    plan: GruPlan,
    workspace: int,
    status: int,
    patience_ns: int,
    device: int,
    stream: int,
) -> None: ...
