"""Aggregator `global-pool`: one vector for a whole image, for methods that judge images as wholes."""

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
    """Average each map over all its positions.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, h_i, w_i].

    Returns
    -------
    Patches
        Grid [B, 1, 1, D] with D the sum of C_i, levels C_i, and the same vectors as descriptors [B, D]. So an image is
        one row of a bank.

    Raises
    ------
    TensorError
        If these are no maps of one batch.
    """
    import torch

    # Of the shape: torch.export takes a tensor's len for a constant.
    if not maps or any(features.ndim != 4 or features.shape[0] != maps[0].shape[0] for features in maps):
        raise TensorError(
            "aggregator 'global-pool': expected at least one map, all [B, C, H, W] of one batch, "
            f"got {[list(each.shape) for each in maps]}"
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
            summary="average of each layer over the whole image: one vector an image (DN2, Gaussian-AD)",
        )
    ]
