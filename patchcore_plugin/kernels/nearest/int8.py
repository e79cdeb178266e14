"""Exact nearest rows in torch on CPUs with VNNI: products of 8-bit codes screen, float64 decides.

One product of 8-bit codes gives all squared distances between the codes of a tile without error (`quantisation`). For
each query, the smallest of them plus the errors of both codes limits the distance to the nearest row. Every row whose
code is no farther than that limit plus both errors again is a candidate. Rows are sorted by error: the comparison of a
whole tile can only use its largest error, which is then close to all others. The remaining candidates are compared with
their own errors. One to four rows for each query are left for float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.quantisation import Grid, encodable
from patchcore_plugin.kernels.screening import squared_distances_of_pairs

from .float32 import first_of_each

QUERY_TILE = 512
BANK_TILE = 2048
MOST_CANDIDATES = 256
FARTHEST = 2.0**31 - 1025
"""Largest limit of a squared distance between codes, which fits 32 bits."""


def usable(points: Tensor) -> bool:
    """Return whether torch multiplies 8-bit codes of these points fast: on a CPU with VNNI instructions."""
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    # torch 2.14 computes wrong products of rows of one value.
    multipliable = points.device.type == "cpu" and encodable(points) and points.shape[1] > 1
    return multipliable and hasattr(torch, "_int_mm") and bool(supported())


class Int8Rows:
    """Search a bank for the nearest row of each query.

    Parameters
    ----------
    bank
        [M, D] for which `usable` is true, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self._bank = bank
        self._grid = Grid(bank)
        codes = self._grid.encode(bank)
        self._order = codes.errors.argsort(stable=True)
        self._codes = codes[self._order]

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, 1], and row, int64 [Q, 1], for k = 1.

        Row -1 marks a query for which codes leave more than `MOST_CANDIDATES` rows.
        """
        assert k == 1
        parts = [self._search(part) for part in queries.split(QUERY_TILE)]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def _search(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        codes = self._grid.encode(queries)
        norms, errors = codes.norms.double(), codes.errors.double()
        farthest = torch.full((len(queries),), torch.inf, dtype=torch.float64)
        query_parts, place_parts, value_parts = [], [], []
        for start in range(0, len(self._bank), BANK_TILE):
            tile = self._codes[start : start + BANK_TILE]
            # The norm of the query is left out: adding it would read the matrix once more.
            apart = torch.add(tile.norms, torch._int_mm(codes.codes, tile.codes.T), alpha=-2)
            largest = errors + float(tile.errors[-1])
            farthest = torch.minimum(farthest, (apart.amin(dim=1) + norms).sqrt() + largest)
            limit = (farthest + largest).square() - norms
            near = (apart <= limit.clamp_(max=FARTHEST).ceil().int()[:, None]).nonzero()
            query_parts.append(near[:, 0])
            place_parts.append(start + near[:, 1])
            value_parts.append(apart[near[:, 0], near[:, 1]])
        query, place, value = torch.cat(query_parts), torch.cat(place_parts), torch.cat(value_parts)
        apart, error = (value + norms[query]).sqrt(), errors[query] + self._codes.errors[place]
        farthest.scatter_reduce_(0, query, apart + error, "amin")
        candidate = apart - error <= farthest[query]
        query, row = query[candidate], self._order[place[candidate]]
        unresolved = query.bincount(minlength=len(queries)) > MOST_CANDIDATES
        decided = ~unresolved[query]
        query, row = (
            torch.cat([query[decided], unresolved.nonzero().flatten()]),
            torch.cat([row[decided], row.new_zeros(int(unresolved.sum()))]),
        )
        distance = squared_distances_of_pairs(queries, self._bank, query, row)
        distance, row = first_of_each(len(queries), query, row, distance, 1)
        return distance, row.masked_fill_(unresolved[:, None], -1)
