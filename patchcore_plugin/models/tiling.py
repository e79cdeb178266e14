"""Patches of a large image, tile by tile: the network processes small tiles, all later stages see one grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.protocols import Patches


def tile_patches(
    images: Tensor, tile: tuple[int, int], overlap: int, patches_of: Callable[[Tensor], Patches]
) -> Patches:
    """Return the patches of images that the network processes tile by tile.

    The grids of the tiles are combined into one grid of the whole image, so that no later stage depends on tiles.
    Where tiles overlap, features are averaged with weights that fall towards the border of a tile, where the network
    sees padding in place of the image; this avoids seams.

    Parameters
    ----------
    images
        [B, 3, H, W].
    tile
        Height and width of a tile, at most H and W.
    overlap
        Minimum overlap of neighbouring tiles, in pixels.
    patches_of
        Returns the patches of images [B, 3, *tile].

    Returns
    -------
    Patches
        One grid for all tiles; image descriptors are means over the tiles.

    Raises
    ------
    TensorError
        If the image cannot be covered by tiles whose patches fall on one grid.
    """
    batch, _, *size = images.shape
    patches = patches_of(images[:, :, : tile[0], : tile[1]])
    _, height, width, dims = patches.grid.shape
    cells = [_cell(size[i], tile[i], patches.grid.shape[1 + i]) for i in range(2)]
    rows, columns = (_starts(size[i] // cells[i], tile[i] // cells[i], overlap // cells[i]) for i in range(2))
    whole = patches.grid.new_zeros(batch, size[0] // cells[0], size[1] // cells[1], dims)
    weights = whole.new_zeros(whole.shape[1], whole.shape[2], 1)
    descriptors = []
    for row in rows:
        for column in columns:
            if row or column:
                top, left = row * cells[0], column * cells[1]
                patches = patches_of(images[:, :, top : top + tile[0], left : left + tile[1]])
            down = _ramp(height, row > 0, row + height < whole.shape[1], overlap // cells[0])
            across = _ramp(width, column > 0, column + width < whole.shape[2], overlap // cells[1])
            weight = (down[:, None] * across)[..., None].to(whole)
            rows_of_tile, columns_of_tile = slice(row, row + height), slice(column, column + width)
            whole[:, rows_of_tile, columns_of_tile] += weight * patches.grid
            weights[rows_of_tile, columns_of_tile] += weight
            if patches.descriptors is not None:
                descriptors.append(patches.descriptors)
    image = torch.stack(descriptors).mean(dim=0) if descriptors else None
    return Patches(whole / weights, image, patches.levels)


def _cell(length: int, part: int, patches: int) -> int:
    """Return the side of a patch in pixels; tiles start at multiples of it."""
    cell = part // patches
    if part != cell * patches or length % cell:
        raise TensorError(
            f"tiles: {patches} patches to a tile of {part} pixels, and an input of {length}, have no common grid; use "
            "multiples of the backbone's stride for preprocessing.tile and preprocessing.size"
        )
    return cell


def _starts(length: int, part: int, overlap: int) -> list[int]:
    """Return the first patch of each tile, evenly spaced from border to border."""
    count = max(1, math.ceil((length - overlap) / (part - overlap)))
    return [round(i * (length - part) / max(1, count - 1)) for i in range(count)]


def _ramp(count: int, before: bool, after: bool, overlap: int) -> Tensor:
    """Return weights [count] that fall towards the ends with a neighbouring tile.

    The outermost quarter of the overlap has weight 0, because padding distorts features there the most.
    """
    margin = overlap // 4
    rising = (torch.arange(1, count + 1) - margin).clamp(0, overlap - 2 * margin + 1) / (overlap - 2 * margin + 1)
    weights = torch.ones(count)
    if before:
        weights = torch.minimum(weights, rising)
    if after:
        weights = torch.minimum(weights, rising.flip(0))
    return weights
