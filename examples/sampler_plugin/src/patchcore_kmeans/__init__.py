"""Sampler `k-means` for patchcore-plugin: keep the patch nearest to the centre of each cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

import patchcore_plugin as pp

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Config", "patchcore_samplers"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of `k-means`."""

    ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """Number of clusters per patch; one patch of each cluster is kept."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of clusters, instead of `ratio`; at most the number of patches."""
    batch_size: Annotated[int, Ge(1)] = 1024
    """Number of patches in a batch."""
    epochs: Annotated[int, Ge(1)] = 5
    """How often each patch is used, on average."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Random seed of the first centres and of the batches."""


def create(config: Config) -> pp.Sampler:
    """Return the sampler."""
    import torch
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin

    def k_means(vectors: Tensor) -> Tensor:
        """Return the selected rows of `vectors` [N, D], int64 [M], without repetition, in the order of the clusters."""
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise pp.TensorError(
                f"sampler 'k-means': expected vectors [N, D], N and D at least 1, got {list(vectors.shape)}"
            )
        points = vectors.detach().cpu().float().numpy()
        clusters = MiniBatchKMeans(
            n_clusters=min(config.count or math.ceil(config.ratio * len(points)), len(points)),
            batch_size=config.batch_size,
            max_iter=config.epochs,
            max_no_improvement=None,  # its sum depends on the order of threads
            n_init=1,
            random_state=config.seed,
        ).fit(points)
        nearest = pairwise_distances_argmin(clusters.cluster_centers_, points)
        return torch.tensor(list(dict.fromkeys(nearest.tolist())), dtype=torch.int64, device=vectors.device)

    return k_means


@pp.hookimpl
def patchcore_samplers() -> list[pp.SamplerSpec]:
    """Provide `k-means`."""
    return [
        pp.SamplerSpec(
            name="k-means",
            config=Config,
            create=create,
            summary="the patch nearest to the centre of each cluster",
            keeps_all=False,
            reduces=False,
        )
    ]
