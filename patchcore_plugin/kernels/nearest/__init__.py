"""Exact nearest rows of a memory bank (PatchCore equation 6)."""

from __future__ import annotations

from .search import NearestRows

__all__ = ["NearestRows"]
