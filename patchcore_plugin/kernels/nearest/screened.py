"""Exact nearest rows: one float32 product screens the bank, float64 differences decide.

A tile of queries meets a tile of the bank at a time. The product gives lower bounds (`screening`); the
k smallest of a tile, made upper bounds, limit the k-th distance, and every pair whose lower bound is within
the limit is kept as a candidate: about one for each query and neighbour. So the matrix of all distances
never exists, and memory depends on neither the number of queries nor that of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.screening import (
    Frame,
    Screened,
    chunk_rows,
    lower_bounds,
    product_rounding,
    squared_distances_of_pairs,
)

QUERY_TILE = 1024
BANK_TILE = 4096
FARTHEST = 2.0**40
"""Scaled squared norm up to which float32 products cannot overflow."""


class NearestRows:
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
        # Thousands of copies of one row (a flat background) would all be candidates of their neighbours.
        self._every = torch.arange(len(self.bank), device=self.bank.device)
        distinct = _distinct_rows(self.bank)
        self._distinct = self._every if len(distinct) == len(self.bank) else distinct
        self._screened_distinct = self._screened if self._distinct is self._every else self._screened[distinct]

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
            raise TensorError("distances need finite values; check the patches for NaN")
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
        candidates, screened = (self._distinct, self._screened_distinct) if k == 1 else (self._every, self._screened)
        mine, rows, lows = [], [], []
        for start in range(0, len(candidates), BANK_TILE):
            tile = screened[start : start + BANK_TILE]
            partial = lower_bounds(points, tile)
            limit = torch.minimum(limit, self._limit(points, tile, partial, k))
            near = (partial <= (limit - points.lowered).float()[:, None]).nonzero()
            mine.append(near[:, 0])
            rows.append(candidates[start + near[:, 1]])
            lows.append(partial[near[:, 0], near[:, 1]].double() + points.lowered[near[:, 0]])
        query, row, low = torch.cat(mine), torch.cat(rows), torch.cat(lows)
        kept = low <= limit[query] + self._frame.slack(points.norms[query], self._screened.norms[row])
        query, row = query[kept], row[kept]
        if far.any():
            others = far.nonzero().flatten()
            query = torch.cat([query, others.repeat_interleave(len(candidates))])
            row = torch.cat([row, candidates.repeat(len(others))])
        distance = squared_distances_of_pairs(queries, self.bank, query, row)
        return _first_of_each(len(queries), query, row, distance, k)

    def _limit(self, points: Screened, tile: Screened, partial: Tensor, k: int) -> Tensor:
        """Return an upper bound of the k-th smallest scaled squared distance within the tile, [Q] float64."""
        if k > len(tile.norms):
            return torch.full((len(partial),), torch.inf, dtype=torch.float64, device=partial.device)
        low, which = partial.min(dim=1, keepdim=True) if k == 1 else partial.topk(k, largest=False, sorted=False)
        high = low.double() + points.lowered[:, None] + self._frame.slack(points.norms[:, None], tile.norms[which])
        return high.amax(dim=1)


def _first_of_each(count: int, query: Tensor, row: Tensor, distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest candidates of each query, by (distance, row); every query has at least k."""
    order = row.argsort(stable=True)
    order = order[distance[order].argsort(stable=True)]
    order = order[query[order].argsort(stable=True)]
    starts = torch.searchsorted(query[order], torch.arange(count, device=query.device))
    chosen = order[starts[:, None] + torch.arange(k, device=query.device)]
    return distance[chosen].sqrt(), row[chosen]


def _distinct_rows(bank: Tensor) -> Tensor:
    """Return the rows of `bank` that equal none before them, ascending, int64."""
    bits = bank.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[bank.element_size()])
    weights = torch.randint(1, 2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0)) | 1
    weights = weights.to(bank.device)
    # Integer sums wrap around but never round, so equal rows have equal keys wherever they stand.
    keys = torch.cat([(part.long() * weights).sum(dim=1) for part in bits.split(chunk_rows(bits))])
    order = keys.argsort(stable=True)
    same_key = keys[order[1:]] == keys[order[:-1]]
    later, earlier = order[1:][same_key], order[:-1][same_key]
    copies = torch.ones_like(later, dtype=torch.bool)
    for low in range(0, len(later), chunk_rows(bank)):
        part = slice(low, low + chunk_rows(bank))
        copies[part] = (bank[later[part]] == bank[earlier[part]]).all(dim=1)
    distinct = torch.ones(len(bank), dtype=torch.bool, device=bank.device)
    distinct[later[copies]] = False
    return distinct.nonzero().flatten()
