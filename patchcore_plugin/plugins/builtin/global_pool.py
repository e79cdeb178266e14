"""Aggregator `global-pool`: one vector per image, for methods that score whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import Aggregator, Patches
from patchcore_plugin.plugins.specs import AggregatorSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GlobalPoolConfig:
    """`global-pool` has no options."""


def global_pool(maps: Sequence[Tensor]) -> Patches:
    """Return the mean of each map over all positions.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, h_i, w_i].

    Returns
    -------
    Patches
        Grid [B, 1, 1, D] with D the sum of C_i, levels C_i, and the same vectors as image descriptors [B, D]. Each
        image is one row of a bank.

    Raises
    ------
    TensorError
        If the maps do not belong to one batch.
    """
    import torch

    # .shape[0], not len(): torch.export treats len() of a tensor as a constant.
    if not maps or any(features.ndim != 4 or features.shape[0] != maps[0].shape[0] for features in maps):
        raise TensorError(
            "aggregator 'global-pool': expected at least one map, all [B, C, H, W] of one batch, "
            f"got {[list(features.shape) for features in maps]}"
        )
    vectors = torch.cat([features.mean(dim=(2, 3)) for features in maps], dim=1)
    return Patches(vectors[:, None, None], vectors, tuple(features.shape[1] for features in maps))


def create(config: GlobalPoolConfig) -> Aggregator:
    """Return the aggregator."""
    return global_pool


@hookimpl
def patchcore_aggregators() -> list[AggregatorSpec]:
    """Provide `global-pool`."""
    return [
        AggregatorSpec(
            name="global-pool",
            config=GlobalPoolConfig,
            create=create,
            summary="mean of each layer over the whole image: one vector per image (DN2, Gaussian-AD)",
        )
    ]
