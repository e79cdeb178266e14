"""Exact nearest rows: one float32 product screens the bank, float64 differences decide.

A tile of queries meets a tile of the bank at a time. The product gives lower bounds (`screening`); the
k smallest of a tile, made upper bounds, limit the k-th distance, and every pair whose lower bound is within
the limit is kept as a candidate: about one for each query and neighbour. So the matrix of all distances
never exists, and memory depends on neither the number of queries nor that of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import (
    Frame,
    Screened,
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


class ScreenedRows:
    """A bank made ready to be searched.

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
        """Return distance, float64 [Q, k], and row, int64 [Q, k]: nearest first, ties to the lowest row.

        Parameters
        ----------
        queries
            [Q, D], floating point, finite.
        k
            How many rows to find, 1 to M.
        """
        if product_rounding() > self._frame.rounding:
            self._prepare()  # torch was set to coarser products since: the margin must be wider
        parts = [self._search(part, k) for part in queries.split(QUERY_TILE)]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        points = self._frame.screen(queries)
        if points.norms.isnan().any():
            raise not_finite()
        far = points.norms > FARTHEST
        limit = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
        if far.any():
            # These would overflow the screen; a limit below everything keeps them out of it.
            points = Screened(
                points.points.masked_fill(far[:, None], 0.0),
                points.norms.masked_fill(far, 0.0),
                points.lowered.masked_fill(far, 0.0),
            )
            limit = limit.masked_fill(far, -torch.inf)
        mine, rows, lows = [], [], []
        for start in range(0, len(self.bank), BANK_TILE):
            tile = self._screened[start : start + BANK_TILE]
            partial = lower_bounds(points, tile)
            limit = torch.minimum(limit, self._limit(points, tile, partial, k))
            near = (partial <= (limit - points.lowered).float()[:, None]).nonzero()
            mine.append(near[:, 0])
            rows.append(start + near[:, 1])
            lows.append(partial[near[:, 0], near[:, 1]].double() + points.lowered[near[:, 0]])
        query, row, low = torch.cat(mine), torch.cat(rows), torch.cat(lows)
        kept = low <= limit[query] + self._frame.slack(points.norms[query], self._screened.norms[row])
        query, row = query[kept], row[kept]
        if far.any():
            others = far.nonzero().flatten()
            query = torch.cat([query, others.repeat_interleave(len(self.bank))])
            row = torch.cat([row, torch.arange(len(self.bank), device=row.device).repeat(len(others))])
        distance = squared_distances_of_pairs(queries, self.bank, query, row)
        return first_of_each(len(queries), query, row, distance, k)

    def _limit(self, points: Screened, tile: Screened, partial: Tensor, k: int) -> Tensor:
        """Return an upper bound of the k-th smallest scaled squared distance within the tile, [Q] float64."""
        if k > len(tile.norms):
            return torch.full((len(partial),), torch.inf, dtype=torch.float64, device=partial.device)
        low, which = partial.min(dim=1, keepdim=True) if k == 1 else partial.topk(k, largest=False, sorted=False)
        high = low.double() + points.lowered[:, None] + self._frame.slack(points.norms[:, None], tile.norms[which])
        return high.amax(dim=1)


def first_of_each(count: int, query: Tensor, row: Tensor, distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest candidates of each query, by (distance, row); every query has at least k."""
    order = row.argsort(stable=True)
    order = order[distance[order].argsort(stable=True)]
    order = order[query[order].argsort(stable=True)]
    starts = torch.searchsorted(query[order], torch.arange(count, device=query.device))
    chosen = order[starts[:, None] + torch.arange(k, device=query.device)]
    return root(distance[chosen]), row[chosen]
