"""The authors' embedding as they formulate it, with unfolded patches: the specification of the fast one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, dims: int) -> Tensor:
    """Return patch vectors [B, h, w, dims] of feature maps [B, C_i, H_i, W_i], finest first.

    Each layer's patches are unfolded (channel-major, C x p x p values a position), upsampled bilinearly to the
    grid of the first layer and pooled to `dims` values; the layers' values are stacked and pooled to `dims`.
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
