"""Multivariate Gaussians at the positions of a grid (PaDiM): fitted batch by batch, and the distances from them."""

from __future__ import annotations

from .positions import Moments, distances, packed_size

__all__ = ["Moments", "distances", "packed_size"]
