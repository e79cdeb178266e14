"""Aggregator `average-pool`: PatchCore's locally aware patch features, and what its relatives make of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import Aggregator, Patches
from patchcore_plugin.plugins.specs import AggregatorSpec

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
    channels: Annotated[int, Ge(1)] | None = None
    """Keep so many of the concatenated values, chosen at random (PaDiM); None keeps all."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Decides which."""
    image: Literal["none", "last"] = "none"
    """Whether the mean of the last map describes the whole image (SPADE); that map is then no part of the patches."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16 keeps patches in half the memory, each value rounded by up to 1/2048 of itself; up to 65,504 only."""

    def __post_init__(self) -> None:
        if self.patch_size % 2 == 0:
            raise ValueError(f"patch_size must be odd, got {self.patch_size}")
        if self.channels is not None and self.embed_dim is not None:
            raise ValueError("channels are chosen of the concatenated layers; leave embed_dim unset, or channels")


class AveragePool:
    """PatchCore's locally aware patch features (arXiv 2106.08265, section 3.1, equations 1 to 3)."""

    def __init__(self, config: AveragePoolConfig) -> None:
        self._config = config
        self._choices: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, maps: Sequence[Tensor]) -> Patches:
        """Return patches on the grid of ``maps[0]`` divided by the stride.

        Returns
        -------
        Patches
            Grid [B, h, w, D] in the precision asked for, levels unless layers are pooled together, and the descriptor
            [B, C] of the last map if there is to be one.

        Raises
        ------
        TensorError
            If these are no maps of one batch, or too few maps or channels for the options.
        """
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
        descriptor = None
        if options.image == "last":
            if len(maps) == 1:
                raise TensorError(
                    "aggregator 'average-pool': the last map describes the image, and none is left for the patches; "
                    "add an earlier one to backbone.layers, or set aggregator.image=none"
                )
            *maps, last = maps
            descriptor = last.mean(dim=(2, 3))
        levels = None
        if options.embed_dim is not None:
            grid = adaptive_embedding(maps, options.patch_size, options.stride, options.embed_dim, options.upsample)
        else:
            chosen = None if options.channels is None else self._chosen(maps, options.channels)
            grid = average_embedding(maps, options.patch_size, options.stride, options.upsample, chosen)
            levels = tuple(each.shape[1] for each in maps) if chosen is None else tuple(len(each) for each in chosen)
        return Patches(grid.half() if options.precision == "fp16" else grid, descriptor, levels)

    def _chosen(self, maps: Sequence[Tensor], count: int) -> list[Tensor]:
        """Return which channels of each map stay, ascending, int64 [K_i]; drawn once."""
        counts = tuple(features.shape[1] for features in maps)
        if counts not in self._choices:
            self._choices[counts] = self._drawn(counts, count)
        return [each.to(features.device) for each, features in zip(self._choices[counts], maps, strict=True)]

    def _drawn(self, counts: tuple[int, ...], count: int) -> list[Tensor]:
        import torch

        total = sum(counts)
        if count > total:
            raise TensorError(
                f"aggregator 'average-pool': {count} channels are asked for, and the maps have {total}; "
                f"set aggregator.channels to at most {total}, or add to backbone.layers"
            )
        generator = torch.Generator().manual_seed(self._config.seed)
        kept = torch.zeros(total, dtype=torch.bool)
        kept[torch.randperm(total, generator=generator)[:count]] = True
        return [part.nonzero().flatten() for part in kept.split(counts)]


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
