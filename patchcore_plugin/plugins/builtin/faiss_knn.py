"""Scorer `faiss`: the scores of `knn` from an index of faiss, exact or, by name, approximate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, Lt

from patchcore_plugin.errors import ModelFileError, PluginError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import MemoryBank, Scorer
from patchcore_plugin.plugins.specs import ScorerSpec

from .knn import Knn, KnnConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ._faiss_rows import FaissRows
    from .knn import Search


@dataclass(frozen=True, kw_only=True)
class FaissConfig(KnnConfig):
    """Options of `faiss`: those of `knn`, and the index."""

    index: Literal["flat", "hnsw", "ivf"] = "flat"
    """flat gives knn's rows and scores; hnsw (a graph) and ivf (lists) may miss the nearest row."""
    m: Annotated[int, Ge(2), Le(1024)] = 32
    """Of hnsw: neighbours of each row in the graph."""
    ef_construction: Annotated[int, Ge(1), Lt(2**31)] = 40
    """Of hnsw: rows kept in view while the graph is built."""
    ef_search: Annotated[int, Ge(1), Lt(2**31)] = 64
    """Of hnsw: rows kept in view during a search; more find better and take longer."""
    nlist: Annotated[int, Ge(1)] | None = None
    """Of ivf: lists that the bank is divided into; None: four times the square root of its rows."""
    nprobe: Annotated[int, Ge(1)] = 8
    """Of ivf: lists that are searched; more find better and take longer, all of them find everything."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Of ivf: decides the lists."""


class FaissKnn(Knn):
    """`knn` with faiss to search the bank; see `_faiss_rows` for what is exact.

    The centroids of an index "ivf" are saved with the model. A graph "hnsw" is not: faiss reads a stored index
    without checking what is in it, and a model file must do no harm. It is built again on loading, in one
    thread, so that it is the same graph.
    """

    name = "faiss"
    _config: FaissConfig
    _search: FaissRows | None
    _centroids: Tensor | None = None

    def _make_search(self, vectors: Tensor) -> Search:
        from ._faiss_rows import FaissRows

        return FaissRows(vectors, self._config, self._centroids)

    def state(self) -> Mapping[str, Tensor]:
        """Return the centroids, float32 [nlist, D], of an index "ivf"; nothing for the others."""
        centroids = None if self._search is None else self._search.centroids
        return {} if centroids is None else {"centroids": centroids}

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Build the index again, an "ivf" with the centroids of the state."""
        if self._config.index == "ivf" and "centroids" not in state:
            raise ModelFileError("scorer 'faiss': the centroids of the index are missing; fit again")
        self._centroids = state.get("centroids")
        try:
            self.fit(bank)
        finally:
            self._centroids = None


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
            summary="knn by an index of faiss: flat (exact), hnsw or ivf; needs patchcore-plugin[faiss]",
        )
    ]
