"""Built-in scorers in operations that torch.export can trace; imported by `export_module` of the scorers only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchcore_plugin.plugins.protocols import Patches, Scores

ROWS = 4096
"""Bank rows that patches are compared with at a time, which bounds memory."""
CANDIDATES = 2
"""Nearest rows by products for each patch; differences decide between them, because products are less accurate."""


class NearestModule(nn.Module):
    """Search of nearest rows: candidates by float32 products, the nearest of them by differences.

    The mean of the bank is subtracted first, because it would cost the products precision.

    Parameters
    ----------
    bank
        [M, D], floating point.
    """

    bank: Tensor
    centre: Tensor
    lengths: Tensor

    def __init__(self, bank: Tensor) -> None:
        super().__init__()
        bank = bank.double()
        centre = bank.mean(dim=0).float()
        self.register_buffer("centre", centre)
        self.register_buffer("bank", (bank - centre).float())
        self.register_buffer("lengths", self.bank.double().square().sum(dim=1).float())

    def subtract_centre(self, vectors: Tensor) -> Tensor:
        """Return vectors [..., D] minus the mean of the bank, float32."""
        return vectors.float() - self.centre

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return distance, float32 [Q], and row, int64 [Q], of centred queries [Q, D]."""
        keys, rows = self._candidates(queries, 0)
        for low in range(ROWS, len(self.bank), ROWS):
            more = self._candidates(queries, low)
            keys, rows = torch.cat([keys, more[0]], dim=1), torch.cat([rows, more[1]], dim=1)
            keys, place = keys.topk(min(CANDIDATES, keys.shape[1]), dim=1, largest=False)
            rows = rows.gather(1, place)
        distances = torch.stack([_distance(queries, self.bank[row]) for row in rows.unbind(dim=1)], dim=1)
        place = distances.argmin(dim=1, keepdim=True)
        return distances.gather(1, place)[:, 0], rows.gather(1, place)[:, 0]

    def _candidates(self, queries: Tensor, low: int) -> tuple[Tensor, Tensor]:
        """Return sort keys and numbers of the nearest of `ROWS` rows from `low` on, both [Q, CANDIDATES] at most."""
        keys = _products(queries, self.bank[low : low + ROWS], self.lengths[low : low + ROWS])
        least, place = keys.topk(min(CANDIDATES, keys.shape[1]), dim=1, largest=False)
        return least, place + low

    def nearest_rows(self, queries: Tensor, count: int) -> Tensor:
        """Return the `count` nearest rows of a few centred queries [Q, D] by products, int64 [Q, count]."""
        return _products(queries, self.bank, self.lengths).topk(count, dim=1, largest=False).indices


class KnnModule(NearestModule):
    """Scorer `knn` in float32 (arXiv 2106.08265, equations 6 and 7).

    Parameters
    ----------
    bank
        [M, D], floating point.
    neighbours, reweight, squared
        The options of `knn`.
    """

    def __init__(self, bank: Tensor, *, neighbours: int, reweight: bool, squared: bool) -> None:
        super().__init__(bank)
        self._neighbours = min(neighbours, len(bank)) if reweight else 1
        self._squared = squared

    def forward(self, patches: Patches) -> Scores:
        """Return the scores of patches."""
        batch, height, width, dims = patches.grid.shape
        queries = self.subtract_centre(patches.grid).flatten(1, 2)
        distance, row = (values.view(batch, -1) for values in self.nearest(queries.flatten(0, 1)))
        place = distance.argmax(dim=1, keepdim=True)
        image = distance.gather(1, place)[:, 0]
        if self._neighbours > 1:
            patch = queries.gather(1, place[:, :, None].expand(-1, 1, dims))
            around = self.nearest_rows(self.bank[row.gather(1, place)[:, 0]], self._neighbours)
            distances = _distance(patch, self.bank[around])
            image = -(image - distances.logsumexp(dim=1)).expm1() * image
        if self._squared:
            image, distance = image.square(), distance.square()
        shape = batch, height, width
        return Scores(image=image, map=distance.view(shape), nearest=row.view(shape))


class ImageKnnModule(NearestModule):
    """Scorer `image-knn`: mean distance to the nearest images.

    Parameters
    ----------
    bank
        [M, D], floating point.
    neighbours
        The option of `image-knn`.
    """

    def __init__(self, bank: Tensor, neighbours: int) -> None:
        super().__init__(bank)
        self._neighbours = min(neighbours, len(bank))

    def forward(self, patches: Patches) -> Scores:
        """Return the scores of images with a grid of 1 x 1."""
        queries = self.subtract_centre(patches.grid[:, 0, 0])
        near = self.bank[self.nearest_rows(queries, self._neighbours)]
        return Scores(image=_distance(queries[:, None], near).mean(dim=1))


class GaussianModule(nn.Module):
    """Scorer `gaussian`: Mahalanobis distance at each position.

    Parameters
    ----------
    mean
        float64 [h, w, D].
    factors
        Lower Cholesky factors of the covariances, rows of the lower triangle, float32 [h, w, D(D+1)/2].
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, mean: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.flatten(0, 1))
        dims = mean.shape[2]
        row, column = torch.tril_indices(dims, dims)
        square = factors.new_zeros(len(self.mean), dims, dims)
        square[:, row, column] = factors.flatten(0, 1)
        self.register_buffer("whitening", _inverse(square))

    def forward(self, patches: Patches) -> Scores:
        """Return the scores of patches on the grid of the means."""
        batch, height, width, _ = patches.grid.shape
        away = (patches.grid.flatten(1, 2) - self.mean).float()
        white = away.transpose(0, 1) @ self.whitening.mT
        distance = white.square().sum(dim=2).sqrt().T
        return Scores(image=distance.amax(dim=1), map=distance.view(batch, height, width))


class ImageGaussianModule(nn.Module):
    """Scorer `image-gaussian`: sum of the Mahalanobis distances of all levels.

    Parameters
    ----------
    levels
        Mean [D_i] and lower Cholesky factor [D_i, D_i] of each, float64.
    """

    def __init__(self, levels: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._sizes = [len(mean) for mean, _ in levels]
        for number, (mean, factor) in enumerate(levels):
            self.register_buffer(f"mean{number}", mean)
            self.register_buffer(f"whitening{number}", _inverse(factor))

    def forward(self, patches: Patches) -> Scores:
        """Return the scores of images with a grid of 1 x 1."""
        parts = patches.grid[:, 0, 0].double().split(self._sizes, dim=1)
        white = [
            (part - self.get_buffer(f"mean{number}")) @ self.get_buffer(f"whitening{number}").T
            for number, part in enumerate(parts)
        ]
        return Scores(image=torch.stack([level.square().sum(dim=1).sqrt() for level in white]).sum(dim=0).float())


def _products(queries: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    """Return squared distances minus the squared lengths of the queries, [Q, M]."""
    return lengths + (-2 * queries) @ rows.T


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=-1).sqrt()


def _inverse(factors: Tensor) -> Tensor:
    """Return the inverses of lower triangular matrices [..., D, D], computed in float64, in the dtype of the input."""
    identity = torch.eye(factors.shape[-1], dtype=torch.float64, device=factors.device)
    out = torch.empty_like(factors, memory_format=torch.contiguous_format)
    # One at a time: all together in float64 would take three times the memory.
    for factor, inverse in zip(factors.reshape(-1, *identity.shape), out.view(-1, *identity.shape), strict=True):
        inverse[:] = torch.linalg.solve_triangular(factor.double(), identity, upper=False)
    return out
