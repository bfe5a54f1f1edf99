"""Native CPU operators; see csrc/cpu/bindings.cpp."""

abi: int
compiler: str

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
