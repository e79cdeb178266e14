"""Aggregator `average-pool`: locally aware patch embeddings of PatchCore, PaDiM and SPADE."""

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
    """Side p of the averaged neighbourhood, in positions of each map; odd."""
    stride: Annotated[int, Ge(1)] = 1
    """Step s between patches, in positions of each map."""
    embed_dim: Annotated[int, Ge(1)] | None = None
    """None concatenates the layers (the paper); a number pools them to that length (the authors' code: 1024)."""
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolation of coarser maps on the grid of the finest."""
    channels: Annotated[int, Ge(1)] | None = None
    """Number of concatenated values to keep, selected at random (PaDiM); None keeps all."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of that selection."""
    image: Literal["none", "last"] = "none"
    """last: use the mean of the last map as image descriptor (SPADE); that map is then not part of the patches."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16 halves the memory of patches, with a relative error of up to 1/2048; values up to 65,504 only."""

    def __post_init__(self) -> None:
        if self.patch_size % 2 == 0:
            raise ValueError(f"patch_size must be odd, got {self.patch_size}")
        if self.channels is not None and self.embed_dim is not None:
            raise ValueError("channels and embed_dim exclude each other; unset one of them")


class AveragePool:
    """Locally aware patch embeddings (arXiv 2106.08265, section 3.1, equations 1 to 3).

    Parameters
    ----------
    config
        The options.
    """

    def __init__(self, config: AveragePoolConfig) -> None:
        self._config = config
        self._selections: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, maps: Sequence[Tensor]) -> Patches:
        """Return patches on every s-th position of ``maps[0]``.

        Parameters
        ----------
        maps
            Feature maps [B, C_i, h_i, w_i], finest first.

        Returns
        -------
        Patches
            Grid [B, h, w, D] in the selected precision, levels unless `embed_dim` mixes them, and the image descriptors
            [B, C] if selected.

        Raises
        ------
        TensorError
            If the maps do not belong to one batch, or are too few or too small for the options.
        """
        from patchcore_plugin.kernels.embedding import adaptive_embedding, average_embedding

        if not maps:
            raise TensorError("aggregator 'average-pool': expected at least one feature map, got none")
        for features in maps:
            if features.ndim != 4 or features.shape[0] != maps[0].shape[0]:
                raise TensorError(
                    f"aggregator 'average-pool': expected maps [B, C, H, W] of one batch, "
                    f"got {[list(features.shape) for features in maps]}"
                )
        options = self._config
        descriptor = None
        if options.image == "last":
            if len(maps) == 1:
                raise TensorError(
                    "aggregator 'average-pool': the only map is the image descriptor, so none is left for patches; "
                    "add an earlier layer to backbone.layers, or set aggregator.image=none"
                )
            *maps, last = maps
            descriptor = last.mean(dim=(2, 3))
        levels = None
        if options.embed_dim is not None:
            grid = adaptive_embedding(maps, options.patch_size, options.stride, options.embed_dim, options.upsample)
        else:
            selection = None if options.channels is None else self._select_channels(maps, options.channels)
            grid = average_embedding(maps, options.patch_size, options.stride, options.upsample, selection)
            counts = [features.shape[1] for features in maps] if selection is None else map(len, selection)
            levels = tuple(counts)
        return Patches(grid.half() if options.precision == "fp16" else grid, descriptor, levels)

    def _select_channels(self, maps: Sequence[Tensor], count: int) -> list[Tensor]:
        """Return the selected channels of each map, ascending, int64 [K_i]; the same for all calls."""
        counts = tuple(features.shape[1] for features in maps)
        if counts not in self._selections:
            self._selections[counts] = self._draw_channels(counts, count)
        return [rows.to(features.device) for rows, features in zip(self._selections[counts], maps, strict=True)]

    def _draw_channels(self, counts: tuple[int, ...], count: int) -> list[Tensor]:
        import torch

        total = sum(counts)
        if count > total:
            raise TensorError(
                f"aggregator 'average-pool': the maps have {total} channels, fewer than the {count} to select; "
                f"set aggregator.channels to at most {total}, or add layers to backbone.layers"
            )
        generator = torch.Generator().manual_seed(self._config.seed)
        selected = torch.zeros(total, dtype=torch.bool)
        selected[torch.randperm(total, generator=generator)[:count]] = True
        return [part.nonzero().flatten() for part in selected.split(counts)]


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
            summary="average over p x p neighbourhoods, layers merged on the finest grid (as in the paper)",
        )
    ]
