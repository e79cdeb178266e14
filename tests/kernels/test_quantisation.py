"""Bounds on distances from codes."""

from __future__ import annotations

import torch

from patchcore_plugin.kernels.quantisation import Grid
from patchcore_plugin.kernels.screening import squared_distances
from tests.kernels.vectors import normal


def test_distances_lie_between_the_bounds() -> None:
    points = normal(200, 40) * 10 ** normal(200, 1, seed=1)
    grid = Grid(points)
    codes = grid.encode(points)
    apart = torch.cdist(codes.codes.double(), codes.codes.double())
    true = squared_distances(points[:, None], points[None]).sqrt() / grid.step
    errors = codes.errors.double()
    assert (apart - errors[:, None] - errors <= true).all()
    assert (apart + errors[:, None] + errors >= true).all()
