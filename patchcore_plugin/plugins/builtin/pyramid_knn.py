"""Scorer `pyramid-knn`: distances of patches to those of the most similar images only (SPADE).

Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences", arXiv 2005.02357.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scorer, Scores
from patchcore_plugin.plugins.specs import ScorerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from patchcore_plugin.kernels.nearest import NearestRows


@dataclass(frozen=True, kw_only=True)
class PyramidKnnConfig:
    """Options of `pyramid-knn`."""

    renamed_options: ClassVar[Mapping[str, str]] = {"photos": "images"}

    images: Annotated[int, Ge(1)] = 50
    """K, the number of most similar training images to compare an image with; all if there are fewer."""


class PyramidKnn:
    """Distances to the K nearest training images, and of patches to the nearest patch of these images.

    The image score is the mean distance of the image descriptors (section 3.2). The map has the distance of each patch
    to the nearest patch at any position of the K images, their gallery (section 3.3 with kappa = 1). Both are exact;
    ties go to the lowest row.

    Galleries are searched one after the other. Search structures are cached and take up to about a quarter of the bank
    in addition. For a bank in half precision, which saves memory, they are not cached.

    Parameters
    ----------
    config
        The options.
    """

    def __init__(self, config: PyramidKnnConfig) -> None:
        self._config = config
        self._bank: MemoryBank | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Group the rows of the bank by image.

        Raises
        ------
        TensorError
            If the bank has no image descriptors, or no patch of an image.
        """
        import torch

        from patchcore_plugin.kernels.nearest import NearestRows

        if bank.descriptors is None or 0 in bank.descriptors.shape:
            raise _missing_descriptors()
        images = len(bank.descriptors)
        number = bank.origin[:, 0]
        counts = number.bincount(minlength=images)
        missing = (counts == 0).nonzero()
        if len(missing):
            raise TensorError(
                f"scorer 'pyramid-knn': the bank has no patch of training image {int(missing[0])}; use sampler all"
            )
        self._bank = bank
        self._images = NearestRows(bank.descriptors)
        self._compared = min(self._config.images, images)
        self._is_half_precision = bank.vectors.element_size() < 4
        if self._compared == images and not self._is_half_precision:
            # All images form one gallery, which is faster to search than several.
            self._galleries = [torch.arange(len(number), device=number.device)]
        else:
            self._galleries = list(number.argsort(stable=True).split(counts.tolist()))
        self._searches: dict[int, NearestRows] = {}

    def state(self) -> Mapping[str, Tensor]:
        """Return no tensors: the bank is the whole state."""
        return {}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Group the rows of the bank, as `fit` does."""
        self.fit(bank)

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of images with descriptors, and of their patches.

        Raises
        ------
        TensorError
            Before `fit`, without descriptors, or if vectors have another length than those of the bank.
        """
        import torch

        if self._bank is None:
            raise TensorError("scorer 'pyramid-knn': call fit or restore before scoring")
        if patches.descriptors is None:
            raise _missing_descriptors()
        expected = self._bank.vectors.shape[1], self._images.bank.shape[1]
        batch, height, width, dims = patches.grid.shape
        actual = dims, patches.descriptors.shape[1]
        if actual != expected:
            raise TensorError(
                f"scorer 'pyramid-knn': expected patches of {expected[0]} and descriptors of {expected[1]} values "
                f"as in the bank, got {actual[0]} and {actual[1]}"
            )
        image_distance, images = self._images(patches.descriptors, self._compared)
        galleries = images if len(self._galleries) > 1 else torch.zeros_like(images[:, :1])
        queries = patches.grid.flatten(1, 2)
        distance = torch.full(queries.shape[:2], torch.inf, dtype=torch.float64, device=queries.device)
        nearest = torch.zeros(queries.shape[:2], dtype=torch.int64, device=queries.device)
        for gallery in galleries.unique().tolist():
            batch_rows = (galleries == gallery).any(dim=1).nonzero().flatten()
            best_of_batch, row = self._search(gallery, queries[batch_rows].flatten(0, 1))
            best_of_batch, row = best_of_batch.view(len(batch_rows), -1), row.view(len(batch_rows), -1)
            best = distance[batch_rows]
            closer = (best_of_batch < best) | ((best_of_batch == best) & (row < nearest[batch_rows]))
            distance[batch_rows] = torch.where(closer, best_of_batch, best)
            nearest[batch_rows] = torch.where(closer, row, nearest[batch_rows])
        shape = batch, height, width
        return Scores(
            image=image_distance.mean(dim=1).float(), map=distance.view(shape).float(), nearest=nearest.view(shape)
        )

    def _search(self, gallery: int, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q], and row, int64 [Q], of the nearest row of a gallery to queries [Q, D]."""
        from patchcore_plugin.kernels.nearest import NearestRows

        assert self._bank is not None
        rows = self._galleries[gallery]
        search = self._searches.get(gallery)
        if search is None:
            search = NearestRows(self._bank.vectors if len(self._galleries) == 1 else self._bank.vectors[rows])
            if not self._is_half_precision:
                self._searches[gallery] = search
        distance, place = search(queries)
        return distance[:, 0], rows[place[:, 0]]


def _missing_descriptors() -> TensorError:
    return TensorError(
        "scorer 'pyramid-knn': expected image descriptors, got none; "
        "choose an aggregator that returns them, such as average-pool with aggregator.image=last"
    )


def create(config: PyramidKnnConfig) -> Scorer:
    """Return the scorer."""
    return PyramidKnn(config)


@hookimpl
def patchcore_scorers() -> list[ScorerSpec]:
    """Provide `pyramid-knn`."""
    return [
        ScorerSpec(
            name="pyramid-knn",
            config=PyramidKnnConfig,
            create=create,
            summary="distance to the nearest patch of the K most similar images (SPADE)",
            kernels=describe,
            streaming=False,
        )
    ]
