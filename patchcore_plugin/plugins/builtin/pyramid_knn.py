"""Scorer `pyramid-knn`: patches compared with those of the most similar images only (SPADE).

Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences", arXiv 2005.02357.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.native import description
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
    """K, the most similar training images that an image is compared with; all of them where there are fewer."""


class PyramidKnn:
    """Distances to the K training images whose descriptors are nearest, and of patches to their nearest patch there.

    The image score is the mean distance to these descriptors (section 3.2), the map each patch's distance to the
    nearest patch at any position of these images, their gallery (section 3.3 with kappa = 1). Both are exact, ties to
    the lowest row. Galleries are searched one after the other, so that the bank is all that memory must hold; what
    makes a search of one fast is kept for the next images, and takes about a quarter of the bank once all were in play.
    For a bank in half precision, which is there to save memory, it is made anew for each batch.
    """

    def __init__(self, config: PyramidKnnConfig) -> None:
        self._config = config
        self._bank: MemoryBank | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Learn which rows of the bank are whose gallery.

        Raises
        ------
        TensorError
            If the bank has no descriptors of whole images, or an image of which no patch is kept.
        """
        import torch

        from patchcore_plugin.kernels.nearest import NearestRows

        if bank.descriptors is None or 0 in bank.descriptors.shape:
            raise _no_descriptors()
        images = len(bank.descriptors)
        number = bank.origin[:, 0]
        counts = number.bincount(minlength=images)
        missing = (counts == 0).nonzero()
        if len(missing):
            raise TensorError(
                f"scorer 'pyramid-knn': no patch of training image {int(missing[0])} is in the bank; choose sampler all"
            )
        self._bank = bank
        self._images = NearestRows(bank.descriptors)
        self._compared = min(self._config.images, images)
        self._lean = bank.vectors.element_size() < 4
        if self._compared == images and not self._lean:
            # All are in play, as one gallery: what is near in one image helps the search of the others.
            self._galleries = [torch.arange(len(number), device=number.device)]
        else:
            self._galleries = list(number.argsort(stable=True).split(counts.tolist()))
        self._searches: dict[int, NearestRows] = {}

    def state(self) -> Mapping[str, Tensor]:
        """Return nothing: the bank is all there is."""
        return {}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Fit again, which is cheap."""
        self.fit(bank)

    def __call__(self, patches: Patches) -> Scores:
        """Score images that have descriptors, and patches as long as the bank's."""
        import torch

        if self._bank is None:
            raise TensorError("scorer 'pyramid-knn': call fit or restore before scoring")
        if patches.descriptors is None:
            raise _no_descriptors()
        wanted = self._bank.vectors.shape[1], self._images.bank.shape[1]
        batch, height, width, dims = patches.grid.shape
        got = dims, patches.descriptors.shape[1]
        if got != wanted:
            raise TensorError(
                f"scorer 'pyramid-knn': expected patches of {wanted[0]} and descriptors of {wanted[1]} values "
                f"like the bank's, got {got[0]} and {got[1]}"
            )
        apart, images = self._images(patches.descriptors, self._compared)
        chosen = images if len(self._galleries) > 1 else torch.zeros_like(images[:, :1])
        queries = patches.grid.flatten(1, 2)
        distance = torch.full(queries.shape[:2], torch.inf, dtype=torch.float64, device=queries.device)
        nearest = torch.zeros(queries.shape[:2], dtype=torch.int64, device=queries.device)
        for gallery in chosen.unique().tolist():
            mine = (chosen == gallery).any(dim=1).nonzero().flatten()
            found, row = self._search(gallery, queries[mine].flatten(0, 1))
            found, row = found.view(len(mine), -1), row.view(len(mine), -1)
            closer = (found < distance[mine]) | ((found == distance[mine]) & (row < nearest[mine]))
            distance[mine] = torch.where(closer, found, distance[mine])
            nearest[mine] = torch.where(closer, row, nearest[mine])
        shape = batch, height, width
        return Scores(image=apart.mean(dim=1).float(), map=distance.view(shape).float(), nearest=nearest.view(shape))

    def _search(self, gallery: int, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance of queries [Q, D] to their nearest row of a gallery, float64 [Q], and that row."""
        from patchcore_plugin.kernels.nearest import NearestRows

        assert self._bank is not None
        rows = self._galleries[gallery]
        search = self._searches.get(gallery)
        if search is None:
            search = NearestRows(self._bank.vectors if len(self._galleries) == 1 else self._bank.vectors[rows])
            if not self._lean:
                self._searches[gallery] = search
        distance, place = search(queries)
        return distance[:, 0], rows[place[:, 0]]


def _no_descriptors() -> TensorError:
    return TensorError(
        "scorer 'pyramid-knn': expected descriptors of whole images, got none; "
        "choose an aggregator that gives them, such as average-pool with aggregator.image=last"
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
            kernels=description,
        )
    ]
