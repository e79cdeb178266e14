"""Exact nearest rows in torch on any device: float32 products screen, float64 decides.

A tile of queries is compared with one tile of the bank at a time. The product gives lower bounds (`screening`). The
k smallest of a tile, turned into upper bounds, limit the k-th distance. Every pair whose lower bound is within the
limit is a candidate: about one for each query and neighbour. The matrix of all distances never exists, so the memory
depends neither on the number of queries nor on the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import (
    Frame,
    ScreenedPoints,
    lower_bounds,
    not_finite,
    product_rounding,
    root,
    squared_distances_of_pairs,
)

QUERY_TILE = 1024
BANK_TILE = 4096
FARTHEST = 2.0**40
"""Scaled squared norm up to which float32 products cannot overflow."""


class Float32Rows:
    """Search a bank for the rows nearest to queries.

    Parameters
    ----------
    bank
        [M, D], floating point, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self.bank = bank
        self._prepare()

    def _prepare(self) -> None:
        self._frame = Frame(self.bank)
        self._screened = self._frame.screen(self.bank)

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, k], and row, int64 [Q, k], of queries [Q, D] and k from 1 to M.

        The nearest row comes first; ties go to the lowest row.
        """
        if product_rounding() > self._frame.rounding:
            self._prepare()  # torch now rounds products more coarsely, so the margin must be wider
        parts = [self._search(part, k) for part in queries.split(QUERY_TILE)]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        points = self._frame.screen(queries)
        if points.norms.isnan().any():
            raise not_finite()
        far = points.norms > FARTHEST
        limit = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
        if far.any():
            # These would overflow the product. A limit below everything excludes them from it; see below.
            points = ScreenedPoints(
                points.points.masked_fill(far[:, None], 0.0),
                points.norms.masked_fill(far, 0.0),
                points.lowered.masked_fill(far, 0.0),
            )
            limit = limit.masked_fill(far, -torch.inf)
        query_parts, row_parts, low_parts = [], [], []
        for start in range(0, len(self.bank), BANK_TILE):
            tile = self._screened[start : start + BANK_TILE]
            partial = lower_bounds(points, tile)
            limit = torch.minimum(limit, self._limit(points, tile, partial, k))
            near = (partial <= (limit - points.lowered).float()[:, None]).nonzero()
            query_parts.append(near[:, 0])
            row_parts.append(start + near[:, 1])
            low_parts.append(partial[near[:, 0], near[:, 1]].double() + points.lowered[near[:, 0]])
        query, row, low = torch.cat(query_parts), torch.cat(row_parts), torch.cat(low_parts)
        near = low <= limit[query] + self._frame.slack(points.norms[query], self._screened.norms[row])
        query, row = query[near], row[near]
        if far.any():
            far_queries = far.nonzero().flatten()
            query = torch.cat([query, far_queries.repeat_interleave(len(self.bank))])
            row = torch.cat([row, torch.arange(len(self.bank), device=row.device).repeat(len(far_queries))])
        distance = squared_distances_of_pairs(queries, self.bank, query, row)
        return first_of_each(len(queries), query, row, distance, k)

    def _limit(self, points: ScreenedPoints, tile: ScreenedPoints, partial: Tensor, k: int) -> Tensor:
        """Return an upper bound of the k-th smallest scaled squared distance within the tile, [Q] float64."""
        if k > len(tile.norms):
            return torch.full((len(partial),), torch.inf, dtype=torch.float64, device=partial.device)
        low, which = partial.min(dim=1, keepdim=True) if k == 1 else partial.topk(k, largest=False, sorted=False)
        high = low.double() + points.lowered[:, None] + self._frame.slack(points.norms[:, None], tile.norms[which])
        return high.amax(dim=1)


def first_of_each(count: int, query: Tensor, row: Tensor, distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest candidates of each query, by (distance, row).

    Each query must have at least k candidates.

    Parameters
    ----------
    count
        Number of queries.
    query, row
        Query and row of each candidate, int64 [P].
    distance
        Squared distance of each candidate, float64 [P].
    k
        Number of neighbours.

    Returns
    -------
    tuple of Tensor
        Distances (not squared) and rows, both [count, k], in ascending order of distance.
    """
    order = row.argsort(stable=True)
    order = order[distance[order].argsort(stable=True)]
    order = order[query[order].argsort(stable=True)]
    starts = torch.searchsorted(query[order], torch.arange(count, device=query.device))
    chosen = order[starts[:, None] + torch.arange(k, device=query.device)]
    return root(distance[chosen]), row[chosen]
