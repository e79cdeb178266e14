"""The embedding of the PatchCore authors with unfolded patches: the definition of the result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, dims: int) -> Tensor:
    """Return the patch embeddings of feature maps.

    The patches of each layer are unfolded (channel-major, C x p x p values per position), upsampled bilinearly to the
    grid of the first layer and pooled to `dims` values. The values of all layers are stacked and pooled to `dims`.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, H_i, W_i], finest first.
    patch_size
        p, odd.
    stride
        s; the grid is that of the first map divided by s.
    dims
        Values per patch.

    Returns
    -------
    Tensor
        [B, h, w, dims].
    """
    layers: list[Tensor] = []
    for features in maps:
        batch, channels, height, width = features.shape
        padding = (patch_size - 1) // 2
        patches = F.unfold(features, patch_size, padding=padding, stride=stride)
        rows, columns = ((size + 2 * padding - patch_size) // stride + 1 for size in (height, width))
        patches = patches.view(batch, channels * patch_size**2, rows, columns)
        if layers:
            patches = F.interpolate(patches, size=layers[0].shape[1:3], mode="bilinear", align_corners=False)
        layers.append(_pool(patches.permute(0, 2, 3, 1), dims))
    return _pool(torch.cat(layers, dim=-1), dims)


def _pool(grid: Tensor, dims: int) -> Tensor:
    batch, height, width, _ = grid.shape
    return F.adaptive_avg_pool1d(grid.flatten(1, 2), dims).view(batch, height, width, dims)
