"""A multivariate Gaussian at each position of a grid: learned batch by batch, and the distance from it."""

from __future__ import annotations

from .positions import Moments, distances, packed

__all__ = ["Moments", "distances", "packed"]
