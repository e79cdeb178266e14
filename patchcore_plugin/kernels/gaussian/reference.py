"""The Mahalanobis distance from all vectors at once: the definition of the result."""

from __future__ import annotations

import torch
from torch import Tensor


def mahalanobis(vectors: Tensor, queries: Tensor, epsilon: float) -> Tensor:
    """Return the Mahalanobis distance of each query from the Gaussian of its position.

    Parameters
    ----------
    vectors
        [N, P, D], floating point: N vectors, at least 2, at each of P positions.
    queries
        [B, P, D], floating point.
    epsilon
        Added to the diagonal of each covariance.

    Returns
    -------
    Tensor
        float64 [B, P].
    """
    vectors, queries = vectors.double(), queries.double()
    ridge = epsilon * torch.eye(vectors.shape[2], dtype=torch.float64, device=vectors.device)
    columns = []
    for place in range(vectors.shape[1]):
        inverse = torch.linalg.inv(vectors[:, place].T.cov().view_as(ridge) + ridge)
        away = queries[:, place] - vectors[:, place].mean(dim=0)
        columns.append(((away @ inverse) * away).sum(dim=1).sqrt())
    return torch.stack(columns, dim=1)
