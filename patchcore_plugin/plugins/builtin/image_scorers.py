"""Scorers `image-knn` and `image-gaussian`: scores of whole images from one vector each, without a map.

Bergman, Cohen and Hoshen, "Deep Nearest Neighbor Anomaly Detection", arXiv 2002.10445 (DN2); Rippel, Mertens and
Merhof, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection", arXiv 2005.14140
(Gaussian-AD). A bank has one row per image, for example from aggregator `global-pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scorer, Scores
from patchcore_plugin.plugins.specs import ScorerSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from patchcore_plugin.kernels.nearest import NearestRows

SMALLEST_PIVOT = 1e-10
"""Squared pivots below this, in units of the mean variance, are rounding errors."""


@dataclass(frozen=True, kw_only=True)
class ImageKnnConfig:
    """Options of `image-knn`."""

    neighbours: Annotated[int, Ge(1)] = 2
    """k, the number of nearest training images whose distances are averaged; all if there are fewer."""


@dataclass(frozen=True, kw_only=True)
class ImageGaussianConfig:
    """`image-gaussian` has no options."""


class ImageKnn:
    """Mean Euclidean distance to the k nearest training images, exact (arXiv 2002.10445).

    Parameters
    ----------
    config
        The options.
    """

    def __init__(self, config: ImageKnnConfig) -> None:
        self._config = config
        self._search: NearestRows | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Prepare the search of a bank with one row per image.

        Raises
        ------
        TensorError
            If the bank is empty or has several rows per image.
        """
        from patchcore_plugin.kernels.nearest import NearestRows

        _check_bank("image-knn", bank, images=1)
        self._search = NearestRows(bank.vectors)

    def state(self) -> Mapping[str, Tensor]:
        """Return no tensors: the bank is the whole state."""
        return {}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Prepare the search of a bank, as `fit` does."""
        self.fit(bank)

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of images with a grid of 1 x 1, without a map.

        Raises
        ------
        TensorError
            Before `fit`, or if patches have another grid or length.
        """
        if self._search is None:
            raise TensorError("scorer 'image-knn': call fit or restore before scoring")
        rows, dims = self._search.bank.shape
        distance, _ = self._search(_image_vectors("image-knn", patches, dims), min(self._config.neighbours, rows))
        return Scores(image=distance.mean(dim=1).float())

    def export_module(self) -> nn.Module:
        """Return a module with the same scores as this scorer.

        Raises
        ------
        TensorError
            If the scorer is not fitted.
        """
        if self._search is None:
            raise TensorError("scorer 'image-knn': call fit or restore before exporting")
        from ._export_modules import ImageKnnModule

        return ImageKnnModule(self._search.bank, self._config.neighbours)


