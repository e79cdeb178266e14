"""Nearest rows: candidates from a faiss index, selected by float64 differences.

faiss computes in float32, so its nearest row need not be the nearest one. It is therefore asked for a few additional
candidates, on points that are centred and scaled as in `screening`. The candidates are measured and ordered in float64.

For a flat index this also shows when no row is missing. Its squared distances are sums of two squared norms and of a
product, all in float32. In the notation of `screening`, the errors of norms and product together are at most
gamma (n_i + n_j + 2 r_i r_j) = gamma R^2, and those of the copies and of three roundings less than 12u R^2, so
|computed - true| <= kappa R^2 <= 2 kappa (n_i + n_j). No row outside the candidates is nearer than the last candidate
minus that margin, with the largest norm of the bank as n_j. If the k-th row of a query is nearer than this, its rows
are exact. `NearestRows` searches all other queries, and those for which an index returns fewer than k rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.float32 import FARTHEST
from patchcore_plugin.kernels.screening import TINY, Frame, not_finite, root, squared_distances

EXTRA = 8
"""Number of candidates in addition to the k requested rows."""
QUERIES = 1024
"""Number of queries in a batch; their candidates are copied to float64."""


class FaissRows:
    """A bank in a faiss index, which computes on the CPU.

    Parameters
    ----------
    bank
        [M, D], floating point, finite, M at least 1.
    build
        Function that takes the rows as centred and scaled float32 points [M, D] (NumPy) and returns a faiss index.
    exhaustive
        Whether the index compares a query with every row, so that results can be proven exact.
    """

    def __init__(self, bank: Tensor, build: Callable[[Any], Any], *, exhaustive: bool) -> None:
        self.bank = bank
        self._exhaustive = exhaustive
        self._exact: NearestRows | None = None
        rows = bank.cpu()
        self._frame = Frame(rows)
        screened = self._frame.screen(rows)
        self._largest_norm = float(screened.norms.max())
        self.index = build(screened.points.numpy())

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the nearest rows of queries, nearest first, ties to the lowest row.

        Parameters
        ----------
        queries
            [Q, D], floating point, finite.
        k
            Number of rows, 1 to M.

        Returns
        -------
        distance : Tensor
            Euclidean distances, float64 [Q, k].
        row : Tensor
            Rows of the bank, int64 [Q, k].

        Raises
        ------
        TensorError
            If a query is not finite.
        """
        batches = [self._search(batch, k) for batch in queries.split(QUERIES)]
        return torch.cat([distance for distance, _ in batches]), torch.cat([row for _, row in batches])

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        points = self._frame.screen(queries.cpu())
        if points.norms.isnan().any():
            raise not_finite()
        far = points.norms > FARTHEST  # squares in faiss could overflow
        count = min(k + EXTRA, len(self.bank))
        computed, candidates = self.index.search(points.points.masked_fill(far[:, None], 0.0).numpy(), count)
        row = torch.from_numpy(candidates).to(queries.device)
        squares = squared_distances(queries[:, None], self.bank[row.clamp_min(0)])
        squares = squares.masked_fill(row < 0, torch.inf)
        row, order = row.sort(dim=1)
        squares, nearest = squares.take_along_dim(order, dim=1).sort(dim=1, stable=True)
        row = row.take_along_dim(nearest, dim=1)
        squares, row = squares[:, :k], row[:, :k]
        settled = squares[:, -1].isfinite() & ~far.to(queries.device)
        if self._exhaustive and count < len(self.bank):
            margin = 2 * self._frame.kappa * (points.norms.double() + self._largest_norm) + TINY
            bound = torch.from_numpy(computed[:, -1]).double() - margin
            settled &= squares[:, -1] * self._frame.scale**2 < bound.to(queries.device)
        distance = root(squares.contiguous())
        rest = (~settled).nonzero().flatten()
        if len(rest):
            self._exact = self._exact or NearestRows(self.bank)
            distance[rest], row[rest] = self._exact(queries[rest], k)
        return distance, row
