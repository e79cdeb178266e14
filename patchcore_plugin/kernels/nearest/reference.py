"""Nearest rows by brute force in float64: the definition of the result."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import root, squared_distances


def nearest_rows(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return the k nearest rows of each query.

    Parameters
    ----------
    queries
        [Q, D], floating point, finite, Q at least 1.
    bank
        [M, D], floating point, finite.
    k
        1 to M.

    Returns
    -------
    distance
        float64 [Q, k], by direct differences, ascending.
    row
        int64 [Q, k]; ties go to the lowest row.
    """
    distances = torch.stack([squared_distances(bank, query) for query in queries])
    ordered = distances.sort(dim=1, stable=True)
    return root(ordered.values[:, :k]), ordered.indices[:, :k]
