"""Gaussians fitted by merging the moments of batches (Chan, Golub and LeVeque 1979), P positions of D values.

Sums of products minus the square of the mean cancel if values are far from zero. Each batch is therefore centred on
its own mean before it is multiplied, and the difference between the two means is added like one more vector.

Moments are float64: they are divided by eigenvalues as small as epsilon, which magnifies rounding by the condition
number of the covariance. The condition number of the Cholesky factor is only the square root of that, so factors are
float32. Symmetric and triangular matrices are stored as their lower triangle, by rows, D(D+1)/2 values, and expanded
for a chunk of positions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

WORKSPACE = 2**25
"""Bytes of the square matrices of one chunk."""


def packed_size(dims: int) -> int:
    """Return the number of values in a triangle of `dims` rows."""
    return dims * (dims + 1) // 2


class Moments:
    """Count, mean and scatter of the vectors at each position; the scatter is the sum of (x - mean)(x - mean)^T.

    Parameters
    ----------
    mean
        [P, D], the mean of the vectors so far; zeros if there are none. It is copied.
    count
        The number of vectors so far at each position.
    scatter
        float64 [P, D(D+1)/2], packed; zeros if None. It is updated in place.
    """

    def __init__(self, mean: Tensor, count: int = 0, scatter: Tensor | None = None) -> None:
        positions, dims = mean.shape
        self.count = count
        self.mean = mean.to(torch.float64, copy=True)
        self.scatter = self.mean.new_zeros(positions, packed_size(dims)) if scatter is None else scatter

    @classmethod
    def of(cls, mean: Tensor, count: int, factors: Tensor, epsilon: float) -> Moments:
        """Return the moments that have these `factors`, up to float32 rounding.

        Parameters
        ----------
        mean
            [P, D].
        count
            The number of vectors at each position, at least 2.
        factors
            float32 [P, D(D+1)/2], packed, from `Moments.factors`.
        epsilon
            That of `Moments.factors`.
        """
        scatter = factors.new_empty(factors.shape, dtype=torch.float64)
        lower = _lower(mean.shape[1], mean.device)
        for part in _chunks(*mean.shape):
            factor = _square(factors[part].double(), lower)
            product = factor @ factor.mT
            product.diagonal(dim1=1, dim2=2).sub_(epsilon)
            scatter[part] = product.flatten(1).index_select(1, lower).mul_(count - 1)
        return cls(mean, count, scatter)

    def add(self, vectors: Tensor) -> None:
        """Add vectors [N, P, D], floating point."""
        new = len(vectors)
        total = self.count + new
        lower = _lower(vectors.shape[2], vectors.device)
        for part in _chunks(*self.mean.shape):
            batch = vectors[:, part].transpose(0, 1).double()
            centre = batch.mean(dim=1, keepdim=True)
            apart = centre - self.mean[part, None]
            rows = torch.cat([batch - centre, apart * math.sqrt(self.count * new / total)], dim=1)
            self.scatter[part] += (rows.mT @ rows).flatten(1).index_select(1, lower)
            self.mean[part] += apart[:, 0] * (new / total)
        self.count = total

    def factors(self, epsilon: float) -> Tensor | None:
        """Return the Cholesky factor of each covariance after adding `epsilon` to its diagonal.

        Returns
        -------
        Tensor or None
            float32 [P, D(D+1)/2], packed; None if rounding makes a covariance not positive definite.
        """
        out = self.scatter.new_empty(self.scatter.shape, dtype=torch.float32)
        lower = _lower(self.mean.shape[1], self.mean.device)
        for part in _chunks(*self.mean.shape):
            covariance = _square(self.scatter[part] / (self.count - 1), lower)
            covariance.diagonal(dim1=1, dim2=2).add_(epsilon)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if failed.any():
                return None
            out[part] = factor.flatten(1).index_select(1, lower)
        return out


def distances(vectors: Tensor, mean: Tensor, factors: Tensor) -> Tensor:
    """Return the Mahalanobis distances of vectors from the Gaussians of their positions.

    Parameters
    ----------
    vectors
        [B, P, D], floating point.
    mean
        float64 [P, D]; float32 would lose precision for values far from zero.
    factors
        float32 [P, D(D+1)/2], packed, from `Moments.factors`.

    Returns
    -------
    Tensor
        float32 [B, P].
    """
    out = factors.new_empty(vectors.shape[:2])
    lower = _lower(mean.shape[1], mean.device)
    for part in _chunks(*mean.shape):
        away = (vectors[:, part].transpose(0, 1) - mean[part, None]).float()
        white = torch.linalg.solve_triangular(_square(factors[part], lower), away.mT, upper=False)
        out[:, part] = torch.linalg.vector_norm(white, dim=1).T
    return out


def _lower(dims: int, device: torch.device) -> Tensor:
    """Return the indices of the lower triangle in a flattened square matrix."""
    place: Tensor = torch.arange(dims**2, device=device).view(dims, dims)
    return place[torch.ones_like(place, dtype=torch.bool).tril()]


def _square(triangles: Tensor, lower: Tensor) -> Tensor:
    """Return packed triangles [P, D(D+1)/2] as matrices [P, D, D], zero above the diagonal."""
    dims = math.isqrt(2 * triangles.shape[1])
    return triangles.new_zeros(len(triangles), dims**2).index_copy_(1, lower, triangles).view(-1, dims, dims)


def _chunks(positions: int, dims: int) -> Iterator[slice]:
    step = max(1, WORKSPACE // (8 * dims**2))
    return (slice(low, low + step) for low in range(0, positions, step))
