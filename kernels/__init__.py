"""The place of Triton kernels and their launchers, tensors in, tensors out; imported as `crrl.kernels`."""
