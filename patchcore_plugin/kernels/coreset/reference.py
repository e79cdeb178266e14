"""The textbook greedy k-center selection: the definition of the result."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import squared_distances


def greedy(points: Tensor, count: int, start: int, within: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Select rows greedily: each pick is the row farthest from all earlier picks (Gonzalez 1985).

    Distances are float64 direct differences; ties go to the lowest index.

    Parameters
    ----------
    points
        [N, D], floating point.
    count
        How many rows to select, 1 to N.
    start
        The first row.
    within
        float64 [N], the distance of each row to the nearest row of an earlier selection; None if there is none.

    Returns
    -------
    index
        int64 [count], in selection order.
    radii
        float64 [count]: the covering radius after each pick, the largest distance from any row to its nearest pick.
    """
    index = torch.empty(count, dtype=torch.int64)
    radii = torch.empty(count, dtype=torch.float64)
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64) if within is None else within.square()
    pick = start
    for k in range(count):
        index[k] = pick
        nearest = torch.minimum(nearest, squared_distances(points, points[pick]))
        nearest[pick] = -1.0  # never picked again, not even if only copies of picks are left
        pick = int(nearest.argmax())
        radii[k] = math.sqrt(max(0.0, float(nearest[pick])))
    return index, radii
