"""Exact nearest rows in torch where the processor multiplies whole numbers fast: codes screen, float64 decides.

One product of 8-bit codes gives all squared distances of a tile's codes without error (`quantised`). The smallest one
of a query, with the errors of both, limits the distance to its nearest row, and every row whose code is not
farther than that and the errors again may be it. Rows are ordered by their errors, so that the largest of a tile,
which is all that a comparison of the whole tile can use, is near to that of the others; those that are left are
compared with their own. One to four rows for each query come to be decided in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.quantised import Grid, codable
from patchcore_plugin.kernels.screening import squared_distances_of_pairs

from .screened import first_of_each

QUERY_TILE = 512
BANK_TILE = 2048
MOST_CANDIDATES = 256
FARTHEST = 2.0**31 - 1025
"""Of squared distances of codes, which fit 32 bits."""


def fast(points: Tensor) -> bool:
    """Whether torch multiplies 8-bit integers fast here, which it does with the instructions called VNNI."""
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    usable = points.device.type == "cpu" and codable(points) and points.shape[1] > 1  # of one value, torch 2.14 errs
    return usable and hasattr(torch, "_int_mm") and bool(supported())


class RoundedRows:
    """A bank made ready to be searched.

    Parameters
    ----------
    bank
        [M, D] of which `fast` is true, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self._bank = bank
        self._grid = Grid(bank)
        codes = self._grid.encode(bank)
        self._order = codes.errors.argsort(stable=True)
        self._codes = codes[self._order]

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, 1], and row, int64 [Q, 1]; row -1 where codes cannot tell many rows apart."""
        parts = [self._search(part) for part in queries.split(QUERY_TILE)]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def _search(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        codes = self._grid.encode(queries)
        norms, errors = codes.norms.double(), codes.errors.double()
        farthest = torch.full((len(queries),), torch.inf, dtype=torch.float64)
        mine, places, values = [], [], []
        for start in range(0, len(self._bank), BANK_TILE):
            tile = self._codes[start : start + BANK_TILE]
            # The query's own norm is left out: adding it would read the matrix once more.
            apart = torch.add(tile.norms, torch._int_mm(codes.codes, tile.codes.T), alpha=-2)
            largest = errors + float(tile.errors[-1])
            farthest = torch.minimum(farthest, (apart.amin(dim=1) + norms).sqrt() + largest)
            limit = (farthest + largest).square() - norms
            near = (apart <= limit.clamp_(max=FARTHEST).ceil().int()[:, None]).nonzero()
            mine.append(near[:, 0])
            places.append(start + near[:, 1])
            values.append(apart[near[:, 0], near[:, 1]])
        query, place, value = torch.cat(mine), torch.cat(places), torch.cat(values)
        apart, error = (value + norms[query]).sqrt(), errors[query] + self._codes.errors[place]
        farthest.scatter_reduce_(0, query, apart + error, "amin")
        kept = apart - error <= farthest[query]
        query, row = query[kept], self._order[place[kept]]
        lost = query.bincount(minlength=len(queries)) > MOST_CANDIDATES
        kept = ~lost[query]
        query, row = (
            torch.cat([query[kept], lost.nonzero().flatten()]),
            torch.cat([row[kept], row.new_zeros(int(lost.sum()))]),
        )
        distance = squared_distances_of_pairs(queries, self._bank, query, row)
        distance, row = first_of_each(len(queries), query, row, distance, 1)
        return distance, row.masked_fill_(lost[:, None], -1)
