"""The textbook greedy k-center selection: the specification of the fast one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import squared_distances


def greedy(points: Tensor, count: int, start: int, within: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Select `count` rows, each time the one farthest from those selected (Gonzalez 1985).

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
        float64 [N], how far each row is from what was selected elsewhere before; None if nothing was.

    Returns
    -------
    index
        int64 [count], in selection order.
    radii
        float64 [count]: after each pick, the largest distance from any row to its nearest pick.
    """
    index = torch.empty(count, dtype=torch.int64)
    radii = torch.empty(count, dtype=torch.float64)
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64) if within is None else within.square()
    pick = start
    for k in range(count):
        index[k] = pick
        nearest = torch.minimum(nearest, squared_distances(points, points[pick]))
        nearest[pick] = -1.0  # never again, not even where all that is left are copies of picks
        pick = int(nearest.argmax())
        radii[k] = math.sqrt(max(0.0, float(nearest[pick])))
    return index, radii