class ImageGaussian:
    """Sum over all levels of the Mahalanobis distance to the training images (arXiv 2005.14140).

    The covariance of a level is shrunk by the method of Ledoit and Wolf, so it can be inverted even with fewer images
    than values. Its Cholesky factor L and the distance |L^-1 (x - mean)| are computed in float64.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[Tensor, Tensor]] = []

    def fit(self, bank: MemoryBank) -> None:
        """Fit a Gaussian for each level of the bank, or a single one without levels.

        Raises
        ------
        TensorError
            If there are fewer than 3 images, or a level varies too little.
        """
        # Two images are symmetric about their mean: Ledoit and Wolf's estimate of the error is 0 and nothing is shrunk.
        _check_bank("image-gaussian", bank, images=3)
        parts = bank.vectors.double().split(bank.levels or (bank.vectors.shape[1],), dim=1)
        self._levels = [_gaussian(number, part) for number, part in enumerate(parts)]

    def state(self) -> Mapping[str, Tensor]:
        """Return mean [D_i] and lower Cholesky factor [D_i, D_i] of each level, float64."""
        return {
            f"{name}.{number}": tensor
            for number, level in enumerate(self._levels)
            for name, tensor in zip(("mean", "factor"), level, strict=True)
        }

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Restore the Gaussians from `state`; the bank is not used."""
        self._levels = [(state[f"mean.{number}"], state[f"factor.{number}"]) for number in range(len(state) // 2)]

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of images with a grid of 1 x 1, without a map.

        Raises
        ------
        TensorError
            Before `fit`, or if patches have another grid or length.
        """
        import torch

        if not self._levels:
            raise TensorError("scorer 'image-gaussian': call fit or restore before scoring")
        sizes = [len(mean) for mean, _ in self._levels]
        parts = _image_vectors("image-gaussian", patches, sum(sizes)).double().split(sizes, dim=1)
        distances = [
            torch.linalg.solve_triangular(factor, (part - mean).T, upper=False).norm(dim=0)
            for part, (mean, factor) in zip(parts, self._levels, strict=True)
        ]
        return Scores(image=torch.stack(distances).sum(dim=0).float())

    def export_module(self) -> nn.Module:
        """Return a module with the same scores as this scorer, and inverted factors.

        Raises
        ------
        TensorError
            If the scorer is not fitted.
        """
        if not self._levels:
            raise TensorError("scorer 'image-gaussian': call fit or restore before exporting")
        from ._export_modules import ImageGaussianModule

        return ImageGaussianModule(self._levels)


def _gaussian(number: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and Cholesky factor of the values [P, D_i] of a level."""
    import torch
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf().fit(vectors.cpu().numpy())
    mean, covariance = (
        torch.from_numpy(array).to(vectors.device) for array in (estimate.location_, estimate.covariance_)
    )
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    if int(failed) or float(pivots.min()) <= SMALLEST_PIVOT * float(covariance.diagonal().mean()):
        raise TensorError(
            f"scorer 'image-gaussian': the {len(vectors)} images vary too little in level {number + 1} to estimate a "
            "covariance; fit on more images that differ"
        )
    return mean, factor


def _check_bank(name: str, bank: MemoryBank, *, images: int) -> None:
    rows, dims = bank.vectors.shape
    if bank.origin[:, 1:].any():
        raise _grid_error(name, [int(side) + 1 for side in bank.origin[:, 1:].amax(dim=0)])
    if rows < images or not dims:
        raise TensorError(f"scorer {name!r}: expected vectors [P, D] of P >= {images} images, got {[rows, dims]}")


def _image_vectors(name: str, patches: Patches, dims: int) -> Tensor:
    """Return the vectors [B, D] of images with a grid of 1 x 1."""
    _, height, width, length = patches.grid.shape
    if (height, width) != (1, 1):
        raise _grid_error(name, (height, width))
    if length != dims:
        raise TensorError(f"scorer {name!r}: expected vectors of {dims} values as in the bank, got {length}")
    return patches.grid[:, 0, 0]


def _grid_error(name: str, grid: Sequence[int]) -> TensorError:
    return TensorError(
        f"scorer {name!r}: expected one vector per image, got patches on a grid of {grid[0]} x {grid[1]}; "
        "choose aggregator global-pool"
    )


def create_knn(config: ImageKnnConfig) -> Scorer:
    """Return the scorer `image-knn`."""
    return ImageKnn(config)


def create_gaussian(config: ImageGaussianConfig) -> Scorer:
    """Return the scorer `image-gaussian`."""
    return ImageGaussian()


@hookimpl
def patchcore_scorers() -> list[ScorerSpec]:
    """Provide `image-knn` and `image-gaussian`."""
    return [
        ScorerSpec(
            name="image-knn",
            config=ImageKnnConfig,
            create=create_knn,
            summary="whole images: mean distance to the k nearest (DN2); needs aggregator global-pool",
            kernels=describe,
            streaming=False,
        ),
        ScorerSpec(
            name="image-gaussian",
            config=ImageGaussianConfig,
            create=create_gaussian,
            summary="whole images: Mahalanobis distance, all levels (Gaussian-AD); needs aggregator global-pool",
            streaming=False,
        ),
    ]
