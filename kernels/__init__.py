"""Triton kernels and their launchers: tensors in, tensors out. Imported as `crrl.kernels`; each module needs Triton.

A launcher neither waits for the device nor reads from it, so a CUDA graph can capture it. Every sum has a fixed order:
the same tensors give the same bits on the same card.
"""
