"""Scorer `faiss`: `knn` with a faiss index, exact or approximate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from patchcore_plugin.errors import ModelFileError, PluginError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import MemoryBank, Scorer
from patchcore_plugin.plugins.specs import ScorerSpec

from .knn import Knn, KnnConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .knn import Search

ROWS_PER_CALL = 100
"""faiss adds up to 100 rows to a graph with a single thread; with several, the graph would vary between runs."""


@dataclass(frozen=True, kw_only=True)
class FaissConfig(KnnConfig):
    """Options of `faiss`: those of `knn` and of the index."""

    index: Literal["flat", "hnsw", "ivf"] = "flat"
    """flat returns the scores of knn; hnsw (a graph) and ivf (lists) may miss the nearest row."""
    m: Annotated[int, Ge(2), Le(1024)] = 32
    """hnsw: number of neighbours of each row in the graph."""
    ef_construction: Annotated[int, Ge(1), Lt(2**31)] = 40
    """hnsw: size of the candidate list while the graph is built."""
    ef_search: Annotated[int, Ge(1), Lt(2**31)] = 64
    """hnsw: size of the candidate list of a search; larger is more accurate and slower."""
    nlist: Annotated[int, Ge(1)] | None = None
    """ivf: number of lists that the bank is divided into; None: four times the square root of its rows."""
    nprobe: Annotated[int, Ge(1)] = 8
    """ivf: number of lists that are searched; more are more accurate and slower, all of them are exact."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """ivf: random seed of the lists."""


class FaissKnn(Knn):
    """`knn` with a faiss index; see `_faiss_rows` for what is exact.

    The centroids of an ``ivf`` index are saved with the model. The graph of an ``hnsw`` index is not, because faiss
    does not validate the content of a stored index. Loading builds an equal graph with a single thread.
    """

    name = "faiss"
    _config: FaissConfig
    _centroids: Tensor | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Build the index of a bank.

        Raises
        ------
        TensorError
            If the bank is empty.
        """
        self._centroids = None
        super().fit(bank)

    def state(self) -> Mapping[str, Tensor]:
        """Return the centroids of an ``ivf`` index, float32 [nlist, D]; nothing for other indexes."""
        return {} if self._centroids is None else {"centroids": self._centroids}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Build the index again, an ``ivf`` index with the stored centroids.

        Raises
        ------
        ModelFileError
            If the centroids are missing or have another shape.
        """
        if self._config.index == "ivf":
            self._centroids = _checked_centroids(state.get("centroids"), bank.vectors)
        super().fit(bank)

    def _create_search(self, vectors: Tensor) -> Search:
        from ._faiss_rows import FaissRows

        return FaissRows(vectors, self._build_index, exhaustive=self._config.index == "flat")

    def _build_index(self, points: Any) -> Any:
        """Return a faiss index of float32 points [M, D]."""
        import faiss

        index: Any
        dims, options = points.shape[1], self._config
        if options.index == "flat":
            index = faiss.IndexFlatL2(dims)
            index.add(points)
            return index
        if options.index == "hnsw":
            index = faiss.IndexHNSWFlat(dims, options.m)
            index.hnsw.efConstruction = options.ef_construction
            index.hnsw.efSearch = options.ef_search
            for start in range(0, len(points), ROWS_PER_CALL):
                index.add(points[start : start + ROWS_PER_CALL])
            return index
        if self._centroids is None:
            self._centroids = _compute_centroids(points, options)
        quantiser = faiss.IndexFlatL2(dims)
        quantiser.add(self._centroids.numpy())
        index = faiss.IndexIVFFlat(quantiser, dims, len(self._centroids), faiss.METRIC_L2)
        index.train(points)  # required by faiss; leaves the quantiser as it is
        index.add(points)
        index.nprobe = min(options.nprobe, len(self._centroids))
        return index


def _compute_centroids(points: Any, config: FaissConfig) -> Tensor:
    import faiss
    import numpy as np
    import torch

    count = min(config.nlist or round(4 * len(points) ** 0.5), len(points))
    # min_points_per_centroid=1: otherwise faiss prints a warning for small banks.
    kmeans = faiss.Kmeans(
        points.shape[1], count, seed=config.seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=256
    )
    kmeans.train(points)
    return torch.from_numpy(np.array(kmeans.centroids, dtype=np.float32))


def _checked_centroids(centroids: Tensor | None, bank: Tensor) -> Tensor:
    import torch

    if centroids is None:
        raise ModelFileError("scorer 'faiss': the centroids of the index are missing; fit again")
    valid = centroids.dtype == torch.float32 and centroids.ndim == 2 and 1 <= len(centroids) <= len(bank)
    if not valid or centroids.shape[1] != bank.shape[1]:
        dtype = str(centroids.dtype).removeprefix("torch.")
        raise ModelFileError(
            f"scorer 'faiss': expected centroids float32 [1 to {len(bank)}, {bank.shape[1]}], "
            f"got {dtype} {list(centroids.shape)}; fit again"
        )
    return centroids.cpu()


def create(config: FaissConfig) -> Scorer:
    """Return the scorer.

    Raises
    ------
    PluginError
        If faiss is not installed.
    """
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise PluginError("scorer 'faiss' needs faiss: pip install 'patchcore-plugin[faiss]'") from error
    return FaissKnn(config)


@hookimpl
def patchcore_scorers() -> list[ScorerSpec]:
    """Provide `faiss`."""
    return [
        ScorerSpec(
            name="faiss",
            config=FaissConfig,
            create=create,
            summary="knn with a faiss index: flat (exact), hnsw or ivf; needs patchcore-plugin[faiss]",
            streaming=False,
        )
    ]
