"""Pure PyTorch, differentiable and exact in fp64: the truth that every fast path is held against."""
