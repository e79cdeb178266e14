"""Exact computations on tensors: coresets, nearest rows, patch embeddings and Gaussians.

Each folder holds one kernel. `reference.py` defines the result in readable code; the other modules compute it faster.
This package imports torch, numpy and psutil only.
"""
