"""Pure PyTorch, differentiable and exact in fp64: the reference that every fast path is tested against."""
