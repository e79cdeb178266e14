"""Nearest rows by brute force in float64: the specification of the fast search."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import root, squared_distances


def nearest_rows(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return distance, float64 [Q, k], and row, int64 [Q, k], of the k rows of `bank` nearest to each query.

    Distances are float64 direct differences, ascending; ties go to the lowest row.
    """
    distances = torch.stack([squared_distances(bank, query) for query in queries])
    found = distances.sort(dim=1, stable=True)
    return root(found.values[:, :k]), found.indices[:, :k]
