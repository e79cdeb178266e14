"""Exact computations on tensors. Each folder has a readable reference beside the fast version.

This package imports torch and numpy only, and knows nothing of plugins, images or files.
"""
