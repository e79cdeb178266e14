"""Aggregator `average-pool`: the paper's locally aware patch features, and the authors' variant of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from patchcore_plugin.errors import TensorError
from patchcore_plugin.hookspecs import hookimpl
from patchcore_plugin.roles import Aggregator, Patches
from patchcore_plugin.specs import AggregatorSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AveragePoolConfig:
    """Options of `average-pool`."""

    patch_size: Annotated[int, Ge(1)] = 3
    """Side p of the neighbourhood that is averaged, in positions of each map; odd."""
    stride: Annotated[int, Ge(1)] = 1
    """Step s between patches, in positions of each map."""
    embed_dim: Annotated[int, Ge(1)] | None = None
    """None concatenates the layers (the paper); a number pools them to that many values (the authors' code: 1024)."""
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    """How coarser maps are brought to the grid of the finest."""

    def __post_init__(self) -> None:
        if self.patch_size % 2 == 0:
            raise ValueError(f"patch_size must be odd, got {self.patch_size}")


class AveragePool:
    """PatchCore's locally aware patch features (arXiv 2106.08265, section 3.1, equations 1 to 3)."""

    def __init__(self, config: AveragePoolConfig) -> None:
        self._config = config

    def __call__(self, maps: Sequence[Tensor]) -> Patches:
        """Return patches on the grid of ``maps[0]`` divided by the stride; float32 [B, h, w, D]."""
        from patchcore_plugin.kernels.embedding import adaptive_embedding, average_embedding

        if not maps:
            raise TensorError("aggregator 'average-pool': expected at least one feature map, got none")
        for features in maps:
            if features.ndim != 4 or features.shape[0] != maps[0].shape[0]:
                raise TensorError(
                    f"aggregator 'average-pool': expected maps [B, C, H, W] of one batch, "
                    f"got {[list(each.shape) for each in maps]}"
                )
        options = self._config
        if options.embed_dim is None:
            grid = average_embedding(maps, options.patch_size, options.stride, options.upsample)
        else:
            grid = adaptive_embedding(maps, options.patch_size, options.stride, options.embed_dim, options.upsample)
        return Patches(grid=grid)


def create(config: AveragePoolConfig) -> Aggregator:
    """Return the aggregator."""
    return AveragePool(config)


@hookimpl
def patchcore_aggregators() -> list[AggregatorSpec]:
    """Provide `average-pool`."""
    return [
        AggregatorSpec(
            name="average-pool",
            config=AveragePoolConfig,
            create=create,
            summary="average over p x p neighbourhoods, layers merged on the finest grid (the paper's)",
        )
    ]
