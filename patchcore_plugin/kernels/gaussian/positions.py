"""Gaussians learned by merging the moments of batches (Chan, Golub and LeVeque 1979), P positions, D values each.

Sums of products, from which a mean's square is taken at the end, cancel where values are far from zero. So each batch
is centred on its own mean before it is multiplied, and the distance between the two means is added as if it were one
more vector; the first batch has no old mean to be far from.

Moments are float64: they are divided by eigenvalues as small as epsilon, which magnifies their rounding by the
condition number of the covariance. The Cholesky factor has only its square root, and is kept in float32. Of symmetric
and triangular matrices the lower triangle is kept, by rows, D(D+1)/2 values; they are square in a chunk of positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

WORKSPACE = 2**25
"""Bytes of the square matrices of a chunk."""


def packed(dims: int) -> int:
    """Return how many values a triangle of `dims` rows has."""
    return dims * (dims + 1) // 2


class Moments:
    """Count, mean and scatter, the sum of (x - mean)(x - mean)^T, of the vectors at each position.

    Parameters
    ----------
    mean
        Of what is known already, [P, D]; zeros if it is nothing. Not changed.
    count
        How many vectors at each position that is.
    scatter
        Packed, float64 [P, D(D+1)/2]; zeros if not given. It is changed.
    """

    def __init__(self, mean: Tensor, count: int = 0, scatter: Tensor | None = None) -> None:
        positions, dims = mean.shape
        self.count = count
        self.mean = mean.to(torch.float64, copy=True)
        self.scatter = self.mean.new_zeros(positions, packed(dims)) if scatter is None else scatter

    @classmethod
    def of(cls, mean: Tensor, count: int, factors: Tensor, epsilon: float) -> Moments:
        """Return the moments whose `factors` these are, up to the rounding of float32."""
        scatter = factors.new_empty(factors.shape, dtype=torch.float64)
        lower = _lower(mean.shape[1], mean.device)
        for part in _chunks(*mean.shape):
            factor = _square(factors[part].double(), lower)
            product = factor @ factor.mT
            product.diagonal(dim1=1, dim2=2).sub_(epsilon)
            scatter[part] = product.flatten(1).index_select(1, lower).mul_(count - 1)
        return cls(mean, count, scatter)

    def add(self, vectors: Tensor) -> None:
        """Learn from vectors [N, P, D]."""
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
        """Return the Cholesky factor of each covariance with `epsilon` added to its diagonal.

        Returns
        -------
        Tensor or None
            Packed, float32 [P, D(D+1)/2]; None if rounding leaves a covariance that is not positive definite.
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
    """Return the Mahalanobis distance of vectors from the Gaussian of their position.

    Parameters
    ----------
    vectors
        [B, P, D].
    mean
        float64 [P, D], so that nothing is lost where values are far from zero.
    factors
        Packed, float32 [P, D(D+1)/2], as `Moments.factors` returns them.

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
    """Return where the lower triangle's values stand in a square matrix that is written out by rows."""
    place: Tensor = torch.arange(dims**2, device=device).view(dims, dims)
    return place[torch.ones_like(place, dtype=torch.bool).tril()]


def _square(triangles: Tensor, lower: Tensor) -> Tensor:
    """Return packed triangles [P, D(D+1)/2] as matrices [P, D, D], zero above the diagonal."""
    dims = math.isqrt(2 * triangles.shape[1])
    return triangles.new_zeros(len(triangles), dims**2).index_copy_(1, lower, triangles).view(-1, dims, dims)


def _chunks(positions: int, dims: int) -> Iterator[slice]:
    step = max(1, WORKSPACE // (8 * dims**2))
    return (slice(low, low + step) for low in range(0, positions, step))
