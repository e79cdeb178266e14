"""Locally aware patch embeddings (PatchCore section 3.1): pooling, upsampling and merging of feature maps."""

from __future__ import annotations

from .linear import adaptive_embedding, average_embedding

__all__ = ["adaptive_embedding", "average_embedding"]
