"""Nearest rows proposed by a faiss index, and decided by float64 differences.

faiss computes in float32, so its nearest row need not be the nearest one. It is therefore asked for a few
candidates more than are wanted, of points centred and scaled as in `screening`, and the candidates are
measured and ordered in float64.

For the flat index that is enough to know when nothing is missing. Its squared distances are sums of the two
squared norms and of a product, all in float32. In the notation of `screening`, norms and product together
are off by at most gamma (n_i + n_j + 2 r_i r_j) = gamma R^2, and the copies and the three roundings left by less
than 12u R^2; so |computed - true| <= kappa R^2 <= 2 kappa (n_i + n_j) holds here too. No row that faiss left out is
nearer than its last candidate, less that margin with the largest norm of the bank for n_j. A query whose k-th
row is nearer than this has its true rows; any other is searched by `NearestRows`. So is one to which a graph or
the lists bring fewer rows than are wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch
from torch import Tensor

from patchcore_plugin.errors import ModelFileError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.float32 import FARTHEST
from patchcore_plugin.kernels.screening import TINY, Frame, not_finite, root, squared_distances

if TYPE_CHECKING:
    from .faiss_knn import FaissConfig

EXTRA = 8
"""Candidates beyond those that are wanted."""
QUERIES = 1024
"""How many queries are answered at a time: their candidates are copied to float64."""
ADDED_AT_ONCE = 100
"""faiss adds up to as many rows to a graph in one thread; in several, the graph would differ from time to time."""


class FaissRows:
    """A bank in a faiss index, which computes on the CPU.

    Parameters
    ----------
    bank
        [M, D], floating point, finite, M at least 1.
    config
        Which index, and how it is built and searched.
    centroids
        Of an index "ivf", float32 [nlist, D] as in `centroids` once; learned from the bank if None.

    Attributes
    ----------
    centroids
        What was learned from the bank, in its centred and scaled frame; None unless the index is "ivf".
    """

    def __init__(self, bank: Tensor, config: FaissConfig, centroids: Tensor | None = None) -> None:
        self.bank = bank
        self.centroids: Tensor | None = None
        self._exact: NearestRows | None = None
        self._proven = config.index == "flat"
        rows = bank.cpu()
        self._frame = Frame(rows)
        screened = self._frame.screen(rows)
        self._largest_norm = float(screened.norms.max())
        points = screened.points.numpy()
        if config.index == "ivf":
            self.centroids = _learn_centroids(points, config) if centroids is None else _checked(centroids, rows)
            self._index = _lists(points, self.centroids, config)
        elif config.index == "hnsw":
            self._index = _graph(points, config)
        else:
            self._index = faiss.IndexFlatL2(points.shape[1])
            self._index.add(points)

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, k], and row, int64 [Q, k]: nearest first, ties to the lowest row.

        Parameters
        ----------
        queries
            [Q, D], floating point, finite.
        k
            How many rows to find, 1 to M.
        """
        parts = [self._search(part, k) for part in queries.split(QUERIES)]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        points = self._frame.screen(queries.cpu())
        if points.norms.isnan().any():
            raise not_finite()
        far = points.norms > FARTHEST  # beyond this, faiss's squares could overflow
        wanted = min(k + EXTRA, len(self.bank))
        found, candidates = self._index.search(points.points.masked_fill(far[:, None], 0.0).numpy(), wanted)
        row = torch.from_numpy(candidates).to(queries.device)
        squares = squared_distances(queries[:, None], self.bank[row.clamp_min(0)])
        squares = squares.masked_fill(row < 0, torch.inf)
        row, order = row.sort(dim=1)
        squares, nearest = squares.take_along_dim(order, dim=1).sort(dim=1, stable=True)
        row = row.take_along_dim(nearest, dim=1)
        squares, row = squares[:, :k], row[:, :k]
        settled = squares[:, -1].isfinite() & ~far.to(queries.device)
        if self._proven and wanted < len(self.bank):
            margin = 2 * self._frame.kappa * (points.norms.double() + self._largest_norm) + TINY
            beyond = torch.from_numpy(found[:, -1]).double() - margin
            settled &= squares[:, -1] * self._frame.scale**2 < beyond.to(queries.device)
        distance = root(squares.contiguous())
        rest = (~settled).nonzero().flatten()
        if len(rest):
            self._exact = self._exact or NearestRows(self.bank)
            distance[rest], row[rest] = self._exact(queries[rest], k)
        return distance, row


def _learn_centroids(points: Any, config: FaissConfig) -> Tensor:
    count = min(config.nlist or round(4 * len(points) ** 0.5), len(points))
    # A bank is small: without the minimum faiss would print that it is, but there are no more rows to be had.
    kmeans = faiss.Kmeans(
        points.shape[1], count, seed=config.seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=256
    )
    kmeans.train(points)
    return torch.from_numpy(np.array(kmeans.centroids, dtype=np.float32))


def _checked(centroids: Tensor, bank: Tensor) -> Tensor:
    fits = centroids.dtype == torch.float32 and centroids.ndim == 2 and 1 <= len(centroids) <= len(bank)
    if not (fits and centroids.shape[1] == bank.shape[1]):
        dtype = str(centroids.dtype).removeprefix("torch.")
        raise ModelFileError(
            f"scorer 'faiss': expected centroids float32 [1 to {len(bank)}, {bank.shape[1]}], "
            f"got {dtype} {list(centroids.shape)}; fit again"
        )
    return centroids.cpu()


def _lists(points: Any, centroids: Tensor, config: FaissConfig) -> Any:
    count, dims = centroids.shape
    quantiser = faiss.IndexFlatL2(dims)
    quantiser.add(centroids.numpy())
    index = faiss.IndexIVFFlat(quantiser, dims, count, faiss.METRIC_L2)
    index.train(points)  # finds the quantiser trained
    index.add(points)
    index.nprobe = min(config.nprobe, count)
    return index


def _graph(points: Any, config: FaissConfig) -> Any:
    index = faiss.IndexHNSWFlat(points.shape[1], config.m)
    index.hnsw.efConstruction = config.ef_construction
    index.hnsw.efSearch = config.ef_search
    for start in range(0, len(points), ADDED_AT_ONCE):
        index.add(points[start : start + ADDED_AT_ONCE])
    return index
