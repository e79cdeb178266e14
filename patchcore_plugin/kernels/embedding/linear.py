"""Both embeddings as the small linear maps that they are, applied before the upsampling.

Pooling over a neighbourhood, pooling over channels and bilinear upsampling are linear, and the first two
act on every position alike, so the order may be changed: pool each layer on its own, coarser, grid and upsample
the few values that are left. No unfolded patch is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def average_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, upsample: str) -> Tensor:
    """Average each map over p x p neighbourhoods, upsample to the first map's grid, and concatenate.

    Zero padding counts as values, as in ``AvgPool2d(p, s, (p - 1) // 2)``.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, H_i, W_i], finest first.
    patch_size
        p, odd.
    stride
        s; the grid is that of the first map, divided by s.
    upsample
        "bilinear" (the paper) or "nearest".

    Returns
    -------
    Tensor
        [B, h, w, sum of C_i], contiguous.
    """
    pooled = [F.avg_pool2d(features, patch_size, stride, (patch_size - 1) // 2) for features in maps]
    return _merge(pooled, [slice(0, features.shape[1]) for features in maps], upsample, stack=True)


def adaptive_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, dims: int, upsample: str) -> Tensor:
    """Return the authors' embedding, that of `reference.unfold_embedding`, [B, h, w, dims], contiguous.

    Their two adaptive poolings together average, for each output, a run of the C x p x p values of a patch.
    A run touches few channels (two or three for common networks), so the layer's outputs are a sum of
    as many depthwise convolutions over selected channels.
    """
    outputs, places = [], []
    for layer, features in enumerate(maps):
        place, slots = _slots(features.shape[1], patch_size, len(maps), layer, dims)
        total: Tensor | None = None
        for channels, weights in slots:
            selected = features if channels is None else features[:, channels.to(features.device)]
            part = F.conv2d(
                selected,
                weights.to(features.device, features.dtype),
                stride=stride,
                padding=(patch_size - 1) // 2,
                groups=len(weights),
            )
            total = part if total is None else total.add_(part)
        assert total is not None
        outputs.append(total)
        places.append(place)
    return _merge(outputs, places, upsample, stack=False)


def _merge(maps: Sequence[Tensor], places: Sequence[slice], upsample: str, *, stack: bool) -> Tensor:
    """Bring maps to the first one's grid and lay them side by side (stack), or add them at their places."""
    batch, _, height, width = maps[0].shape
    sizes = [place.stop - place.start for place in places]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))] if stack else [place.start for place in places]
    dims = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
    out = maps[0].new_zeros(batch, height, width, dims)
    for features, offset, size in zip(maps, offsets, sizes, strict=True):
        if features.shape[2:] != (height, width):
            align = False if upsample == "bilinear" else None
            features = F.interpolate(features, size=(height, width), mode=upsample, align_corners=align)
        out[..., offset : offset + size] += features.permute(0, 2, 3, 1)
    return out


def pooling_matrix(inputs: int, outputs: int) -> Tensor:
    """Return the matrix [outputs, inputs], float64, of adaptive average pooling.

    Output i averages the inputs from floor(i n / o) to ceil((i + 1) n / o) - 1.
    """
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    for i in range(outputs):
        low, high = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        matrix[i, low:high] = 1.0 / (high - low)
    return matrix


@lru_cache(maxsize=32)
def _slots(
    channels: int, patch_size: int, layers: int, layer: int, dims: int
) -> tuple[slice, list[tuple[Tensor | None, Tensor]]]:
    """Return where the outputs of a layer go, and its depthwise convolutions.

    Each is a choice of input channel per output ([O] int64, None for the identity), with weights [O, 1, p, p].
    """
    taps = patch_size**2
    stacked = pooling_matrix(layers * dims, dims)[:, layer * dims : (layer + 1) * dims]
    used = stacked.any(dim=1).nonzero().flatten()
    place = slice(int(used[0]), int(used[-1]) + 1)
    weights = (stacked[place] @ pooling_matrix(channels * taps, dims)).view(-1, channels, taps)
    touched = weights.any(dim=2)
    first = touched.int().argmax(dim=1)
    slots: list[tuple[Tensor | None, Tensor]] = []
    for step in range(int(touched.sum(dim=1).max())):
        chosen = (first + step).clamp(max=channels - 1)
        kernel = weights[torch.arange(len(first)), chosen]
        kernel[first + step > channels - 1] = 0.0
        identity = torch.equal(chosen, torch.arange(channels))
        kernel = kernel.view(-1, 1, patch_size, patch_size).float()
        slots.append((None if identity else chosen, kernel))
    return place, slots
