"""Scorer `knn`: distance to the nearest normal patch, re-weighted by its neighbourhood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    Search = Callable[..., tuple[Tensor, Tensor]]
    """Takes queries [Q, D] and k (default 1); returns distance, float64 [Q, k], and row, int64 [Q, k]."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Options of `knn`."""

    neighbours: Annotated[int, Ge(2)] = 9
    """b, the number of bank rows nearest to the nearest row (itself included) that re-weight the image score."""
    reweight: bool = True
    """Re-weight the image score (the paper), or use the largest patch distance (the authors' code)."""
    squared: bool = False
    """Return squared distances, as faiss does; only without re-weighting."""

    def __post_init__(self) -> None:
        if self.squared and self.reweight:
            raise ValueError("squared distances cannot be re-weighted; set reweight=false")


class Knn:
    """Exact nearest-neighbour scores (arXiv 2106.08265, section 3.3, equations 6 and 7).

    Distances are computed from float64 differences; ties go to the lowest row. With p* the patch farthest from the bank
    and m* its nearest row, the image score is s = (1 - exp|p* - m*| / sum over m in N_b(m*) of exp|p* - m|) |p* - m*|,
    computed by log-sum-exp. A bank with fewer than b rows uses all of them. With a single row, s = |p* - m*|.

    Parameters
    ----------
    config
        The options.
    """

    name = "knn"
    """Name in messages."""

    def __init__(self, config: KnnConfig) -> None:
        self._config = config
        self._bank: MemoryBank | None = None
        self._search: Search | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Prepare the search of a bank.

        Raises
        ------
        TensorError
            If the bank is empty.
        """
        if 0 in bank.vectors.shape:
            raise TensorError(
                f"scorer {self.name!r}: expected at least one bank vector, got {list(bank.vectors.shape)}"
            )
        self._bank = bank
        self._search = self._create_search(bank.vectors)

    def _create_search(self, vectors: Tensor) -> Search:
        """Return the search of nearest rows; subclasses with another index override this."""
        from patchcore_plugin.kernels.nearest import NearestRows

        return NearestRows(vectors)

    def state(self) -> Mapping[str, Tensor]:
        """Return no tensors: the bank is the whole state."""
        return {}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Prepare the search of a bank, as `fit` does."""
        self.fit(bank)

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of patches.

        Raises
        ------
        TensorError
            If there is no bank, or its vectors have another length.
        """
        if self._bank is None or self._search is None:
            raise TensorError(f"scorer {self.name!r}: call fit or restore before scoring")
        dims = self._bank.vectors.shape[1]
        batch, height, width, length = patches.grid.shape
        if length != dims:
            raise TensorError(f"scorer {self.name!r}: expected patches of {dims} values as in the bank, got {length}")
        queries = patches.grid.reshape(-1, dims)
        distance, row = self._search(queries)
        distance, row = distance.view(batch, -1), row.view(batch, -1)
        largest, place = distance.max(dim=1)
        if self._config.reweight and len(self._bank.vectors) > 1:
            farthest = queries.view(batch, -1, dims).gather(1, place[:, None, None].expand(-1, 1, dims))[:, 0]
            image = self._reweight(farthest, largest, row.gather(1, place[:, None])[:, 0])
        else:
            image = largest
        if self._config.squared:
            image, distance = image.square(), distance.square()
        shape = batch, height, width
        return Scores(image=image.float(), map=distance.view(shape).float(), nearest=row.view(shape))

    def export_module(self) -> nn.Module:
        """Return a module with the same scores in float32; see `Scorer`.

        Raises
        ------
        TensorError
            If there is no bank.
        """
        if self._bank is None:
            raise TensorError(f"scorer {self.name!r}: call fit or restore before exporting")
        from ._export_modules import KnnModule

        options = self._config
        return KnnModule(
            self._bank.vectors, neighbours=options.neighbours, reweight=options.reweight, squared=options.squared
        )

    def _reweight(self, patch: Tensor, distance: Tensor, row: Tensor) -> Tensor:
        """Return equation 7 for patches [B, D] at `distance` [B] from bank rows [B]; float64 [B]."""
        from patchcore_plugin.kernels.screening import squared_distances

        assert self._bank is not None
        assert self._search is not None
        vectors = self._bank.vectors
        _, neighbours = self._search(vectors[row], min(self._config.neighbours, len(vectors)))
        distances = squared_distances(patch[:, None], vectors[neighbours]).sqrt()
        weight = -(distance - distances.logsumexp(dim=1)).expm1()
        return weight * distance


def create(config: KnnConfig) -> Scorer:
    """Return the scorer."""
    return Knn(config)


@hookimpl
def patchcore_scorers() -> list[ScorerSpec]:
    """Provide `knn`."""
    return [
        ScorerSpec(
            name="knn",
            config=KnnConfig,
            create=create,
            summary="exact distance to the nearest normal patch, re-weighted (as in the paper)",
            streaming=False,
            kernels=describe,
        )
    ]
